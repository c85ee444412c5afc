"""What a supervised stage learns: gold answers, rows of a file, harvested completions; never what is evaluated."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runs import letters
from tessera.core.errors import UserError
from tessera.policy.load import Policy
from tessera.rollout.collect import Collector
from tessera.rollout.hf import HFEngine
from tessera.tasks.base import LoadedTask
from tessera.tasks.in_memory import InMemoryTask
from tessera.training.examples import examples, harvested, rows
from tessera.training.settings import SFTStage
from tiny import tiny_policy

EOS = 2


@pytest.fixture(scope="module")
def policy() -> Policy:
    return tiny_policy()


def task(*train: dict[str, Any], **more: Any) -> LoadedTask:
    return LoadedTask.load("t", InMemoryTask(list(train), reward_fn=letters, **more))


def learnt(policy: Policy, loaded: LoadedTask, **settings: Any) -> list[tuple[str, str]]:
    """Prompt and continuation of each row as the model reads them."""
    learnt = examples(loaded, SFTStage(steps=1, **settings))
    found = rows(Collector(HFEngine(policy), policy, loaded.task), learnt)
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
        assert rows(Collector(HFEngine(other), other, loaded.task), examples(loaded, settings))[0].ids[-1] == last


def test_a_problem_without_gold_answer_is_named(policy: Policy) -> None:
    loaded = task({"prompt": "1+2=", "answer": 3}, {"prompt": "write a poem"})
    with pytest.raises(UserError, match=r"problem 'train-1' has no gold answer to learn from: give the stage `data`"):
        examples(loaded, SFTStage(steps=1))


def test_a_pair_beyond_the_context_is_refused(policy: Policy) -> None:
    with pytest.raises(UserError, match=r"problem 'train-0' does not fit: 5 prompt tokens \+ 602 new tokens"):
        learnt(policy, task({"prompt": "1+2=", "answer": "3" * 600}))


def curated(path: Path, *lines: dict[str, Any]) -> str:
    file = path / "traces.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    return str(file)


def chat(*turns: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in zip(("user", "assistant") * 3, turns, strict=False)]


def test_the_last_of_the_messages_is_learnt(policy: Policy, tmp_path: Path) -> None:
    lines = [{"messages": chat("?", "yes")}, {"messages": chat("a", "b", "c", "d")}]
    found = learnt(policy, task({"prompt": "x", "answer": 1}), data=curated(tmp_path, *lines))
    opening = "<|im_start|>assistant\n"
    assert found == [
        (f"<|im_start|>user\n?<|im_end|>\n{opening}", "yes"),
        (
            f"<|im_start|>user\na<|im_end|>\n{opening}b<|im_end|>\n<|im_start|>user\nc<|im_end|>\n{opening}",
            "d",
        ),
    ]


def test_a_completion_may_be_an_assistants_message(policy: Policy, tmp_path: Path) -> None:
    lines = [{"prompt": chat("?"), "completion": [{"role": "assistant", "content": "ok"}]}]
    assert learnt(policy, task({"prompt": "x", "answer": 1}), data=curated(tmp_path, *lines))[0][1] == "ok"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"prompt": "a"}, "line 1 has no column 'completion'"),
        ({"prompt": "a", "completion": " "}, "line 1 holds nothing to learn: ' ' must be a text"),
        ({"prompt": "a", "completion": None}, "line 1 holds nothing to learn: None must be a text"),
        ({"prompt": "a", "completion": chat("b")}, "line 1 holds nothing to learn"),
        ({"messages": chat("a")}, "line 1: messages = .* must be a list, at least of a turn and its answer"),
        ({"messages": chat("a", "b", "c")}, "line 1 holds nothing to learn"),
        ({"messages": "a"}, "line 1: messages = 'a' must be a list"),
    ],
)
def test_a_row_that_teaches_nothing_is_named(tmp_path: Path, line: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        examples(task({"prompt": "x", "answer": 1}), SFTStage(steps=1, data=curated(tmp_path, line)))


HELD_OUT = {
    "validation": [{"prompt": "2+2=", "answer": 4}],
    "test": [{"prompt": chat("What is 3+4?"), "answer": 7}],
}


@pytest.mark.parametrize(
    "line",
    [
        {"prompt": " 2+2= ", "completion": "4"},
        {"messages": chat("2+2=", "4")},
        {"prompt": chat("what is  3+4?"), "completion": "7"},
        {"prompt": "What is 3+4?", "completion": "7"},
        {"messages": [{"role": "system", "content": "Think."}, *chat("What is 3+4?", "7")]},
    ],
    ids=["the text", "in a chat", "in other case", "in plain text", "after a system message"],
)
def test_what_an_evaluation_asks_is_refused(tmp_path: Path, line: dict[str, Any]) -> None:
    loaded = task({"prompt": "x", "answer": 1}, validation=HELD_OUT["validation"], test=HELD_OUT["test"])
    data = curated(tmp_path, {"prompt": "1+1=", "completion": "2"}, line)
    with pytest.raises(UserError, match=r"line 2 asks what '(validation|test)-0' asks, which is evaluated"):
        examples(loaded, SFTStage(steps=1, data=data))


def test_harvested_traces_are_learnt_by_their_ids(policy: Policy) -> None:
    """Not by their text: 7 8 was sampled, whatever the text would be encoded as. No end is added to that."""
    loaded = task({"prompt": "1+2=", "answer": 3})
    told = {"problem_id": "train-0", "completion": "ab", "ids": [7, 8, 4]}
    found = harvested(loaded, [{**told, "sampled": [True] * 3}, {**told, "sampled": [True, False, True]}])
    row, with_a_tool = rows(Collector(HFEngine(policy), policy, loaded.task), found)
    assert (row.ids, row.positions) == ((7, 8, 4), (0, 1, 2))
    assert (with_a_tool.ids, with_a_tool.positions) == ((7, 8, 4), (0, 2))
    with pytest.raises(UserError, match="a trace of 'test-0', which is no train problem"):
        harvested(loaded, [{"problem_id": "test-0", "completion": "ab", "ids": [7], "sampled": [True]}])


def test_a_stage_that_harvests_learns_no_gold(tmp_path: Path) -> None:
    loaded = task({"prompt": "1+2=", "answer": 3})
    assert examples(loaded, SFTStage(steps=1, harvest={})) == []
    both = SFTStage(steps=1, harvest={}, data=curated(tmp_path, {"prompt": "a", "completion": "b"}))
    assert [example.text for example in examples(loaded, both)] == ["b"]
