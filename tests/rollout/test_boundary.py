"""A reward that fails is data: the rollout's error, in one line."""

from __future__ import annotations

from typing import Any

import pytest

from scripted import Echo
from tessera.core.errors import RunStopped
from tessera.core.types import Problem
from tessera.environments.syntax import Result
from tessera.environments.tool import Call, ToolFailed
from tessera.rollout.boundary import Grade, attempt, grade, run_tool
from tessera.training.interrupt import Interrupted

PROBLEM = Problem("p", "2+2=", 4)


class Returns:
    """A task whose reward is a given value, or raises it."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def reward(self, problem: Problem, text: str) -> Any:
        assert (problem, text) == (PROBLEM, "4")
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value


def graded(value: Any) -> Grade:
    return grade(Returns(value), PROBLEM, "4")


def test_a_number_is_the_reward() -> None:
    assert graded(0.5) == Grade(0.5, {}, None, False)
    assert graded(True) == Grade(1.0, {}, None, True)


def test_components_add_up_unless_the_total_is_named() -> None:
    assert graded({"right": 1.0, "format": 0.25}) == Grade(1.25, {"right": 1.0, "format": 0.25}, None, True)
    assert graded({"right": 1.0, "reward": 3.0}) == Grade(3.0, {"right": 1.0}, None, True)


def test_a_task_may_judge_its_answers_apart_from_its_reward() -> None:
    class Graded(Returns):
        def correct(self, problem: Problem, text: str) -> bool:
            return text == "4"

    assert grade(Graded(-1.0), PROBLEM, "4") == Grade(-1.0, {}, None, True)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (ValueError("no number\nin   the text"), "ValueError: no number in the text"),
        (KeyError("gold"), "KeyError: 'gold'"),
        (RecursionError(), "RecursionError: "),
        (float("nan"), "UserError: the reward is nan; it must be finite"),
        (float("inf"), "UserError: the reward is inf; it must be finite"),
        ({"a": float("nan")}, "UserError: the reward component 'a' is nan; it must be finite"),
        (None, "UserError: the reward is None, a NoneType; it must be a number"),
        ("1.0", "UserError: the reward is '1.0', a str; it must be a number"),
    ],
)
def test_what_fails_is_an_error_with_its_text(value: Any, error: str) -> None:
    assert graded(value) == Grade(None, {}, error)


@pytest.mark.parametrize("error", [Interrupted(), KeyboardInterrupt(), SystemExit(3)])
def test_a_request_to_stop_is_no_failed_reward(error: BaseException) -> None:
    with pytest.raises(type(error)):
        graded(error)


def raises(error: BaseException) -> Any:
    raise error


def test_what_a_run_can_do_without_is_attempted() -> None:
    assert attempt(lambda: 3) == (3, None)
    assert attempt(lambda: raises(ConnectionError("no\n answer"))) == (None, "ConnectionError: no answer")


@pytest.mark.parametrize("error", [RunStopped("full"), Interrupted(), KeyboardInterrupt()])
def test_an_attempt_hides_neither_tesseras_own_errors_nor_a_stop(error: BaseException) -> None:
    with pytest.raises(type(error)):
        attempt(lambda: raises(error))


def test_what_a_tool_says_is_text_that_can_be_encoded() -> None:
    """Half of a surrogate pair, as JSON of a server or a file name may hold it, would stop a tokenizer, and the run."""

    def fails(text: str) -> str:
        raise ToolFailed("crash", "no \udc00")

    assert run_tool(Echo(does=lambda text: "a\ud800b"), Call("echo", {"text": "x"}), 1) == Result("a?b")
    assert run_tool(Echo(does=fails), Call("echo", {"text": "x"}), 1) == Result("error: no ?", "crash")
