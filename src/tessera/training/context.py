"""What every stage of a run works with."""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from tessera.core.seeding import derive, forked
from tessera.core.types import Group, Problem
from tessera.evaluation.estimators import wilson_interval
from tessera.evaluation.evaluate import Evaluation, evaluate
from tessera.policy.load import Policy
from tessera.reports.run import RunFolder
from tessera.rollout.collect import Collector
from tessera.rollout.engine import Engine
from tessera.tasks.base import LoadedTask
from tessera.tasks.mixture import part_of
from tessera.training.harvest import traces
from tessera.training.interrupt import Interrupt
from tessera.training.ranks import Ranks
from tessera.training.settings import EvalStage, EvaluationSettings, HarvestSettings, ReportSettings, RunSettings
from tessera.training.state import RunState

log = logging.getLogger("tessera")


class Observer:
    """Told of everything that happens; this one ignores it. Subclass to show progress or to log elsewhere."""

    def row(self, row: Mapping[str, Any]) -> None:
        """A row of metrics.jsonl was written."""

    def progress(self, what: str, done: int, total: int) -> None:
        """`done` of `total` steps of stage `what` are behind us."""

    def message(self, text: str) -> None:
        """Something worth a line: a stage began or ended, and why."""

    def resumed(self, step: int) -> None:
        """The run goes on after `step`: rows of later steps that were told before are told again."""


@dataclass
class RunContext:
    """The parts of a run: policy, engine, task, folder, settings, and where it stands."""

    policy: Policy
    engine: Engine
    collector: Collector
    task: LoadedTask
    folder: RunFolder
    run: RunSettings
    evaluation: EvaluationSettings
    stage_names: Sequence[str]
    seed: int
    observers: Sequence[Observer] = ()
    state: RunState = field(default_factory=RunState)
    interrupt: Interrupt = field(default_factory=Interrupt)
    report: ReportSettings = field(default_factory=ReportSettings)
    max_new_tokens: int = 300  # of an evaluation that names none: the RL stages' largest
    harvests: Mapping[str, Sequence[HarvestSettings]] = field(default_factory=dict)  # by the RL stage they are of
    _resumed_at: float = field(default_factory=time.perf_counter)

    def stage_seed(self, *names: str | int) -> int:
        """A seed for this stage and `names`, the same at every step of it."""
        return derive(self.seed, self.state.stage, *names)

    def seed_of(self, *names: str | int) -> int:
        """A seed for this place in the run: stage, step in the stage, and `names`."""
        return self.seed_at(self.state.stage_step, *names)

    def seed_at(self, step: int, *names: str | int) -> int:
        """`seed_of` as it is at another step of the stage."""
        return derive(self.seed, self.state.stage, step, *names)

    @property
    def ranks(self) -> Ranks:
        """The processes of the run."""
        return self.interrupt.ranks

    @contextmanager
    def learning(self, *names: str | int) -> Iterator[None]:
        """LoRA dropout, where there is any, is on within the context and draws from the place's own stream."""
        dropouts = self._dropouts()
        with forked(self.policy.device):
            own = (self.ranks.rank,) if self.ranks.rank else ()  # processes drop out other numbers of their rows
            torch.manual_seed(self.seed_of("dropout", *names, *own))
            for module in dropouts:
                module.train()
            try:
                yield
            finally:
                for module in dropouts:
                    module.eval()

    @property
    def has_dropout(self) -> bool:
        """Whether updates are made with LoRA dropout."""
        return any(getattr(module, "p", 0.0) > 0 for module in self._dropouts())

    def _dropouts(self) -> list[torch.nn.Module]:
        return [module for name, module in self.policy.model.named_modules() if "lora_dropout" in name]

    def elapsed(self) -> float:
        """Seconds of work so far, over all resumptions."""
        now = time.perf_counter()
        self.state.seconds += now - self._resumed_at
        self._resumed_at = now
        return self.state.seconds

    def log(self, kind: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Write a row of metrics and tell the observers."""
        at = min(self.state.stage, len(self.stage_names) - 1)
        row = {
            "kind": kind,
            "step": self.state.step,
            "stage": self.stage_names[at],
            "stage_index": at,
            "seconds": round(self.elapsed(), 3),
            **metrics,
        }
        self.folder.log(row)
        for observer in self.observers:
            observer.row(row)
        return row

    def log_groups(self, groups: Sequence[Group]) -> None:
        """Write every rollout of `groups` with what it earned."""
        stage = self.stage_names[self.state.stage]
        self.folder.log_completions(
            {
                "step": self.state.step,
                "stage": stage,
                "group": index,
                "problem_id": group.problem.id,
                "prompt": self.prompt_text(group),
                "text": rollout.text,
                "reward": rollout.reward,
                "components": dict(rollout.components),
                "finish_reason": rollout.finish_reason,
                "error": rollout.error,
                "tokens": rollout.written,
                **({"turns": [asdict(turn) for turn in rollout.turns]} if rollout.turns else {}),
            }
            for index, group in enumerate(groups)
            for rollout in group.rollouts
        )
        self._keep(groups, stage)

    def _keep(self, groups: Sequence[Group], stage: str) -> None:
        """Write what a later SFT stage may learn of `groups`."""
        wanted, success = self.harvests.get(stage, ()), self.evaluation.success
        self.folder.log_harvest(
            {"step": self.state.step, "stage": stage, **trace}
            for group in (groups if wanted else ())
            for trace in traces(group, wanted, len(self.collector.prompt_ids(group.problem)), success)
        )

    def log_diagnostics(self, found: Mapping[str, Any]) -> None:
        """Write a row of diagnostics."""
        stage = self.stage_names[self.state.stage]
        self.folder.log_diagnostics({"step": self.state.step, "stage": stage, **found})

    def log_credit(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write groups, token by token."""
        at = {"step": self.state.step, "stage": self.stage_names[self.state.stage]}
        self.folder.log_groups([{**at, **row} for row in rows])

    def prompt_text(self, group: Group) -> str:
        """The group's prompt as the model read it, special tokens shown."""
        return self.decode(group.prompt_ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, special ones shown."""
        tokenizer: Any = self.policy.tokenizer
        return str(tokenizer.decode(list(ids)))

    def message(self, text: str) -> None:
        """Tell the observers."""
        for observer in self.observers:
            observer.message(text)

    def resumed(self, step: int) -> None:
        """Tell the observers after which step the run goes on."""
        for observer in self.observers:
            observer.resumed(step)

    def progress(self, done: int, total: int) -> None:
        """Tell the observers how far the stage is."""
        for observer in self.observers:
            observer.progress(self.stage_names[self.state.stage], done, total)

    def validate(self) -> Evaluation | None:
        """Greedy accuracy on the validation problems, logged; None when there are none."""
        problems = _first(self.task.validation, self.evaluation.validation_size)
        if not problems:
            return None
        with self.interrupt.immediate():
            return self._evaluate(problems, "validation", None)

    def test(self, label: str) -> Evaluation | None:
        """Greedy accuracy on the test problems, logged under `label` and kept; None when there are none."""
        problems = _first(self.task.test, self.evaluation.test_size)
        if not problems:
            return None
        with self.interrupt.immediate():
            found = self._evaluate(problems, "test", label)
        self.state.evaluated[label] = list(found.correct)
        return found

    def ask(self, stage: EvalStage) -> None:
        """The evaluation of an `eval` stage, logged under its name. It is not kept: the others ask other problems, or
        for other lengths."""
        problems = _first(self.task.problems(stage.split), stage.size)
        with self.interrupt.immediate():
            self._evaluate(problems, stage.split, stage.name, stage.max_new_tokens)

    def _evaluate(
        self, problems: Sequence[Problem], split: str, label: str | None, max_new_tokens: int | None = None
    ) -> Evaluation:
        length = max_new_tokens or self.evaluation.max_new_tokens or self.max_new_tokens
        self.engine.sync()
        found = evaluate(self.collector, problems, max_new_tokens=length, success=self.evaluation.success)
        if found.failed:
            log.warning("the reward failed on %d of %d %s completions: unsolved", found.failed, len(problems), split)
        low, high = found.interval
        named = {} if label is None else {"label": label}
        self.log(
            "eval",
            {
                **named,
                "split": split,
                "accuracy/value": found.value,
                "accuracy/ci_low": low,
                "accuracy/ci_high": high,
                "accuracy/n": len(problems),
                "truncation_rate": found.truncation_rate,
                "completion_length/mean": found.mean_length,
                **_by_part(problems, found.correct, self.task.part_weights),
            },
        )
        return found


def _by_part(problems: Sequence[Problem], correct: Sequence[bool], parts: Iterable[str]) -> dict[str, float]:
    """Accuracy on the problems of each part of a mixture, with its interval; no keys where none was asked."""
    row: dict[str, float] = {}
    for part in parts:
        own = [solved for problem, solved in zip(problems, correct, strict=True) if part_of(problem) == part]
        if own:
            low, high = wilson_interval(sum(own), len(own))
            found = {"accuracy": sum(own) / len(own), "ci_low": low, "ci_high": high, "n": len(own)}
            row.update({f"part/{part}/{name}": value for name, value in found.items()})
    return row


def peak_memory() -> int:
    """Bytes: the CUDA allocator's peak where there is one, else the process's largest resident size."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _first(problems: Sequence[Problem], size: int | None) -> Sequence[Problem]:
    return problems if size is None else problems[:size]
