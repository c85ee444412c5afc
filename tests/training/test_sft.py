"""The supervised stage: what is learnt, its loss by hand, and its stopping rule."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from runs import TRAIN, VALIDATION, letters, rl, rows_of, run, sft
from tessera.core.errors import UserError
from tessera.core.types import Problem
from tessera.policy.adapters import adapter_state
from tessera.policy.load import Policy
from tessera.rollout.collect import Collector
from tessera.rollout.hf import HFEngine
from tessera.tasks.base import LoadedTask
from tessera.tasks.in_memory import InMemoryTask
from tessera.training.settings import ComputeSettings, SFTStage
from tessera.training.sft import pairs, rows
from tiny import tiny_policy

EOS = 2


@pytest.fixture(scope="module")
def policy() -> Policy:
    return tiny_policy()


def task(*train: dict[str, Any], **more: Any) -> LoadedTask:
    return LoadedTask.load("t", InMemoryTask(list(train), reward_fn=letters, **more))


def encoded(policy: Policy, text: str) -> tuple[int, ...]:
    return tuple(policy.tokenizer(text, add_special_tokens=False)["input_ids"])


def learnt(policy: Policy, loaded: LoadedTask, **settings: Any) -> list[tuple[str, str]]:
    """Prompt and continuation of each row as the model reads them."""
    found = rows(Collector(HFEngine(policy), policy, loaded.task), loaded, SFTStage(steps=1, **settings))
    assert all(row.positions == tuple(range(len(row.ids))) for row in found)
    assert all(row.ids[-1] == EOS for row in found)
    decode = policy.tokenizer.decode
    return [(decode(list(row.prompt_ids)), decode(list(row.ids[:-1]))) for row in found]


def test_gold_answers_continue_their_prompts(policy: Policy) -> None:
    """A space parts what would run together; what brings its own white space, or a chat's turn, gets none."""
    chat = [{"role": "user", "content": "3+4?"}]
    found = learnt(
        policy,
        task(
            {"prompt": "1+2=", "answer": 3},
            {"prompt": "2+2= ", "answer": 4},
            {"prompt": "2+3=\n", "answer": 5},
            {"prompt": chat, "answer": 7},
            {"prompt": [*chat, {"role": "assistant", "content": "It is"}], "answer": 7},
        ),
    )
    assert [text for _, text in found] == [" 3", "4", "5", "7", " 7"]
    assert found[0][0] == "<bos>1+2="
    assert found[4][0].endswith("<|im_start|>assistant\nIt is")


def test_rows_of_a_file_are_learnt_as_they_are(policy: Policy, tmp_path: Path) -> None:
    file = tmp_path / "traces.jsonl"
    lines = [
        {"prompt": "1+2=", "completion": "3!"},
        {"prompt": [{"role": "user", "content": "?"}], "completion": " a\n"},
    ]
    file.write_text("\n".join(map(json.dumps, lines)))
    found = learnt(policy, task({"prompt": "x", "answer": 1}), data=str(file))
    assert found == [("<bos>1+2=", "3!"), ("<|im_start|>user\n?<|im_end|>\n<|im_start|>assistant\n", " a\n")]


def test_the_end_token_is_one_that_ends_a_completion(policy: Policy) -> None:
    """The tokenizer's own where sampling stops at it, else the first of those that sampling stops at."""
    loaded, settings = task({"prompt": "1+2=", "answer": 3}), SFTStage(steps=1)
    for ends, last in ((frozenset({4, 2}), 2), (frozenset({9, 4}), 4)):
        other = replace(policy, eos_ids=ends)
        assert rows(Collector(HFEngine(other), other, loaded.task), loaded, settings)[0].ids[-1] == last


def test_a_problem_without_gold_answer_is_named(policy: Policy) -> None:
    loaded = task({"prompt": "1+2=", "answer": 3}, {"prompt": "write a poem"})
    with pytest.raises(UserError, match=r"problem 'train-1' has no gold answer to learn from: give the stage `data`"):
        pairs(loaded, SFTStage(steps=1))


def test_a_pair_beyond_the_context_is_refused(policy: Policy) -> None:
    with pytest.raises(UserError, match=r"problem 'train-0' does not fit: 5 prompt tokens \+ 602 new tokens"):
        learnt(policy, task({"prompt": "1+2=", "answer": "3" * 600}))


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
