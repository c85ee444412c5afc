"""A run: stages one after another, evaluated before, between and after, resumable at any point."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor

from tessera.algorithms.base import Algorithm
from tessera.core.errors import RunStopped, TesseraError, UserError
from tessera.evaluation.estimators import paired_difference_interval
from tessera.policy.adapters import adapter_state, save_adapter, set_adapter_state
from tessera.policy.reference import Reference
from tessera.reports.summary import summarise
from tessera.training import checkpoint
from tessera.training.checkpoint import Checkpoint
from tessera.training.context import RunContext
from tessera.training.interrupt import Interrupted
from tessera.training.optimizer import Optimizer
from tessera.training.rl import RLRunner
from tessera.training.settings import RLStage, SFTStage
from tessera.training.sft import SFTRunner
from tessera.training.state import RunState

if TYPE_CHECKING:
    from peft import PeftModel

Stage = SFTStage | RLStage


class Runner(Protocol):
    """A stage at work. `best` and `reference` hold tensors that a checkpoint keeps."""

    optimizer: Optimizer
    best: dict[str, Tensor] | None
    reference: Reference | None

    def step(self) -> str | None:
        """One step; returns why the stage ends now, if it does."""

    def finish(self) -> None:
        """The stage is over."""

    def state(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""


class Pipeline:
    """Runs `stages` in a RunContext."""

    def __init__(self, run: RunContext, stages: Sequence[Stage], algorithms: Sequence[Algorithm | None]) -> None:
        self.run = run
        self.stages = stages
        self.algorithms = algorithms  # one a stage; None for SFT

    def train(self, resume: bool = False) -> dict[str, Any]:
        """Run to the end and return the summary. Raises Interrupted after saving when a stop was requested."""
        found = checkpoint.newest(self.run.folder.checkpoints) if resume else None
        with self.run.interrupt.handling():
            try:
                with _enough_memory():
                    self._run(found)
            except Interrupted:
                self._summary("interrupted")
                raise
            except TesseraError as error:
                with suppress(RunStopped):  # on a full disk: why the run stopped matters more than its summary
                    self._summary(f"stopped: {error}")
                raise
        return self._summary("finished")

    def _run(self, found: Checkpoint | None) -> None:
        if found is not None:
            self._restore(found)
        elif self.run.folder.position() != {"metrics.jsonl": 0, "completions.jsonl": 0}:
            self.run.folder.rollback(dict.fromkeys(self.run.folder.position(), 0))
            self.run.resumed(-1)  # before the evaluation at step 0
        state = self.run.state
        if not state.step and "base" not in state.evaluated:
            self.run.test("base")
        while state.stage < len(self.stages):
            self._stage(found if found and found.state["stage"] == state.stage else None)
            found = None
        with checkpoint.stops_run(self.run.folder.adapter):
            save_adapter(cast("PeftModel", self.run.policy.model), self.run.folder.adapter)

    def _stage(self, found: Checkpoint | None) -> None:
        settings, state = self.stages[state_index := self.run.state.stage], self.run.state
        runner = self._runner(settings, self.algorithms[state_index])
        if found is not None:
            _restore_runner(runner, found)
        else:
            self._save(runner)
        self.run.message(f"stage {settings.name}: {settings.kind}, up to {settings.steps} steps")
        while state.stage_step < settings.steps and state.stopped is None:
            self._step(runner, settings)
        if state.stopped:
            self.run.message(f"stage {settings.name} ended after {state.stage_step} steps: {state.stopped}")
        self._save(runner)  # what follows can be interrupted, and begins again from here
        runner.finish()
        last = state.stage + 1 == len(self.stages)
        self.run.test("final" if last else settings.name)
        state.next_stage()
        if last:
            self._save(None)

    def _step(self, runner: Runner, settings: Stage) -> None:
        state = self.run.state
        before, written = state.to_json(), self.run.folder.position()
        state.step, state.stage_step = state.step + 1, state.stage_step + 1
        own = runner.state()
        try:
            state.stopped = runner.step()
        except Interrupted:
            # Sampling was cut short: nothing has changed since the last step but the counters.
            self.run.state = RunState.from_json(before)
            self.run.folder.rollback(written)
            runner.restore(own)
            self._save(runner)
            raise
        self.run.progress(state.stage_step, settings.steps)
        requested = self.run.interrupt.requested
        if state.stage_step % self.run.run.save_every == 0 or requested:
            self._save(runner)
        self.run.interrupt.check()

    def _runner(self, settings: Stage, algorithm: Algorithm | None) -> Runner:
        if isinstance(settings, SFTStage):
            return SFTRunner(self.run, settings)
        if algorithm is None:
            raise UserError(f"stage {settings.name} needs an algorithm")
        return RLRunner(self.run, settings, algorithm)

    def _save(self, runner: Runner | None) -> None:
        run = self.run
        run.elapsed()
        run.state.files = run.folder.position()
        tensors = {"adapter": adapter_state(run.policy.model)}
        own, optimizer = {}, {}
        if runner is not None:
            own, optimizer = runner.state(), runner.optimizer.state()
            if runner.best is not None:
                tensors["best"] = runner.best
            if runner.reference is not None and runner.reference.state is not None:
                tensors["reference"] = runner.reference.state
        saved = Checkpoint({**run.state.to_json(), "runner": own}, tensors, optimizer)
        checkpoint.save(run.folder.checkpoints, saved, run.run.keep_checkpoints)

    def _restore(self, found: Checkpoint) -> None:
        data = {key: value for key, value in found.state.items() if key != "runner"}
        self.run.state = RunState.from_json(data)
        self.run.folder.rollback(self.run.state.files)
        set_adapter_state(self.run.policy.model, found.tensors["adapter"])
        self.run.resumed(self.run.state.step)
        self.run.message(f"going on after step {self.run.state.step}")

    def _summary(self, status: str) -> dict[str, Any]:
        run, rl = self.run, [a for a in self.algorithms if a is not None]
        summary = summarise(
            run.folder.metrics(),
            algorithm=", ".join(a.name for a in rl),
            composition="\n\n".join(a.describe() for a in rl),
            model=run.policy.name,
            task=run.task.name,
            status=status,
            gain=_gain(run.state.evaluated),
        )
        run.folder.write_summary(summary)
        run.folder.write_report()
        return summary


@contextmanager
def _enough_memory() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RunStopped(
            f"the device ran out of memory ({str(error).splitlines()[0]}): lower tokens_per_microbatch, max_rows; "
            "`tessera check` estimates what is needed; go on with --resume"
        ) from error


def _restore_runner(runner: Runner, found: Checkpoint) -> None:
    runner.restore(found.state["runner"])
    runner.optimizer.restore(found.optimizer)
    runner.best = found.tensors.get("best")
    if runner.reference is not None and "reference" in found.tensors:
        runner.reference.restore(found.tensors["reference"])


def _gain(evaluated: Mapping[str, list[bool]]) -> dict[str, Any] | None:
    """What the last stage added, on the same problems."""
    if len(evaluated) < 2:
        return None
    (before, was), (after, now) = list(evaluated.items())[-2:]
    found = paired_difference_interval(was, now)
    return {"from": before, "to": after, "difference": found.difference, "ci": [found.low, found.high]}
