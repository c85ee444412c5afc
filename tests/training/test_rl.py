"""The RL stage: what is sampled, replayed, compared with a reference, kept and stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from runs import TRAIN, VALIDATION, completions_of, letters, rl, rows_of, run, sft, without_times
from tessera.core.types import Completion, Problem
from tessera.evaluation.evaluate import Evaluation
from tessera.policy.adapters import LoraSettings, adapter_state, set_adapter_state
from tessera.policy.load import Policy
from tessera.rollout.engine import Request, Sampling
from tessera.rollout.hf import HFEngine
from tessera.training.context import Observer, RunContext
from tessera.training.rl import has_plateaued
from tiny import TINY_LORA, tiny_policy


class Watched(HFEngine):
    """Remembers what it was asked for."""

    def __init__(self, policy: Any) -> None:
        super().__init__(policy)
        self.asked: list[tuple[list[Request], Sampling]] = []

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        self.asked.append((list(requests), sampling))
        return super().generate(requests, sampling)


class Apart(HFEngine):
    """Samples with weights of its own, which are the trainer's as of the last sync."""

    def __init__(self, trainer: Policy) -> None:
        super().__init__(tiny_policy())
        self.trainer = trainer
        self.syncs = 0

    def sync(self) -> None:
        self.syncs += 1
        set_adapter_state(self.policy.model, adapter_state(self.trainer.model))


def watched() -> Watched:
    """Completions of this policy end early or late: a third of its tokens are ends."""
    return Watched(replace(tiny_policy(), eos_ids=frozenset(range(6, 40))))


def test_every_problem_is_met_once_an_epoch_in_groups_of_the_size_asked_for(tmp_path: Path) -> None:
    run(tmp_path, rl(steps=8, prompts_per_step=3, group_size=4))
    found = completions_of(tmp_path)
    assert len(found) == 8 * 3 * 4
    met = [row["problem_id"] for row in found[::4]]
    assert all(found[i]["problem_id"] == met[i // 4] for i in range(len(found)))
    names = {f"train-{i}" for i in range(12)}
    assert set(met[:12]) == set(met[12:]) == names  # 24 prompts of 12 problems
    assert met[:12] != met[12:]
    assert [row["groups/total"] for row in rows_of(tmp_path, "rl")] == [3] * 8


def test_the_seed_decides_everything(tmp_path: Path) -> None:
    stage = rl({"name": "s_grpo", "probability": 0.5, "cutoff": 1}, group_size=4)
    torch.manual_seed(11)  # the global generator decides nothing
    first = run(tmp_path / "a", stage, model={"name": "tiny", "lora": {**TINY_LORA.model_dump(), "dropout": 0.2}})
    torch.manual_seed(12)
    run(tmp_path / "b", stage, model={"name": "tiny", "lora": {**TINY_LORA.model_dump(), "dropout": 0.2}})
    run(tmp_path / "c", stage, seed=2)
    assert first["status"] == "finished"
    saved = [(tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes() for name in "abc"]
    assert saved[0] == saved[1] != saved[2]
    assert without_times(rows_of(tmp_path / "a")) == without_times(rows_of(tmp_path / "b"))
    assert completions_of(tmp_path / "a") == completions_of(tmp_path / "b") != completions_of(tmp_path / "c")


def test_rates_and_temperature_are_those_of_the_stage(tmp_path: Path) -> None:
    engine = watched()
    optimizer = {"lr": 1e-3, "warmup_steps": 1, "schedule": "linear"}
    run(tmp_path, rl(temperature=0.4, optimizer=optimizer), policy=engine.policy, engine=engine)
    assert [row["learning_rate"] for row in rows_of(tmp_path, "rl")] == pytest.approx([5e-4, 1e-3, 5e-4])
    assert [sampling for _, sampling in engine.asked] == [
        Sampling(max_new_tokens=6, temperature=0.4, keep_trunk=True)
    ] * 3


REPLAY = {"successes": 1, "failures": 1}


def test_replays_start_inside_earlier_completions_and_end_at_the_limit(tmp_path: Path) -> None:
    """A replay is prompted with a problem's prompt and the first tokens of an earlier completion of that problem; what
    it may still write is what the limit leaves."""
    engine = watched()
    stage = rl("t_spmo", steps=8, replay=REPLAY, max_new_tokens=10)
    run(tmp_path, stage, policy=engine.policy, engine=engine, evaluation={"success": 0.5})
    rows = rows_of(tmp_path, "rl")
    replays = sum(row["replay/success"] + row["replay/failure"] for row in rows)
    assert replays >= 8
    assert len(engine.asked) == 8 + replays
    assert sum(row["replay/skipped"] for row in rows) == 16 - replays
    prompts = {tuple(engine.policy.tokenizer(row["prompt"])["input_ids"]) for row in TRAIN}
    prefixes = []
    for requests, sampling in engine.asked:
        assert len({r.prompt_ids for r in requests}) == 1
        (own,) = [p for p in prompts if requests[0].prompt_ids[: len(p)] == p]
        prefix = requests[0].prompt_ids[len(own) :]
        assert len(prefix) + sampling.max_new_tokens == 10
        prefixes.append(prefix)
    assert max(map(len, prefixes)) > 3
    texts = [row["text"] for row in completions_of(tmp_path)]
    for prefix in prefixes:
        shown = engine.policy.tokenizer.decode(list(prefix))
        assert any(text.startswith(shown) for text in texts)


def test_a_replay_is_graded_on_the_whole_completion_and_counts_in_its_step(tmp_path: Path) -> None:
    run(tmp_path, rl("t_spmo", steps=6, replay=REPLAY, max_new_tokens=8), evaluation={"success": 0.5})
    rows, texts = rows_of(tmp_path, "rl"), completions_of(tmp_path)
    for row in rows:
        own = [t for t in texts if t["step"] == row["step"]]
        assert len(own) == 6 * (1 + row["replay/success"] + row["replay/failure"])
        assert row["tokens/generated"] == sum(t["tokens"] for t in own)
        assert row["reward/mean"] == pytest.approx(sum(t["reward"] for t in own[:6]) / 6)  # replays left out
    problem = Problem("any", "", None)
    assert all(t["reward"] == letters(problem, t["text"]) for t in texts)
    assert any(t["tokens"] < len(t["text"]) for t in texts)  # a prefix is in the text and was not generated again


@pytest.mark.parametrize("source", ["step", "buffer"])
def test_replays_come_from_this_step_or_from_all(tmp_path: Path, source: str) -> None:
    run(tmp_path, rl("t_spmo", steps=8, replay={**REPLAY, "source": source}), evaluation={"success": 0.5})
    others = 0
    texts = completions_of(tmp_path)
    for step in range(1, 9):
        problems = [t["problem_id"] for t in texts if t["step"] == step]
        others += sum(p != problems[0] for p in problems)
    assert (others == 0) == (source == "step")


def test_an_engine_of_its_own_weights_is_synced_before_every_rollout(tmp_path: Path) -> None:
    """Replays too sample from the policy as it is after the updates before them."""
    stage = rl("t_spmo", steps=5, replay=REPLAY, optimizer={"lr": 3e-2})
    how: dict[str, Any] = {"rows": (TRAIN, VALIDATION, ()), "evaluation": {"success": 0.5}}
    run(tmp_path / "inside", stage, **how)
    trainer = tiny_policy()
    engine = Apart(trainer)
    run(tmp_path / "apart", stage, policy=trainer, engine=engine, **how)
    rows = rows_of(tmp_path / "apart", "rl")
    assert completions_of(tmp_path / "apart") == completions_of(tmp_path / "inside")
    assert without_times(rows) == without_times(rows_of(tmp_path / "inside", "rl"))
    assert engine.syncs >= sum(1 + row["replay/success"] + row["replay/failure"] for row in rows) > 8


def test_without_replays_nothing_is_remembered(tmp_path: Path) -> None:
    run(tmp_path, rl("t_spmo"))
    rows = rows_of(tmp_path, "rl")
    assert [(r["replay/success"], r["replay/failure"], r["replay/skipped"]) for r in rows] == [(0, 0, 0)] * 3


def kls(folder: Path, *stages: Mapping[str, Any]) -> list[float]:
    run(folder, *stages)
    return [row["kl"] for row in rows_of(folder, "rl")]


PENALISED = {"name": "grpo", "beta": 0.01}


def test_the_reference_is_the_policy_at_the_start_of_the_stage(tmp_path: Path) -> None:
    found = kls(tmp_path, sft(), rl(PENALISED))
    assert found[0] < 1e-9  # after another stage, too
    assert min(found[1:]) > 1e-6


def test_the_initial_reference_is_the_model_without_its_adapter(tmp_path: Path) -> None:
    assert kls(tmp_path, sft(), rl(PENALISED, reference="initial"))[0] > 1e-6


def test_a_refreshed_reference_is_the_policy_of_that_step(tmp_path: Path) -> None:
    found = kls(tmp_path, rl(PENALISED, steps=5, refresh_reference=2, optimizer={"lr": 1e-2}))
    assert [kl > 1e-6 for kl in found] == [False, True, False, True, False]


def test_a_method_without_penalty_has_no_reference_and_no_kl(tmp_path: Path) -> None:
    assert kls(tmp_path, rl("grpo")) == [None] * 3


def test_the_best_adapter_by_validation_ends_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Validated after steps 2, 4, 6 and 8 with .2, .9, .9 and .5: the adapter after step 4 is kept."""
    values, adapters = iter([2, 9, 9, 5]), []

    def validate(context: RunContext) -> Evaluation:
        adapters.append(adapter_state(context.policy.model))
        solved = next(values)
        return Evaluation((True,) * solved + (False,) * (10 - solved), ())

    monkeypatch.setattr(RunContext, "validate", validate)
    for name, keep in (("best", True), ("last", False)):
        policy = tiny_policy()
        values = iter([2, 9, 9, 5])
        stage = rl(steps=9, evaluate_every=2, keep_best=keep, optimizer={"lr": 1e-2})
        run(tmp_path / name, stage, policy=policy, rows=(TRAIN, VALIDATION, ()))
        final = adapter_state(policy.model)
        at = [all(torch.equal(final[k], seen[k]) for k in final) for seen in adapters]
        assert at == ([False, True, False, False] if keep else [False] * 8)


def test_validation_is_greedy_and_logged(tmp_path: Path) -> None:
    engine = watched()
    rows = (TRAIN, VALIDATION, ())
    sizes = {"validation_size": 3, "max_new_tokens": 4}
    run(tmp_path, rl(steps=4, evaluate_every=2), policy=engine.policy, engine=engine, rows=rows, evaluation=sizes)
    found = rows_of(tmp_path, "eval")
    assert [(row["step"], row["split"], row["accuracy/n"]) for row in found] == [
        (2, "validation", 3),
        (4, "validation", 3),
    ]
    assert "label" not in found[0]
    asked = [(len(requests), sampling) for requests, sampling in engine.asked if sampling.temperature == 0]
    assert asked == [(3, Sampling(max_new_tokens=4, temperature=0.0))] * 2


def test_plateaus_by_hand() -> None:
    rising = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    flat = [0.0, 0.4, 0.4, 0.4, 0.4, 0.4]
    # Means over 2 of `flat`: .2 .4 .4 .4 .4. The last 3 reach .4, as did the ones before.
    assert has_plateaued(flat, window=2, patience=3, rise=0.01)
    assert not has_plateaued(flat[:-1], window=2, patience=3, rise=0.01)  # .2 | .4 .4 .4: it rose
    assert not has_plateaued(flat[:-2], window=2, patience=3, rise=0.01)  # too few to tell
    assert not has_plateaued(rising, window=2, patience=3, rise=0.01)
    # Means of `rising`: .05 .15 | .25 .35 .45: a rise of .3 in 3 steps, more than .29 and less than .31.
    assert not has_plateaued(rising, window=2, patience=3, rise=0.29)
    assert has_plateaued(rising, window=2, patience=3, rise=0.31)
    assert has_plateaued([0.5, 0.9, 0.2, 0.1, 0.0], window=1, patience=3, rise=0.0)  # falling


class Notes(Observer):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.steps: list[tuple[str, int, int]] = []

    def message(self, text: str) -> None:
        self.said.append(text)

    def progress(self, what: str, done: int, total: int) -> None:
        self.steps.append((what, done, total))


def test_a_plateau_ends_the_stage_and_the_next_begins(tmp_path: Path) -> None:
    notes = Notes()
    rule = {"window": 2, "patience": 3, "rise": 0.01}
    stages = (rl(steps=20, plateau=rule, name="flat"), rl(steps=2, name="after"))
    run(tmp_path, *stages, reward=lambda problem, text: 0.5, observers=[notes])
    assert [row["stage"] for row in rows_of(tmp_path, "rl")] == ["flat"] * 5 + ["after"] * 2
    assert notes.steps == [("flat", n, 20) for n in range(1, 6)] + [("after", 1, 2), ("after", 2, 2)]
    said = "stage flat ended after 5 steps: the mean reward has not risen by 0.01 in 3 steps"
    assert said in notes.said


def test_the_time_of_a_step_holds_its_parts(tmp_path: Path) -> None:
    run(tmp_path, rl("t_spmo", replay={"successes": 2}), reward=lambda problem, text: 1.0 if text < "R" else 0.0)
    for row in rows_of(tmp_path, "rl"):
        parts = [row[f"time/{part}"] for part in ("rollout", "reward", "scoring", "backward", "sync")]
        assert all(part >= 0 for part in parts)
        assert sum(parts) <= row["time/step"]
        assert row["speed/rollout"] == pytest.approx(row["tokens/generated"] / row["time/rollout"])


def test_dropout_is_on_in_updates_alone(tmp_path: Path) -> None:
    policy = tiny_policy(lora=LoraSettings(**{**TINY_LORA.model_dump(), "dropout": 0.5}))
    seen: dict[str, set[bool]] = {"sampling": set(), "update": set()}
    dropouts = [m for name, m in policy.model.named_modules() if "lora_dropout" in name]
    for module in dropouts:
        module.register_forward_hook(
            lambda m, inputs, output: seen["update" if torch.is_grad_enabled() else "sampling"].add(m.training)
        )
    run(tmp_path, rl(steps=2, sentinels={"truncation_rate": 1.0}), policy=policy)
    assert seen == {"sampling": {False}, "update": {True}}
    assert not any(module.training for module in dropouts)
