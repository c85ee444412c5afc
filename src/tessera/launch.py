"""From a recipe to a run: build the parts, check them all, and only then write anything."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tessera.algorithms import Algorithm, build
from tessera.algorithms.registry import idle_keys
from tessera.core.errors import UserError
from tessera.core.launcher import lacks_others
from tessera.core.types import Problem
from tessera.environments.settings import contents
from tessera.policy.load import Policy, load_policy, resolve_device
from tessera.policy.quantized import is_quantized
from tessera.policy.sharded import shard
from tessera.recipe import Recipe
from tessera.reports.follower import Follower
from tessera.reports.run import RunFolder
from tessera.rollout.collect import Collector
from tessera.rollout.engine import Engine
from tessera.rollout.engines import InProcess, open_engine
from tessera.rollout.episodes import open_tools
from tessera.tasks.base import LoadedTask
from tessera.tasks.data import locate
from tessera.tasks.registry import load_task
from tessera.tracking.observer import tracking
from tessera.tracking.settings import check_installed
from tessera.training.context import Observer, RunContext
from tessera.training.curriculum import make_sampler
from tessera.training.examples import Example, examples, rows
from tessera.training.interrupt import Interrupt, Interrupted
from tessera.training.pipeline import Pipeline
from tessera.training.ranks import Ranks, processes
from tessera.training.settings import EvalStage, RLStage, SFTStage, Stage
from tessera.training.shared import SharedCollector
from tessera.training.stages import harvests, settle

log = logging.getLogger("tessera")

IN_MEMORY = "in_memory"  # the name of a task that tessera.train makes of rows


@dataclass(frozen=True)
class Prepared:
    """A recipe whose names, settings and data have been read and agree; no model is loaded yet.

    `stages` are the recipe's, settled; `algorithms` and `learns` (what an SFT stage learns, as far as that is known
    before the run) go with them.
    """

    recipe: Recipe
    task: LoadedTask
    stages: tuple[Stage, ...]
    algorithms: tuple[Algorithm | None, ...]
    learns: tuple[tuple[Example, ...], ...]

    @property
    def fingerprint(self) -> str:
        """Of the recipe and the data it read."""
        task, learnt = self.task, (example.problem for stage in self.learns for example in stage)
        asked, folder = self.recipe.environment, _folder(self.recipe)
        files = None if asked is None else contents(asked.tools, lambda path: locate(path, folder))
        return self.recipe.fingerprint((*task.train, *task.validation, *task.test, *learnt), files)

    @property
    def evaluated(self) -> list[tuple[Problem, int]]:
        """Every problem that an evaluation asks, with the longest answer it may get."""
        sizes, length = self.recipe.evaluation, self.recipe.evaluation_tokens
        validated = self.task.validation[: sizes.validation_size] if any(map(_validates, self.stages)) else ()
        asked = [(problem, length) for problem in (*self.task.test[: sizes.test_size], *validated)]
        for stage in self.stages:
            if isinstance(stage, EvalStage):
                problems = self.task.problems(stage.split)[: stage.size]
                asked += [(problem, stage.max_new_tokens or length) for problem in problems]
        return asked


def prepare(recipe: Recipe, task: LoadedTask | None = None) -> Prepared:
    """Read the task's data and compose the algorithms; raise UserError for whatever does not fit."""
    folder = _folder(recipe)
    check_installed(recipe.tracking)
    algorithms = tuple(_algorithm(stage, folder) if isinstance(stage, RLStage) else None for stage in recipe.stages)
    loaded = task or _load_task(recipe, folder)
    _check_engine(recipe)
    for stage, algorithm in zip(recipe.stages, algorithms, strict=True):
        split = stage.split if isinstance(stage, EvalStage) else "validation" if _validates(stage) else None
        if split is not None and not loaded.problems(split):
            raise UserError(f"stage {stage.name} looks at {split} accuracy, and task {loaded.name} has no such split")
        if isinstance(stage, RLStage) and algorithm is not None:
            _check_used(stage, algorithm, recipe)
            if recipe.model.full:
                _check_full(stage, algorithm)
            make_sampler(
                loaded.train, 0, loaded.part_weights, stage.rollouts.curriculum, stage.steps
            )  # a curriculum fits the data
    stages = settle(recipe.stages, folder)
    learns = (examples(loaded, stage) if isinstance(stage, SFTStage) else () for stage in stages)
    return Prepared(recipe, loaded, stages, algorithms, tuple(map(tuple, learns)))


def start(
    prepared: Prepared,
    *,
    resume: bool = False,
    policy: Policy | None = None,
    engine: Engine | None = None,
    observers: Sequence[Observer] = (),
    force: bool = False,
) -> dict[str, Any]:
    """Train as `prepared` says and return the summary.

    With `resume`, go on in the folder that is there; with `force`, delete the run that is in it. Processes that were
    started together share the work (docs/scaling.md), and all return the summary.
    """
    recipe = prepared.recipe
    if lacks_others():
        log.warning(
            "accelerate launch started one process, as it does on a CPU: for more give it --multi_gpu, and the run "
            "model.device=cpu; or start with torchrun"
        )
    with processes() as ranks:
        _check_alike(prepared, ranks)
        # What is wrong with the folder is said before a model is loaded, and is looked at again when it is opened.
        ranks.lead(lambda: _check_folder(prepared, resume, force))
        policy = _policy(recipe, ranks, policy)
        if not policy.trainable_parameters():
            raise UserError(
                "model.lora is null: training needs an adapter, such as model.lora: {rank: 16}, or model.full: true"
            )
        own = nullcontext(engine) if engine else open_engine(recipe.engine, policy, recipe.model, recipe.run.max_rows)
        variables = recipe.chat_template_kwargs
        with own as opened, open_tools(policy, recipe.environment, _folder(recipe), variables) as tools:
            _check_apart(prepared, opened)
            interrupt = Interrupt(ranks)
            given = opened, policy, prepared.task.task, variables, tools
            graders = recipe.run.graders
            collector = (
                Collector(*given, graders=graders)
                if ranks.size == 1
                else SharedCollector(*given, graders=graders, interrupt=interrupt)
            )
            _check_lengths(prepared, collector)
            folder = _opened(prepared, ranks, resume, force)
            try:
                return _train(prepared, collector, folder, observers if ranks.first else (), interrupt, resume)
            except Interrupted:
                ranks.any(False)  # leave together: torchrun kills the others, whose trackers may be at work, after one
                raise


def _policy(recipe: Recipe, ranks: Ranks, given: Policy | None) -> Policy:
    """The policy that is given, or the recipe's; its weights in parts, where there are several processes for them."""
    if not recipe.model.shard or ranks.size == 1:
        return given or load_policy(recipe.model, seed=recipe.seed)
    # The device never sees the whole weights at once.
    beside = recipe.model.model_copy(update={"device": "cpu"})
    device = given.device if given else resolve_device(recipe.model.device)
    policy = given or load_policy(beside, seed=recipe.seed)
    shard(policy.model, device)
    return replace(policy, device=device)


def _train(
    prepared: Prepared,
    collector: Collector,
    folder: RunFolder,
    observers: Sequence[Observer],
    interrupt: Interrupt,
    resume: bool,
) -> dict[str, Any]:
    recipe, size = prepared.recipe, interrupt.ranks.size
    with folder, tracking(recipe.tracking, folder, recipe.model_dump(mode="json"), recipe.text()) as trackers:
        run = RunContext(
            policy=collector.policy,
            engine=collector.engine,
            collector=collector,
            task=prepared.task,
            folder=folder,
            run=recipe.run,
            evaluation=recipe.evaluation,
            report=recipe.report,
            stage_names=[stage.name for stage in prepared.stages],
            seed=recipe.seed,
            observers=(*observers, trackers),
            interrupt=interrupt,
            max_new_tokens=recipe.max_new_tokens,
            harvests=harvests(prepared.stages),
        )
        run.message(f"run folder {folder.path}" + (f", {size} processes" if size > 1 else ""))
        if (precision := _precision(collector.policy)) is not None:
            run.message(precision)
        for line in trackers.lines:
            run.message(f"tracker {line.tracker.kind}: {line.tracker.place}")
        return Pipeline(run, prepared.stages, prepared.algorithms).train(resume)


def _precision(policy: Policy) -> str | None:
    """In which precision what learns is kept and updated, where that is not float32 alone."""
    learning = policy.trainable_parameters()
    own, count = learning[0].dtype, sum(p.numel() for p in learning)
    if hasattr(policy.model, "peft_config"):
        base = "quantised weights" if is_quantized(policy.model) else f"weights in {_short(policy.dtype)}"
        plain = own == policy.dtype and not is_quantized(policy.model)
        return None if plain else f"an adapter of {count:,} parameters learns in {_short(own)} over {base}"
    if own in (torch.bfloat16, torch.float16):
        return (
            f"{count:,} weights in {_short(own)} learn through float32 copies, so that small steps are not rounded away"
        )
    return f"{count:,} weights learn in {_short(own)}"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _check_alike(prepared: Prepared, ranks: Ranks) -> None:
    """Refuse processes that would not run the same thing, or would be in each other's way."""
    if ranks.size == 1:
        return
    recipe, told = prepared.recipe, ranks.gather(prepared.fingerprint)
    other = next((rank for rank, own in enumerate(told) if own != told[0]), None)
    if other is not None:
        raise UserError(f"process {other} read another recipe or other data than process 0: give all of them the same")
    if ":" in recipe.model.device:
        raise UserError(f"model.device {recipe.model.device} is one device for {ranks.size} processes: write cuda")
    if recipe.engine.kind == "vllm":
        raise UserError(f"engine.kind vllm runs in one process, and there are {ranks.size}: use vllm_server")
    if recipe.engine.kind == "vllm_server" and recipe.engine.sleep is not None:
        raise UserError("engine.sleep would put a server to sleep that other processes of the run are using")
    for stage in prepared.stages:
        if isinstance(stage, RLStage) and stage.rollouts.ahead:
            raise UserError(f"stage {stage.name}: rollouts.ahead works in one process, and there are {ranks.size}")


def _check_folder(prepared: Prepared, resume: bool, force: bool) -> None:
    if resume:
        RunFolder.resume(*_opening(prepared)).close()
    elif not force:
        _refuse_taken(Path(prepared.recipe.run.dir))


def _opened(prepared: Prepared, ranks: Ranks, resume: bool, force: bool) -> RunFolder:
    """The run's folder, which the first process writes."""
    if not ranks.first:
        return Follower(prepared.recipe.run.dir)
    opening = _opening(prepared)
    return RunFolder.resume(*opening) if resume else RunFolder.create(*opening, force=force)


def _opening(prepared: Prepared) -> tuple[str, str, str]:
    return prepared.recipe.run.dir, prepared.recipe.text(), prepared.fingerprint


def _folder(recipe: Recipe) -> Path | None:
    """Where files are looked up after the working directory."""
    return None if recipe.data_dir is None else Path(recipe.data_dir)


def _algorithm(stage: RLStage, folder: Path | None) -> Algorithm:
    algorithm = build(stage.algorithm, folder)
    algorithm.check_group_size([stage.group_size])
    return algorithm


def _check_used(stage: RLStage, algorithm: Algorithm, recipe: Recipe) -> None:
    """Refuse keys that would do nothing."""
    if stage.keep_best and not (stage.evaluate_every and stage.evaluate_every <= stage.steps):
        raise UserError(f"stage {stage.name}: keep_best needs evaluate_every, of at most its {stage.steps} steps")
    for key in idle_keys(stage.algorithm, _folder(recipe)):
        raise UserError(
            f"stage {stage.name}: {key} would do nothing beside the other keys of algorithm {algorithm.name}"
        )
    if stage.updates_per_rollout > 1:
        if "on_policy" in algorithm.needs:
            raise UserError(
                f"stage {stage.name}: surrogate {algorithm.surrogate.name} takes the policy for the one that sampled, "
                "so a rollout serves one update: leave out updates_per_rollout, or give surrogate: clipped_ratio"
            )
        if recipe.model.lora is not None and recipe.model.lora.dropout > 0:
            raise UserError(
                f"stage {stage.name}: with model.lora.dropout above 0, updates_per_rollout > 1 would take ratios of "
                "two dropout masks; set one of them to its default"
            )
    if algorithm.importance_correction is not None:
        _check_correction(stage, recipe)
    elif stage.rollouts.ahead:
        raise UserError(
            f"stage {stage.name}: rollouts.ahead trains on what weights of a step before sampled, which a ratio has to "
            "correct: give algorithm.importance_correction: truncated"
        )
    if "ref_logp" not in algorithm.needs and (stage.refresh_reference or stage.reference != "start_of_stage"):
        raise UserError(
            f"stage {stage.name} names a reference, and {algorithm.name} compares with none: set its beta above 0, or "
            "leave out reference and refresh_reference"
        )


def _check_full(stage: RLStage, algorithm: Algorithm) -> None:
    """Refuse what is told of an adapter where all weights learn."""
    if stage.reference != "start_of_stage":
        raise UserError(
            f"stage {stage.name}: reference {stage.reference} needs an adapter, and with model.full there is none; "
            "start_of_stage keeps a copy of the weights, which in the first stage are the initial ones"
        )
    if "parameters" in algorithm.needs:
        raise UserError(
            f"stage {stage.name}: regulariser {algorithm.regulariser.name} is over an adapter's matrices, and with "
            "model.full there are none: set l2: 0 or regulariser: none, or use optimizer.weight_decay"
        )


def _check_engine(recipe: Recipe) -> None:
    """Refuse what an engine that is sent an adapter could not sample with."""
    model, engine = recipe.model, recipe.engine
    if isinstance(engine, InProcess):
        other = next((f"model.{key}" for key in ("full", "quantize", "shard") if getattr(model, key)), None)
        if engine.dtype and other:
            raise UserError(f"engine.dtype rounds whole weights that are frozen, not with {other}: leave out one")
    elif other := "model.full" if model.full else "model.lora.dora" if model.lora and model.lora.dora else None:
        raise UserError(f"engine.kind {engine.kind} is sent LoRA adapters, not {other}: leave out one of them")


def _check_correction(stage: RLStage, recipe: Recipe) -> None:
    """Refuse a ratio of sampler and trainer that would measure something else than how they differ."""
    corrects = f"stage {stage.name}: importance_correction takes the ratio of trainer's and sampler's log-probs, and"
    if stage.rollouts.allow_truncated:
        raise UserError(
            f"{corrects} with top_k, top_p or min_p the sampler's are of the tokens that are left, not of all: leave "
            "out one or the other"
        )
    if stage.score_temperature not in ("sampling", stage.temperature):
        raise UserError(
            f"{corrects} score_temperature {stage.score_temperature} sets them apart on purpose: leave out one or the "
            "other"
        )
    if recipe.model.lora is not None and recipe.model.lora.dropout > 0:
        raise UserError(f"{corrects} model.lora.dropout is on one side alone: leave out one or the other")


def _check_apart(prepared: Prepared, engine: Engine) -> None:
    """Refuse to sample ahead where the model that samples is the one that is trained."""
    ahead = [stage.name for stage in prepared.stages if isinstance(stage, RLStage) and stage.rollouts.ahead]
    if ahead and not engine.apart:
        raise UserError(
            f"stage {ahead[0]}: rollouts.ahead needs an engine beside the trainer, such as engine.kind vllm_server "
            "without engine.sleep, and this one shares the trainer's model or device"
        )


def _refuse_taken(path: Path) -> None:
    """Say that a folder is taken before a model is loaded; RunFolder.create checks again, under its lock."""
    if (path / "recipe.yaml").exists():
        raise UserError(f"{path} already holds a run: go on with --resume {path}, or give another run.dir")


def _check_lengths(prepared: Prepared, collector: Collector) -> None:
    for problem, length in prepared.evaluated:
        collector.check_fits([problem], length)
    for stage, learnt in zip(prepared.stages, prepared.learns, strict=True):
        if isinstance(stage, RLStage):
            collector.check_fits(prepared.task.train, stage.max_new_tokens)
        rows(collector, learnt)


def _validates(stage: Stage) -> bool:
    """Whether the stage looks at validation problems while it trains."""
    if isinstance(stage, EvalStage):
        return False
    return bool(stage.evaluate_every if isinstance(stage, RLStage) else stage.stop_accuracy)


def _load_task(recipe: Recipe, folder: Path | None) -> LoadedTask:
    if recipe.task.get("name") == IN_MEMORY:
        raise UserError("the data of this run was in memory: go on from Python, with tessera.train(..., resume=True)")
    return load_task(recipe.task, folder)
