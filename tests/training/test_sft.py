"""The supervised stage: its loss by hand, how long it is, what it harvests, and its stopping rule."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from runs import TRAIN, VALIDATION, rl, rows_of, run, sft
from tessera.core.errors import RunStopped
from tessera.core.types import Problem
from tessera.policy.adapters import adapter_state
from tessera.policy.forest import Row
from tessera.policy.load import Policy
from tessera.policy.logprobs import score
from tessera.training.settings import ComputeSettings
from tiny import tiny_policy

EOS = 2


def encoded(policy: Policy, text: str) -> tuple[int, ...]:
    return tuple(policy.tokenizer(text, add_special_tokens=False)["input_ids"])


def slow_loss(policy: Policy, rows: list[tuple[str, str]]) -> tuple[float, float]:
    """Mean of -log p over all trained tokens, and the share of them that is the first choice."""
    losses, right = [], []
    for prompt, text in rows:
        prompt_ids, ids = (1, *encoded(policy, prompt)), (*encoded(policy, text), EOS)
        logp_TV = torch.log_softmax(policy.model(torch.tensor([prompt_ids + ids])).logits[0], dim=-1)
        for t, token in enumerate(ids):
            at_V = logp_TV[len(prompt_ids) - 1 + t]
            losses.append(-at_V[token].item())
            right.append(at_V.argmax().item() == token)
    return sum(losses) / len(losses), sum(right) / len(right)


def test_the_first_loss_is_the_mean_over_the_tokens_of_the_batch(tmp_path: Path) -> None:
    """A batch as large as the data, so that it holds every row once; answers of one and of several characters."""
    data = [{"prompt": f"{n}=", "answer": "9" * (n + 1)} for n in range(5)]
    with torch.no_grad():
        loss, accuracy = slow_loss(tiny_policy(), [(row["prompt"], " " + row["answer"]) for row in data])
    run(tmp_path, sft(steps=1, batch_size=5), rows=(data, (), ()))
    (row,) = rows_of(tmp_path, "sft")
    assert row["loss"] == pytest.approx(loss, rel=1e-5)
    assert row["accuracy/token"] == pytest.approx(accuracy)
    assert row["tokens/trained"] == 5 + 15 + 5  # spaces, digits, ends
    assert row["grad_norm"] > 0


def test_micro_batches_change_nothing(tmp_path: Path) -> None:
    found = []
    for budget in (1, 30, 10**6):
        policy = tiny_policy(dtype=torch.float64)
        run(
            tmp_path / str(budget),
            sft(batch_size=8, compute=ComputeSettings(tokens_per_microbatch=budget)),
            policy=policy,
        )
        found.append((adapter_state(policy.model), [row["loss"] for row in rows_of(tmp_path / str(budget), "sft")]))
    for state, losses in found[1:]:
        assert losses == pytest.approx(found[0][1], rel=1e-12)
        for name, tensor in state.items():
            torch.testing.assert_close(tensor, found[0][0][name], rtol=0, atol=1e-9)


def test_a_few_rows_are_learnt(tmp_path: Path) -> None:
    data = [{"prompt": "2+2=", "answer": "4"}, {"prompt": "What?", "answer": "no"}]
    policy = tiny_policy()
    run(tmp_path, sft(steps=60, batch_size=2, optimizer={"lr": 3e-2}), rows=(data, (), ()), policy=policy)
    found = rows_of(tmp_path, "sft")
    assert found[0]["loss"] > 3
    assert found[-1]["loss"] < 0.3
    assert found[-1]["accuracy/token"] == 1.0


def solved(problem: Problem, text: str) -> float:
    return float(text.strip() == problem.answer)


def test_the_stage_stops_when_validation_is_solved(tmp_path: Path) -> None:
    data = [{"prompt": "2+2=", "answer": "4"}]
    stage = sft(steps=200, batch_size=1, optimizer={"lr": 3e-2}, stop_accuracy=1.0, check_every=5)
    sizes = {"max_new_tokens": 4}
    run(tmp_path, stage, rows=(data, [{"prompt": "2+2 =", "answer": "4"}], ()), reward=solved, evaluation=sizes)
    checks = rows_of(tmp_path, "eval")
    assert [row["step"] for row in checks] == list(range(5, 5 * len(checks) + 1, 5))
    assert [row["accuracy/value"] for row in checks] == [0.0] * (len(checks) - 1) + [1.0]
    assert len(rows_of(tmp_path, "sft")) == checks[-1]["step"] < 200


def test_a_threshold_that_is_not_reached_runs_to_the_end(tmp_path: Path) -> None:
    stage = sft(steps=4, stop_accuracy=0.5, check_every=2)
    run(tmp_path, stage, rl(steps=1), rows=(TRAIN, VALIDATION, ()), reward=lambda problem, text: 0.0)
    assert len(rows_of(tmp_path, "sft")) == 4
    assert [row["step"] for row in rows_of(tmp_path, "eval")] == [2, 4]


def test_rows_packed_side_by_side_see_nothing_of_each_other() -> None:
    """Prompts and completions that share prefixes of every length, in one forest and each alone."""
    policy = tiny_policy(dtype=torch.float64)
    rows = [
        Row((1, 30, 31), (60, 61, 2), (0, 1, 2)),
        Row((1, 30, 31), (60, 62, 2), (0, 1, 2)),
        Row((1, 30, 31, 60), (61, 2), (0, 1)),
        Row((1, 40), (41, 42, 43, 44, 2), tuple(range(5))),
    ]
    together = score(policy.model, rows).logp_N
    alone = torch.cat([score(policy.model, [row]).logp_N for row in rows])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)
    torch.testing.assert_close(together[1:3].sum(), together[6:8].sum(), rtol=0, atol=1e-12)  # 61, end after 1 30 31 60


def test_epochs_are_steps_over_what_there_is(tmp_path: Path) -> None:
    """12 rows, 5 a step: an epoch and a half are 18 examples, 3.6 steps."""
    run(tmp_path, sft(steps=None, epochs=1.5, batch_size=5))
    assert len(rows_of(tmp_path, "sft")) == 4


def vowels(problem: Problem, text: str) -> float:
    """Solved by a text that begins with a lower-case letter; a half for one in upper case."""
    return float(text[:1].islower()) or 0.5 * text[:1].isupper()


HARVEST = {"threshold": 0.5, "most": 2}


def test_what_an_rl_stage_sampled_is_learnt_after_it(tmp_path: Path) -> None:
    stages = (rl(steps=4, prompts_per_step=4, max_new_tokens=40), sft(steps=2, batch_size=3, harvest=HARVEST))
    summary = run(tmp_path, *stages, reward=vowels)
    kept = [json.loads(line) for line in (tmp_path / "harvest.jsonl").read_text().splitlines()]
    sampled = [json.loads(line) for line in (tmp_path / "completions.jsonl").read_text().splitlines()]
    good = [(row["step"], row["problem_id"], row["text"]) for row in sampled if row["reward"] >= 0.5]
    assert [(row["step"], row["problem_id"], row["completion"]) for row in kept] == good
    about = summary["stages"][1]
    whole = {(row["problem_id"], row["completion"]) for row in kept if row["finish_reason"] == "stop"}
    problems = {problem for problem, _ in whole}
    expected = sum(min(2, sum(p == problem for p, _ in whole)) for problem in problems)
    assert about["harvest"]["stage"] == "rl"
    assert (about["harvest"]["good"], about["harvest"]["distinct"]) == (len(kept), len(whole))
    assert (about["harvest"]["problems"], about["harvest"]["kept"], about["examples"]) == (
        len(problems), expected, expected,
    )  # fmt: skip
    assert expected > 3


def test_what_was_harvested_is_data_for_another_run(tmp_path: Path) -> None:
    stages = (rl(steps=2, prompts_per_step=4, max_new_tokens=40), sft(steps=1, harvest=HARVEST))
    run(tmp_path / "one", *stages, reward=vowels)
    kept = [json.loads(line) for line in (tmp_path / "one" / "harvest.jsonl").read_text().splitlines()]
    summary = run(tmp_path / "two", sft(steps=1, data=str(tmp_path / "one" / "harvest.jsonl")))
    assert summary["stages"][0]["examples"] == len(kept) > 3


def test_nothing_to_harvest_stops_the_run_and_says_what_would_help(tmp_path: Path) -> None:
    with pytest.raises(RunStopped, match=r"nothing to learn from stage rl: 0 completions solved its problem, and 0 of"):
        run(tmp_path, rl(steps=1), sft(harvest={}), reward=lambda problem, text: 0.0)
