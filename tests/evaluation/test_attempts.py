"""Asking: every question once, from streams of its own, and what is kept of it."""

from __future__ import annotations

from typing import Any

import pytest

from scripted import Echo, Scripted
from tessera.core.errors import UserError
from tessera.core.types import Problem
from tessera.environments.settings import EnvironmentSettings, PythonSettings, ToolSettings
from tessera.evaluation.attempts import Part, attempts, check_group, plain
from tessera.policy.load import Policy
from tessera.rollout.collect import Collector
from tessera.rollout.episodes import Tooled
from tessera.rollout.hf import HFEngine
from tessera.tasks.in_memory import InMemoryTask
from tessera.tasks.options import read_options
from tiny import tiny_policy

PROBLEMS = [Problem(str(i), f"{i}?", i, metadata={"size": i % 2}) for i in range(5)]


@pytest.fixture(scope="module")
def policy() -> Policy:
    return tiny_policy()


def part(**changes: Any) -> Part:
    return Part(**{"name": "p", "task": {"name": "in memory"}, "max_new_tokens": 6, **changes})


def early(text: str) -> bool:
    return any("a" <= c <= "m" for c in text)


def late(text: str) -> bool:
    return any("n" <= c <= "z" for c in text)


class Letters(InMemoryTask):
    """Right is a text with a letter from a to m; its answer is its first character; one with n to z cannot be read."""

    def __init__(self) -> None:
        super().__init__([{"prompt": "x"}], reward_fn=lambda problem, text: float(early(text)) / 2)

    def correct(self, problem: Problem, text: str) -> bool:
        return early(text)

    def answer_of(self, problem: Problem, text: str) -> str | None:
        if late(text):
            raise ValueError("too late")
        return text[:1] or None


def asked(
    policy: Policy, part: Part, done: frozenset[str] = frozenset(), at_once: int = 4
) -> list[list[dict[str, Any]]]:
    collector = Collector(HFEngine(policy), policy, Letters())
    return list(attempts(collector, part, PROBLEMS, done=done, seed=3, at_once=at_once))


def test_chunks_hold_whole_questions(policy: Policy) -> None:
    chunks = asked(policy, part(samples=2, temperature=1.0))
    assert [len(chunk) for chunk in chunks] == [4, 4, 2]
    assert [(row["problem_id"], row["sample"]) for chunk in chunks for row in chunk] == [
        (str(i), sample) for i in range(5) for sample in range(2)
    ]
    assert [len(chunk) for chunk in asked(policy, part(samples=2, temperature=1.0), at_once=1)] == [2] * 5


def test_what_is_asked_together_or_was_asked_before_changes_nothing(policy: Policy) -> None:
    sampled = part(samples=2, temperature=1.0)
    rows = [row for chunk in asked(policy, sampled) for row in chunk]
    assert [row for chunk in asked(policy, sampled, at_once=100) for row in chunk] == rows
    later = [row for chunk in asked(policy, sampled, done=frozenset("02")) for row in chunk]
    assert later == [row for row in rows if row["problem_id"] in "134"]
    assert len({row["text"] for row in rows}) == 10  # every attempt has a stream of its own


def test_a_row_says_what_was_asked_and_what_became_of_it(policy: Policy) -> None:
    rows = [row for chunk in asked(policy, part(by="size", samples=8, temperature=1.0)) for row in chunk]
    assert {row["prompt"] for row in rows} == {f"<bos>{i}?" for i in range(5)}
    for row in rows:
        assert row["by"] == str(int(row["problem_id"]) % 2)
        assert row["gold"] == int(row["problem_id"])
        assert row["solved"] == early(row["text"])
        assert row["reward"] == row["solved"] / 2
        unread = late(row["text"])
        assert (row["answer"], row["error"]) == (
            (None, "ValueError: too late") if unread else (row["text"][:1] or None, None)
        )
    assert {row["solved"] for row in rows} == {True, False}
    assert any(row["error"] for row in rows)


def test_a_row_says_what_tools_were_asked(policy: Policy) -> None:
    script = lambda request, text: "<echo>a</echo>" if text.endswith(("0?", "3?")) else "a"  # noqa: E731
    settings = EnvironmentSettings(tools=ToolSettings(python=PythonSettings()), introduce=False)
    collector = Collector(Scripted(policy, script), policy, Letters(), tooled=Tooled(policy, settings, [Echo()]))
    (rows,) = attempts(collector, part(max_new_tokens=60), PROBLEMS, done=frozenset(), seed=3, at_once=8)
    call = {"tool": "echo", "arguments": {"text": "a"}, "failure": None, "empty": False}
    told = {row["problem_id"]: [turn["calls"] for turn in row["turns"]] for row in rows}
    assert told == {"0": [(call,)], "1": [], "2": [], "3": [(call,)], "4": []}


def test_with_success_solved_is_a_reward_of_at_least_that(policy: Policy) -> None:
    rows = [row for chunk in asked(policy, part(success=0.6, samples=8, temperature=1.0)) for row in chunk]
    assert not any(row["solved"] for row in rows)


def test_the_same_attempt_many_times_is_refused() -> None:
    with pytest.raises(UserError, match="4 samples at temperature 0 are the same answer so many times"):
        read_options(Part, {"name": "p", "task": {}, "samples": 4}, "evaluation of p")


def test_a_group_that_the_problems_do_not_name_is_refused() -> None:
    check_group(part(by="size"), PROBLEMS)
    with pytest.raises(UserError, match="part p: problem '0' has no 'people' to be scored by"):
        check_group(part(by="people"), PROBLEMS)


def test_gold_answers_become_plain() -> None:
    assert plain((1, "a", None)) == [1, "a", None]
    assert plain({"a"}) == "{'a'}"
