"""From a recipe to a run: build the parts, check them all, and only then write anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tessera.algorithms import Algorithm, build
from tessera.core.errors import UserError
from tessera.core.types import Problem
from tessera.policy.load import Policy, load_policy
from tessera.recipe import Recipe
from tessera.reports.run import RunFolder
from tessera.rollout.collect import Collector
from tessera.rollout.engine import Engine
from tessera.rollout.hf import HFEngine
from tessera.tasks.base import LoadedTask
from tessera.tasks.registry import load_task
from tessera.training.context import Observer, RunContext
from tessera.training.pipeline import Pipeline
from tessera.training.settings import RLStage


@dataclass(frozen=True)
class Prepared:
    """A recipe whose names, settings and data have been read and agree; no model is loaded yet."""

    recipe: Recipe
    task: LoadedTask
    algorithms: tuple[Algorithm | None, ...]

    @property
    def fingerprint(self) -> str:
        """Of the recipe and the data it read."""
        return self.recipe.fingerprint((*self.task.train, *self.task.validation, *self.task.test))

    @property
    def max_new_tokens(self) -> int:
        """The largest completion of any RL stage."""
        return max((s.max_new_tokens for s in self.recipe.stages if isinstance(s, RLStage)), default=300)


def prepare(recipe: Recipe, base_dir: Path | None = None, task: LoadedTask | None = None) -> Prepared:
    """Read the task's data and compose the algorithms; raise UserError for whatever does not fit."""
    algorithms = tuple(_algorithm(stage) if isinstance(stage, RLStage) else None for stage in recipe.stages)
    loaded = task or load_task(recipe.task, base_dir)
    for stage in recipe.stages:
        wants = stage.evaluate_every if isinstance(stage, RLStage) else stage.stop_accuracy
        if wants and not loaded.validation:
            raise UserError(
                f"stage {stage.name} looks at validation accuracy, and task {loaded.name} has no such split"
            )
        if isinstance(stage, RLStage) and stage.keep_best and not stage.evaluate_every:
            raise UserError(f"stage {stage.name}: keep_best needs evaluate_every")
    return Prepared(recipe, loaded, algorithms)


def start(
    prepared: Prepared,
    *,
    resume: bool = False,
    policy: Policy | None = None,
    engine: Engine | None = None,
    observers: Sequence[Observer] = (),
    force: bool = False,
) -> dict[str, Any]:
    """Train as `prepared` says and return the summary; with `resume`, go on in the folder that is there."""
    recipe = prepared.recipe
    if not resume and not force:
        _refuse_taken(Path(recipe.run.dir))
    policy = policy or load_policy(recipe.model, seed=recipe.seed)
    if not policy.trainable_parameters():
        raise UserError("model.lora is null: training needs an adapter, such as model.lora: {rank: 16}")
    engine = engine or HFEngine(policy, recipe.run.max_rows)
    collector = Collector(engine, policy, prepared.task.task, recipe.chat_template_kwargs)
    _check_lengths(prepared, collector)
    opened = (recipe.run.dir, recipe.text(), prepared.fingerprint)
    folder = RunFolder.resume(*opened) if resume else RunFolder.create(*opened, force=force)
    with folder:
        run = RunContext(
            policy=policy,
            engine=engine,
            collector=collector,
            task=prepared.task,
            folder=folder,
            run=recipe.run,
            evaluation=recipe.evaluation,
            stage_names=[stage.name for stage in recipe.stages],
            seed=recipe.seed,
            observers=observers,
            max_new_tokens=prepared.max_new_tokens,
        )
        return Pipeline(run, recipe.stages, prepared.algorithms).train(resume)


def _algorithm(stage: RLStage) -> Algorithm:
    algorithm = build(stage.algorithm)
    algorithm.check_group_size([stage.group_size])
    return algorithm


def _refuse_taken(path: Path) -> None:
    """Say that a folder is taken before a model is loaded; RunFolder.create checks again, under its lock."""
    if (path / "recipe.yaml").exists():
        raise UserError(f"{path} already holds a run: go on with --resume {path}, or give another run.dir")


def _check_lengths(prepared: Prepared, collector: Collector) -> None:
    recipe, task = prepared.recipe, prepared.task
    longest = recipe.evaluation.max_new_tokens or prepared.max_new_tokens
    wanted: list[tuple[Sequence[Problem], int]] = [(task.validation, longest), (task.test, longest)]
    wanted += [(task.train, stage.max_new_tokens) for stage in recipe.stages if isinstance(stage, RLStage)]
    for problems, length in wanted:
        collector.check_fits(problems, length)
