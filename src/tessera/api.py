"""The front door from Python: `tessera.train` with objects in memory, the same run folder and the same strictness."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from tessera.core.errors import UserError
from tessera.core.seeding import derive
from tessera.launch import prepare, start
from tessera.policy.adapters import LoraSettings
from tessera.policy.load import ModelConfig, Policy, load_policy
from tessera.recipe import check_recipe
from tessera.tasks.base import LoadedTask, RewardFunction
from tessera.tasks.in_memory import InMemoryTask
from tessera.training.context import Observer

Rows = Iterable[Mapping[str, Any]]
Callback = Callable[[Mapping[str, Any]], None]

NAMES = (str, PathLike)  # what names a model; anything else is one
DEFAULT_ALGORITHM = "s_grpo"
DEFAULT_STEPS = 100


class _Callbacks(Observer):
    """Calls each function with every row of metrics."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self.callbacks = callbacks

    def row(self, row: Mapping[str, Any]) -> None:
        for callback in self.callbacks:
            callback(row)


def train(
    *,
    model: Any,
    dataset: Rows,
    reward: RewardFunction | str | Mapping[str, float],
    algorithm: str | Mapping[str, Any] | None = None,
    tokenizer: Any = None,
    lora: Mapping[str, Any] | None = None,
    eval_dataset: Rows | None = None,
    validation_dataset: Rows | None = None,
    steps: int | None = None,
    stages: Sequence[Mapping[str, Any]] | None = None,
    evaluation: Mapping[str, Any] | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    run: Mapping[str, Any] | None = None,
    tracking: Sequence[str | Mapping[str, Any]] = (),
    report: Mapping[str, Any] | None = None,
    run_dir: str | Path = "runs/train",
    seed: int = 0,
    resume: bool = False,
    callbacks: Sequence[Callback | Observer] = (),
    **stage: Any,
) -> dict[str, Any]:
    """Train LoRA adapters of a language model with RL on a verifiable reward; return the content of summary.json.

    Args:
        model: a name (embedded, local folder, GGUF file or hub id), a mapping of the recipe's `model` keys, or a
            transformers model or PeftModel, which is changed in place and needs `tokenizer`. The adapter of a
            PeftModel is trained on.
        dataset: rows with `prompt` (text, or messages `{role, content}`), usually `answer`, and any other columns; a
            list, a `datasets.Dataset`, any iterable of mappings.
        reward: a function `(problem, text) -> float` (or a mapping of named components), a registered reward's name, or
            a mapping of such names to weights. `problem.answer` and `problem.metadata` hold the row's columns, `text`
            the assistant's whole turn.
        lora: keys of LoraSettings; by default q and v projections of the last third of the layers, rank 16.
        eval_dataset: test rows: greedy accuracy before and after. None: no evaluation.
        validation_dataset: rows that choose the best checkpoint (`keep_best`) and stop an SFT stage.
        algorithm: a registered name (default `s_grpo`), or a mapping of its keys and pieces.
        steps: RL steps (default 100); `**stage` sets any other key of an RL stage (`group_size`, `optimizer`, ...).
        stages: full stages instead, as in a recipe; then without `algorithm`, `steps` and `**stage`.
        evaluation: keys of the recipe's section of this name.
        run: likewise; `run_dir` is `run.dir`.
        chat_template_kwargs: variables that the model's chat template reads.
        tracking: trackers that get the numbers too, as in a recipe.
        report: keys of the recipe's section of this name: which groups are kept for the report.
        callbacks: functions of a row of metrics, or Observers.

    The run folder, the checks and the errors are those of the command line; with `resume` the run in `run_dir` goes on.
    """
    if stages is not None and (stage or steps is not None or algorithm is not None):
        raise UserError("give either stages, or algorithm, steps and the keys of one RL stage")
    named = DEFAULT_ALGORITHM if algorithm is None else algorithm
    one = [{"kind": "rl", "algorithm": named, "steps": DEFAULT_STEPS if steps is None else steps, **stage}]
    data = {
        "seed": seed,
        "model": _model_keys(model, lora),
        "task": {"name": "in_memory"},
        "stages": [dict(s) for s in stages] if stages is not None else one,
        "evaluation": dict(evaluation or {}),
        "chat_template_kwargs": dict(chat_template_kwargs or {}),
        "tracking": list(tracking),
        "report": dict(report or {}),
        "run": {"dir": str(run_dir), **(run or {})},
    }
    recipe = check_recipe(data, "tessera.train(...)")
    task = InMemoryTask(dataset, validation_dataset, eval_dataset, reward_fn=reward)
    prepared = prepare(recipe, task=LoadedTask.load("in_memory", task))
    policy = _policy(model, tokenizer, recipe.model, seed)
    return start(prepared, resume=resume, policy=policy, observers=_observers(callbacks))


def _model_keys(model: Any, lora: Mapping[str, Any] | None) -> dict[str, Any]:
    if isinstance(model, Mapping):
        keys = dict(model)
    else:
        keys = {"name": str(model) if isinstance(model, NAMES) else type(model).__name__}
    if lora is None:
        return keys
    if "lora" in keys:
        raise UserError("give lora once: as an argument, or as a key of model")
    if hasattr(model, "peft_config"):
        raise UserError("lora describes a new adapter, and the model brings its own: leave lora out, or give the base")
    return {**keys, "lora": dict(lora)}


def _policy(model: Any, tokenizer: Any, config: ModelConfig, seed: int) -> Policy:
    if isinstance(model, (*NAMES, Mapping)):
        if tokenizer is not None:
            raise UserError("tokenizer goes with a model object; a model given by name brings its own")
        return load_policy(config, seed=seed)
    if tokenizer is None:
        raise UserError("a model object needs its tokenizer: train(model=..., tokenizer=...)")
    lora = None if hasattr(model, "peft_config") else config.lora or LoraSettings()
    # The seed of `load_policy`, so that a model starts from one adapter whichever way it is given.
    return Policy.from_objects(model, tokenizer, lora=lora, seed=derive(seed, "adapter"), name=config.name)


def _observers(callbacks: Sequence[Callback | Observer]) -> list[Observer]:
    observers = [c for c in callbacks if isinstance(c, Observer)]
    return [*observers, _Callbacks([c for c in callbacks if not isinstance(c, Observer)])]


__all__ = ["Observer", "train"]
