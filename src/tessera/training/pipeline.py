"""A run: stages one after another, evaluated before, between and after, resumable at any point."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import combinations, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor

from tessera.algorithms.base import Algorithm
from tessera.core.errors import RunStopped, TesseraError, UserError
from tessera.evaluation.estimators import paired_difference_interval
from tessera.policy.adapters import adapter_state, save_adapter, set_adapter_state
from tessera.policy.merging import save_trained
from tessera.policy.parts import gathered
from tessera.policy.reference import KINDS, Reference
from tessera.policy.sharded import is_sharded
from tessera.reports.summary import summarise
from tessera.training import checkpoint
from tessera.training.checkpoint import Checkpoint
from tessera.training.context import RunContext
from tessera.training.interrupt import Interrupted
from tessera.training.optimizer import Optimizer
from tessera.training.rl import RLRunner
from tessera.training.settings import EvalStage, RLStage, SFTStage, Stage
from tessera.training.sft import SFTRunner
from tessera.training.stages import last_trained
from tessera.training.state import RunState

if TYPE_CHECKING:
    from peft import PeftModel

TrainingStage = SFTStage | RLStage


class Runner(Protocol):
    """A stage at work, of at most `steps` steps. `best` and `reference` hold tensors that a checkpoint keeps.

    With `several_updates` a step moves the weights more than once.
    """

    steps: int
    optimizer: Optimizer
    best: dict[str, Tensor] | None
    reference: Reference | None
    several_updates: bool

    def step(self) -> None:
        """One step. Interrupted may be raised until it is done."""

    def judge(self) -> str | None:
        """Look at what the last step came to; returns why the stage ends now, if it does."""

    def finish(self) -> None:
        """The stage is over."""

    def record(self) -> dict[str, Any]:
        """What the stage works with, for the summary: the same whenever it is begun or gone on with."""

    def state(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""


class Pipeline:
    """Runs `stages` in a RunContext."""

    def __init__(self, run: RunContext, stages: Sequence[Stage], algorithms: Sequence[Algorithm | None]) -> None:
        self.run = run
        self.stages = stages
        self.algorithms = algorithms  # one a stage; None where it is not RL
        self._moments: dict[int, Any] | None = None  # of the last stage's optimiser, where the next carries on

    def train(self, resume: bool = False) -> dict[str, Any]:
        """Run to the end and return the summary. Raises Interrupted after saving when a stop was requested."""
        found = self.run.ranks.lead(lambda: checkpoint.newest(self.run.folder.checkpoints)) if resume else None
        with self.run.interrupt.handling():
            try:
                with _enough_memory(), self.run.ranks.reachable():
                    self._run(found)
            except Interrupted:
                self.run.ranks.lead(lambda: self._summary("interrupted"))
                raise
            except TesseraError as error:
                with suppress(RunStopped):  # on a full disk: why the run stopped matters more than its summary
                    if self.run.ranks.first:  # who may be alone by now
                        self._summary(f"stopped: {error}")
                raise
        return self.run.ranks.lead(lambda: self._summary("finished"))

    def _run(self, found: Checkpoint | None) -> None:
        if found is not None:
            self._restore(found)
        elif any(self.run.folder.position().values()):
            self.run.folder.rollback(dict.fromkeys(self.run.folder.position(), 0))
            self.run.resumed(-1)  # before the evaluation at step 0
        state = self.run.state
        if not state.step and "base" not in state.evaluated:
            self.run.test("base")
        while state.stage < len(self.stages):
            self._stage(found if found and found.state["stage"] == state.stage else None)
            found = None
        self._keep()

    def _keep(self) -> None:
        """Write what was trained: the adapter, or the whole model where there is none."""
        policy, folder, ranks = self.run.policy, self.run.folder, self.run.ranks
        if hasattr(policy.model, "peft_config"):
            ranks.lead(lambda: _write(folder.adapter, lambda to: save_adapter(cast("PeftModel", policy.model), to)))
        else:
            weights = None
            if is_sharded(policy.model):
                weights = gathered(policy.model.state_dict(keep_vars=True), keep=ranks.first)  # a tied one once
            ranks.lead(lambda: _write(folder.model, lambda to: save_trained(policy, to, weights)))

    def _stage(self, found: Checkpoint | None) -> None:
        settings, state = self.stages[index := self.run.state.stage], self.run.state
        if isinstance(settings, EvalStage):  # without a checkpoint: one of the last that trained is as good
            self.run.ask(settings)
        else:
            self._train(settings, self.algorithms[index], found)
            self.run.test("final" if index == last_trained(self.stages) else settings.name)
        state.next_stage()
        if state.stage == len(self.stages):
            self._save(None)

    def _train(self, settings: TrainingStage, algorithm: Algorithm | None, found: Checkpoint | None) -> None:
        state, runner = self.run.state, self._runner(settings, algorithm)
        if found is not None:
            _restore_runner(runner, found)
            found.release()
        else:
            self._begin(runner, settings)
        self.run.message(f"stage {settings.name}: {settings.kind}, up to {runner.steps} steps")
        while state.unjudged or (state.stage_step < runner.steps and state.stopped is None):
            self._step(runner)
        if state.stopped:
            self.run.message(f"stage {settings.name} ended after {state.stage_step} steps: {state.stopped}")
        state.records[-1].update({"steps": state.stage_step, "ended": state.stopped, "best": state.best})
        self._save(runner)  # what follows can be interrupted, and begins again from here
        self._moments = runner.optimizer.moments() if self._carries_on() else None
        runner.finish()

    def _carries_on(self) -> bool:
        """Whether the next stage that trains begins with this one's moments."""
        following = (s for s in self.stages[self.run.state.stage + 1 :] if not isinstance(s, EvalStage))
        return any(stage.optimizer.carry for stage in islice(following, 1))

    def _begin(self, runner: Runner, settings: TrainingStage) -> None:
        if settings.optimizer.carry and self._moments is not None:
            runner.optimizer.carry(self._moments)
        self._moments = None  # with all weights they are as large as the model, and more
        reference, about = runner.reference, {"name": settings.name, "kind": settings.kind, **runner.record()}
        if reference is not None:
            about["reference"] = {"policy": reference.kind, "sha256": reference.fingerprint()}
        self.run.state.records.append(about)
        self._save(runner)

    def _step(self, runner: Runner) -> None:
        state = self.run.state
        if not state.unjudged:
            self._advance(runner)
        written = self.run.folder.position()
        try:
            state.stopped = runner.judge()
        except Interrupted:  # the step is made, and is judged when the run goes on
            self.run.folder.rollback(written)
            self._save(runner)
            raise
        state.unjudged = False
        self.run.progress(state.stage_step, runner.steps)
        requested = self.run.ranks.any(self.run.interrupt.requested)
        if state.stage_step % self.run.run.save_every == 0 or requested:
            self._save(runner)
        if requested:
            raise Interrupted

    def _advance(self, runner: Runner) -> None:
        """One step. A stop in its middle leaves, and saves, the run as it was before."""
        state, model = self.run.state, self.run.policy.model
        before, written, own = state.to_json(), self.run.folder.position(), runner.state()
        kept = (adapter_state(model), copy.deepcopy(runner.optimizer.state())) if runner.several_updates else None
        state.step, state.stage_step, state.unjudged = state.step + 1, state.stage_step + 1, True
        try:
            runner.step()
        except Interrupted:
            # Between sampling and the first update nothing changes but counters.
            self.run.state = RunState.from_json(before)
            self.run.folder.rollback(written)
            runner.restore(own)
            runner.optimizer.clear()
            if kept is not None:
                set_adapter_state(model, kept[0])
                runner.optimizer.restore(kept[1])
            self._save(runner)
            raise

    def _runner(self, settings: TrainingStage, algorithm: Algorithm | None) -> Runner:
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
        own, optimizer, reference = {}, {}, None
        if runner is not None:
            own, optimizer = runner.state(), runner.optimizer.state()
            if runner.best is not None:
                tensors["best"] = runner.best
            if runner.reference is not None:
                reference = runner.reference.fingerprint()
                if runner.reference.state is not None:
                    tensors["reference"] = runner.reference.state
        state = {**run.state.to_json(), "runner": own, "reference": reference}
        saved = Checkpoint(state, *gathered([tensors, optimizer], keep=run.ranks.first))
        run.ranks.lead(lambda: checkpoint.save(run.folder.checkpoints, saved, run.run.keep_checkpoints))

    def _restore(self, found: Checkpoint) -> None:
        data = {key: value for key, value in found.state.items() if key not in ("runner", "reference")}
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
            pairs=_pairs(run.state.evaluated),
            stages=run.state.records,
            solved=run.state.evaluated,
        )
        run.folder.write_summary(summary)
        run.folder.write_report()
        return summary


def _write(target: Path, write: Callable[[Path], None]) -> None:
    with checkpoint.stops_run(target):
        write(target)


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
    """Take over a checkpoint's state; UserError where what the stage works with is not what it was."""
    runner.restore(found.state["runner"])
    runner.optimizer.restore(found.optimizer)
    runner.best = found.tensors.get("best")
    begun = found.state["records"][-1]
    for what, now in runner.record().items():
        if begun[what] != now:
            raise UserError(f"stage {begun['name']} began with {what} {begun[what]}, and now it would be {now}")
    if runner.reference is None:
        return
    told = runner.reference.fingerprint()  # of a folder or of the frozen model, which may have been exchanged
    if "reference" in found.tensors:
        if runner.reference.kind not in KINDS and told != begun["reference"]["sha256"]:
            raise UserError(_other_reference(begun, runner.reference.kind, told))
        runner.reference.restore(found.tensors["reference"])
        told = runner.reference.fingerprint()
    if told != found.state["reference"]:
        raise UserError(_other_reference(begun, runner.reference.kind, told))


def _other_reference(begun: Mapping[str, Any], kind: str, told: str) -> str:
    was = begun["reference"]["sha256"]
    return f"stage {begun['name']} began with the reference policy {kind} of hash {was}; what is there now has {told}"


def _pairs(evaluated: Mapping[str, list[bool]]) -> list[dict[str, Any]]:
    """Every two evaluations of the same test problems, the earlier first, with what lies between them."""
    found = []
    for (before, was), (after, now) in combinations(evaluated.items(), 2):
        change = paired_difference_interval(was, now)
        found.append({"from": before, "to": after, "difference": change.difference, "ci": [change.low, change.high]})
    return found


def _gain(evaluated: Mapping[str, list[bool]]) -> dict[str, Any] | None:
    """What the last stage added, on the same problems."""
    labels = list(evaluated)[-2:]
    return next((pair for pair in _pairs(evaluated) if [pair["from"], pair["to"]] == labels), None)
