"""The RL stage: rollouts, plan -> score -> learn, replays, and what is watched and logged on the way."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from tessera.algorithms.base import Algorithm
from tessera.core.seeding import generator
from tessera.core.types import Group
from tessera.policy.adapters import adapter_state, set_adapter_state
from tessera.policy.reference import Reference
from tessera.rollout.replay import Outcome, ReplayBuffer
from tessera.training import metrics
from tessera.training.ahead import Sampled
from tessera.training.context import RunContext, peak_memory
from tessera.training.credit import credit_rows, keeps
from tessera.training.diagnostics import diagnose
from tessera.training.optimizer import Optimizer
from tessera.training.planned import Planned
from tessera.training.rollouts import Rollouts
from tessera.training.sentinels import Sentinels
from tessera.training.settings import RLStage
from tessera.training.step import Learner, Update


class RLRunner:
    """Runs the steps of an RL stage."""

    def __init__(self, run: RunContext, settings: RLStage, algorithm: Algorithm) -> None:
        self.run = run
        self.settings = settings
        self.steps = settings.steps
        self.replay = ReplayBuffer(settings.replay.capacity, run.evaluation.success)
        self.sentinels = Sentinels(settings.sentinels)
        self.rollouts = Rollouts(run, settings, self.sentinels)
        self.optimizer = Optimizer(run.policy.trainable_parameters(), settings.optimizer, settings.steps, run.ranks)
        needs_reference = "ref_logp" in algorithm.needs
        self.reference = Reference(run.policy.model, settings.reference) if needs_reference else None
        self.best: dict[str, Tensor] | None = None
        # Where sampler and trainer should have the same log-probs; dropout and truncation set them apart on purpose.
        alike = settings.score_temperature in ("sampling", settings.temperature) and not run.has_dropout
        self._alike = alike and not settings.rollouts.allow_truncated
        self._corrects = algorithm.importance_correction is not None
        self._sync_seconds = 0.0
        score_at = settings.temperature if settings.score_temperature == "sampling" else settings.score_temperature
        self.learner = Learner(
            run.policy.model,
            algorithm,
            self.optimizer,
            self.reference,
            temperature=float(score_at),
            compute=settings.compute,
            eos_ids=sorted(run.policy.eos_ids),
            interrupt=run.interrupt,
        )
        self.several_updates = settings.updates_per_rollout > 1 or bool(self._replays())

    def step(self) -> None:
        """Rollouts, the update, the replays and their updates."""
        began, self._sync_seconds = time.perf_counter(), 0.0
        rate = self.optimizer.at_step(self.run.state.stage_step)
        sampled = self.rollouts.of_step(self._sync)
        groups, trained = sampled.groups, self.rollouts.trained(sampled)
        staleness = self.run.state.stage_step - sampled.step
        updates, replays, skipped = self._update(trained, "plan", own=True), [], 0
        if self._alike and not staleness:
            self.sentinels.mismatch(updates[0].tokens.mismatch, unknown=self._corrects)
        self._remember(groups, first=True)
        for n, outcome in enumerate(self._replays()):
            start = self.replay.draw(outcome, self.rollouts.problems, generator(self.run.seed_of("replay", n)))
            if start is None:
                skipped += 1
                continue
            self._sync()
            group = self.rollouts.restart(start, "replay-rollout", n)
            updates.extend(self._update(group, "replay-plan", n))
            replays.append((outcome, group[0]))
            self._remember(group)
        self._refresh_reference()
        extra = {
            "groups/dropped": len(groups) - len(trained),
            "replay/skipped": skipped,
            "learning_rate": rate,
            "rollout/staleness": staleness,
        }
        self._log(sampled, replays, updates, extra, began)

    def judge(self) -> str | None:
        """Validation, the best adapter so far, and the plateau rule."""
        state, every = self.run.state, self.settings.evaluate_every
        if every and state.stage_step % every == 0:
            self.rollouts.wait()  # for the engine, which validation needs
            found = self.run.validate()
            if found is not None and (state.best is None or found.value > state.best["value"]):
                state.best = {"value": found.value, "step": state.step}
                self.best = adapter_state(self.run.policy.model)
        plateau = self.settings.plateau
        if plateau and has_plateaued(state.rewards, plateau.window, plateau.patience, plateau.rise):
            return f"the mean reward has not risen by {plateau.rise} in {plateau.patience} steps"
        return None

    def finish(self) -> None:
        """End the stage with the best adapter by validation, when asked to."""
        if self.settings.keep_best and self.best is not None:
            set_adapter_state(self.run.policy.model, self.best)

    def record(self) -> dict[str, Any]:
        """Nothing beyond what the pipeline knows of any stage."""
        return {}

    def state(self) -> dict[str, Any]:
        """The stage's own part of the run's state."""
        watched = self.sentinels
        return {
            **self.rollouts.state(),
            "replay": self.replay.state(),
            "sentinels": {
                "moved": watched.moved,
                "flat_steps": watched.flat_steps,
                "said": watched.truncation_said,
                "empty_said": watched.empty_said,
            },
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        self.rollouts.restore(state)
        self.replay.restore(state["replay"])
        seen = state["sentinels"]
        self.sentinels.moved, self.sentinels.flat_steps = seen["moved"], seen["flat_steps"]
        self.sentinels.truncation_said, self.sentinels.empty_said = seen["said"], seen["empty_said"]

    def _sync(self) -> None:
        began = time.perf_counter()
        self.run.engine.sync()
        own = self.run.policy.fingerprint()
        self.sentinels.engine_current(self.run.engine.fingerprint(), own)
        self.sentinels.ranks_agree(self.run.ranks.gather(own))
        self._sync_seconds += time.perf_counter() - began

    def _update(self, groups: Sequence[Group], *names: str | int, own: bool = False) -> list[Update]:
        """Plan once, and make every inner update of the rollouts: the step's `own`, or those of a replay."""
        planned = self.learner.plan(groups, generator(self.run.seed_of(*names)))
        kept = keeps(self.run.report, self.run.state.stage_step, self.settings.steps)
        planned.seen = {} if kept else None
        every = self.run.run.diagnostics_every
        if own and every and self.run.state.stage_step % every == 0:
            scored, entropy_BT = self.learner.whole_step(planned)
            found = diagnose(self.learner.algorithm, scored, entropy_BT, planned.batch.tokens_BT, self._text)
            self.run.log_diagnostics(found)
        updates = [
            self._inner_update(planned, *names, *([n] if n else [])) for n in range(self.settings.updates_per_rollout)
        ]
        if kept:
            planned.seen = {i: seen for part in self.run.ranks.gather(planned.seen) for i, seen in (part or {}).items()}
            rows = credit_rows(planned, groups, self.run.report, self.run.decode)
            self.run.log_credit({"replay": not own, **row} for row in rows)
        return updates

    def _inner_update(self, planned: Planned, *names: str | int) -> Update:
        before = None if self.sentinels.moved else self.run.policy.fingerprint()
        with self.run.learning(*names):
            update = self.learner.update(planned)
        if before is not None and update.carried_credit:
            self.sentinels.weights_moved(before, self.run.policy.fingerprint())
        return update

    def _text(self, token: int) -> str:
        return self.run.decode([token])

    def _replays(self) -> list[Outcome]:
        success: Outcome = "success"
        failure: Outcome = "failure"
        return [success] * self.settings.replay.successes + [failure] * self.settings.replay.failures

    def _remember(self, groups: Sequence[Group], first: bool = False) -> None:
        if not self._replays():
            return
        if first and self.settings.replay.source == "step":
            self.replay.clear()
        lengths = {group.problem.id: len(self.run.collector.prompt_ids(group.problem)) for group in groups}
        self.replay.add(groups, lengths)

    def _refresh_reference(self) -> None:
        every = self.settings.refresh_reference
        if self.reference is not None and every and (self.run.state.stage_step % every == 0):
            self.reference.refresh()

    def _log(
        self,
        sampled: Sampled,
        replays: Sequence[tuple[Outcome, Group]],
        updates: Sequence[Update],
        extra: Mapping[str, float],
        began: float,
    ) -> None:
        groups, replayed = sampled.groups, [group for _, group in replays]
        more = self.run.collector.take_times() if replays else {}
        times = {name: seconds + more.get(name, 0.0) for name, seconds in sampled.times.items()}
        times["sync"] = self._sync_seconds
        peak = max(self.run.ranks.gather(peak_memory()))
        row = {
            **metrics.of_rewards(groups, self.run.evaluation.success),
            **metrics.of_parts(groups, self.run.evaluation.success, list(self.run.task.part_weights)),
            **metrics.of_difficulty(groups, self.settings.rollouts.curriculum),
            **metrics.of_tokens(groups, replayed, updates),
            **(metrics.of_tools(groups) if self.run.collector.tooled else {}),
            **metrics.of_updates(updates),
            "replay/success": sum(outcome == "success" for outcome, _ in replays),
            "replay/failure": sum(outcome == "failure" for outcome, _ in replays),
            **extra,
            **metrics.of_time(times, updates, groups, replayed, time.perf_counter() - began, peak),
        }
        if row["reward/mean"] is not None:
            self.run.state.rewards.append(row["reward/mean"])
        self.run.log("rl", row)


def has_plateaued(rewards: Sequence[float], window: int, patience: int, rise: float) -> bool:
    """Whether the moving mean over `window` steps has risen by less than `rise` in the last `patience` steps."""
    if len(rewards) < window + patience:
        return False
    means = [statistics.fmean(rewards[i - window : i]) for i in range(window, len(rewards) + 1)]
    return max(means[-patience:]) < max(means[:-patience]) + rise
