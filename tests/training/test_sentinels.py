"""Each watcher fires on its cause, names it, and is quiet otherwise. The causes are real: whole runs that go wrong."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from runs import completions_of, letters, rl, rows_of, run, sft
from tessera.core.errors import RunStopped
from tessera.core.types import Completion, Group, Problem, Rollout
from tessera.policy.adapters import LoraSettings
from tessera.policy.load import Policy
from tessera.rollout.engine import Request, Sampling
from tessera.rollout.hf import HFEngine
from tessera.training.context import Observer
from tessera.training.sentinels import Sentinels
from tessera.training.settings import SentinelSettings
from tiny import TINY_LORA, tiny_policy


def stops(folder: Path, *stages: Any, **how: Any) -> str:
    """Run until it stops itself; what it said, which the summary says too."""
    with pytest.raises(RunStopped) as stopped:
        run(folder, *stages, **how)
    text = str(stopped.value)
    assert "\n" not in text
    assert json.loads((folder / "summary.json").read_text())["status"] == f"stopped: {text}"
    return text


class Pretender(HFEngine):
    """Samples from a policy of its own, and claims that it is the trainer's."""

    def __init__(self, own: Policy, trainer: Policy) -> None:
        super().__init__(own)
        self.trainer = trainer

    def fingerprint(self) -> str:
        return self.trainer.fingerprint()


class Hot(HFEngine):
    """Samples at another temperature than it is asked to."""

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        return super().generate(requests, sampling.model_copy(update={"temperature": 3 * sampling.temperature}))


class Broken(HFEngine):
    """Loses its log-probs."""

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        found = super().generate(requests, sampling)
        return [Completion(c.ids, (float("nan"),) * len(c.ids), c.finish_reason) for c in found]


def test_an_engine_with_other_weights_is_named_before_it_samples(tmp_path: Path) -> None:
    other = tiny_policy(seed=1)
    text = stops(tmp_path, engine=HFEngine(other))
    assert text.startswith(
        f"the rollout engine samples from other weights (fingerprint {other.fingerprint()}) than the"
    )
    assert "the sync did not reach it" in text
    assert rows_of(tmp_path, "rl") == completions_of(tmp_path) == []


def test_an_engine_that_only_claims_the_trainers_weights_is_found_out(tmp_path: Path) -> None:
    policy = tiny_policy()
    text = stops(tmp_path, policy=policy, engine=Pretender(tiny_policy(seed=1), policy))
    assert text.startswith("sampler and trainer disagree by ")
    assert "another temperature, precision, prompt or set of weights on one side" in text
    assert len(completions_of(tmp_path)) == 6  # what was sampled is on record


def test_a_sampler_of_another_temperature_is_found_out(tmp_path: Path) -> None:
    policy = tiny_policy()
    assert stops(tmp_path, rl(temperature=0.5), policy=policy, engine=Hot(policy)).startswith(
        "sampler and trainer disagree"
    )


def test_log_probs_that_are_not_numbers_are_found_out(tmp_path: Path) -> None:
    policy = tiny_policy()
    assert stops(tmp_path, policy=policy, engine=Broken(policy)).startswith("sampler and trainer disagree by nan")


def test_scoring_at_another_temperature_on_purpose_is_no_mismatch(tmp_path: Path) -> None:
    assert run(tmp_path, rl(temperature=0.5, score_temperature=1.0))["status"] == "finished"
    assert rows_of(tmp_path, "rl")[0]["mismatch/mean"] > 0.1
    same = rl(temperature=0.5, score_temperature=0.5)  # the sampler's own, said in numbers: watched again
    policy = tiny_policy()
    assert "disagree" in stops(tmp_path / "other", same, policy=policy, engine=Hot(policy))


def test_dropout_is_no_mismatch(tmp_path: Path) -> None:
    """The trainer's log-probs are those of a network with holes, the sampler's of the whole one."""
    lora = {**TINY_LORA.model_dump(), "dropout": 0.9}
    policy = tiny_policy(lora=LoraSettings(**lora))
    stage = rl(steps=6, optimizer={"lr": 0.1})
    assert run(tmp_path, stage, policy=policy, model={"name": "tiny", "lora": lora})["status"] == "finished"
    assert max(row["mismatch/mean"] or 0 for row in rows_of(tmp_path, "rl")) > 0.1


def test_a_learning_rate_that_moves_nothing_is_found_in_the_first_update(tmp_path: Path) -> None:
    text = stops(tmp_path, rl(optimizer={"lr": 1e-60}))
    assert text.startswith("no trainable parameter moved in the first update that carried credit: ")
    assert "the learning rate is 0 at this step" in text
    assert rows_of(tmp_path, "rl") == []


def test_a_warm_up_moves_from_its_first_step(tmp_path: Path) -> None:
    assert run(tmp_path, rl(optimizer={"lr": 1e-4, "warmup_steps": 1000}))["status"] == "finished"
    assert rows_of(tmp_path, "rl")[0]["learning_rate"] == pytest.approx(1e-4 / 1001)


def test_a_first_update_that_carries_only_a_penalty_is_no_alarm(tmp_path: Path) -> None:
    """At the start the policy is its reference: the KL's gradient is exactly 0, and equal rewards give no other."""
    late = itertools.count()
    reward = lambda problem, text: 1.0 if next(late) < 12 else letters(problem, text)  # noqa: E731
    assert run(tmp_path, rl({"name": "s_grpo", "beta": 0.1}, steps=4), reward=reward)["status"] == "finished"
    found = rows_of(tmp_path, "rl")
    assert [row["groups/zero_spread"] for row in found] == [1, 1, 0, 0]
    assert [row["updates"] for row in found] == [1, 1, 1, 1]
    assert found[1]["grad_norm"] == 0.0
    assert found[2]["grad_norm"] > 0
    assert found[2]["kl"] < 1e-12 < found[3]["kl"]  # the third step was the first to move


def test_the_watch_for_movement_waits_for_credit(tmp_path: Path) -> None:
    late = itertools.count()
    reward = lambda problem, text: 1.0 if next(late) < 12 else letters(problem, text)  # noqa: E731
    stage = rl({"name": "s_grpo", "beta": 0.1}, steps=4, optimizer={"lr": 1e-60})
    assert "no trainable parameter moved" in stops(tmp_path, stage, reward=reward)
    assert len(rows_of(tmp_path, "rl")) == 2


@pytest.mark.parametrize(
    "algorithm",
    [{"name": "t_spmo", "l2": 1e36}, {"name": "grpo", "regulariser": {"name": "l2", "strength": 1e36}}],
)
def test_a_gradient_that_is_not_finite_stops_before_it_moves_anything(tmp_path: Path, algorithm: Any) -> None:
    """A penalty of 1e36 is finite, and the squares of its gradient are not."""
    policy = tiny_policy()
    before = policy.fingerprint()
    text = stops(tmp_path, rl(algorithm), policy=policy)
    assert "with gradient norm inf: nothing was updated" in text
    assert policy.fingerprint() == before


def test_rewards_that_fail_past_their_share_stop_with_the_first_error(tmp_path: Path) -> None:
    def reward(problem: Problem, text: str) -> float:
        raise LookupError(f"no column\n'gold' for {problem.prompt}")

    text = stops(tmp_path, reward=reward)
    first = completions_of(tmp_path)[0]["error"]
    assert text == f"the reward failed on 6 of 6 completions of a step (limit 50%); the first: {first}"
    assert first.startswith("LookupError: no column 'gold' for ")


@pytest.mark.parametrize(("limit", "goes_on"), [(0.5, True), (0.1, False), (0.0, False)])
def test_fewer_failures_than_the_limit_go_on(tmp_path: Path, limit: float, goes_on: bool) -> None:
    turn = itertools.count()

    def reward(problem: Problem, text: str) -> float:
        return float("nan") if next(turn) % 6 == 2 else letters(problem, text)

    stage = rl(sentinels={"reward_failures": limit, "truncation_rate": 1.0})
    if not goes_on:
        assert "failed on 1 of 6" in stops(tmp_path, stage, reward=reward)
        return
    assert run(tmp_path, stage, reward=reward)["status"] == "finished"
    assert [row["rollouts/failed"] for row in rows_of(tmp_path, "rl")] == [1, 1, 1]


class Steps(Observer):
    """Counts the steps that are over."""

    over = 0

    def row(self, row: Mapping[str, Any]) -> None:
        self.over += 1


def test_a_run_without_spread_is_warned_once_a_streak(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Flat in all steps but the sixth, with a limit of 3: warned of in step 3 and in step 9, and replays, which are
    flat too, are no steps."""
    steps = Steps()
    reward = lambda problem, text: letters(problem, text) if steps.over == 5 else 1.0  # noqa: E731
    stage = rl(
        steps=9,
        replay={"successes": 1, "source": "step"},
        sentinels={"no_spread_steps": 3, "truncation_rate": 1.0},
        max_new_tokens=8,
    )
    run(tmp_path, stage, reward=reward, observers=[steps])
    assert [row["groups/zero_spread"] for row in rows_of(tmp_path, "rl")] == [1, 1, 1, 1, 1, 0, 1, 1, 1]
    assert [message[:64] for message in caplog.messages] == [
        "no group had different rewards for 3 steps, so nothing is learnt"
    ] * 2


def test_truncation_is_warned_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(tmp_path, rl(max_new_tokens=2, sentinels={"truncation_rate": 0.4}))
    assert all(row["truncation_rate"] > 0.4 for row in rows_of(tmp_path, "rl"))
    (message,) = caplog.messages
    assert message.endswith(" of completions are cut at the token limit: raise max_new_tokens")


def test_a_healthy_run_is_quiet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="tessera"):
        replay = {"successes": 1, "failures": 1}
        stages = (sft(), rl({"name": "t_spmo"}, replay=replay), rl({"name": "s_grpo", "beta": 0.1}, name="more"))
        assert run(tmp_path, *stages)["status"] == "finished"
    assert caplog.messages == []
    found = rows_of(tmp_path, "rl")
    assert all(row["mismatch/max"] < 1e-3 for row in found if row["mismatch/max"] is not None)
    assert sum(row["updates"] for row in found) >= 4


def rollouts(*rewards: float | None) -> list[Group]:
    made = tuple(
        Rollout((1,), (2,), (True,), (0.0,), "stop", "", r, error=None if r is not None else "why") for r in rewards
    )
    return [Group(Problem("p", "?", None), (1,), made)]


def test_the_limits_themselves_are_allowed() -> None:
    watch = Sentinels(SentinelSettings(mismatch=0.5, reward_failures=0.25))
    watch.mismatch([torch.tensor([0.75, -0.25])])  # mean 0.5
    with pytest.raises(RunStopped, match=r"disagree by 0.501 .* \(limit 0.5\)"):
        watch.mismatch([torch.tensor([0.752]), torch.tensor([-0.25])])
    watch.mismatch([])
    watch.rewards(rollouts(1.0, None, 0.0, 1.0))
    with pytest.raises(RunStopped, match="failed on 2 of 4"):
        watch.rewards(rollouts(1.0, None, None, 1.0))


def test_movement_is_looked_for_once() -> None:
    watch = Sentinels(SentinelSettings())
    with pytest.raises(RunStopped):
        watch.weights_moved("a", "a")
    watch.weights_moved("a", "b")
    watch.weights_moved("b", "b")  # later updates may be too small to see
