"""The one place where an exception becomes data: a reward or a tool that fails is an error of its rollout, not of
the run, and so is what else a run can do without."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

from tessera.core.errors import TesseraError
from tessera.core.types import Problem
from tessera.environments.syntax import Result
from tessera.environments.tool import Call, Tool, ToolFailed
from tessera.tasks.base import Task, grade_text, owner

T = TypeVar("T")


class Grade(NamedTuple):
    """What a text earned, and whether it is right.

    When the reward raised or was not finite, `reward` and `correct` are None and `error` says why in a line.
    """

    reward: float | None
    components: Mapping[str, float]
    error: str | None
    correct: bool | None = None


def grade(task: Task, problem: Problem, text: str) -> Grade:
    """Reward `text`, the assistant's whole turn, as an answer to `problem`."""
    try:
        earned = grade_text(task, problem, text)
    except Exception as error:  # noqa: BLE001 - a user's code may raise anything
        return Grade(None, {}, _line(error))
    return Grade(earned.value, earned.components, None, earned.correct)


class Answer(NamedTuple):
    """What a text answers, as the task reads it: None where it gives no answer, or reading it failed with `error`."""

    answer: str | None
    error: str | None = None


def read_answer(task: Task, problem: Problem, text: str) -> Answer | None:
    """What `text` answers to `problem`; None where the task has no `answer_of`."""
    task, problem = owner(task, problem)
    if not callable(answer_of := getattr(task, "answer_of", None)):
        return None
    try:
        found = answer_of(problem, text)
    except Exception as error:  # noqa: BLE001 - a user's code may raise anything
        return Answer(None, _line(error))
    return Answer(None if found is None else str(found))


def attempt(call: Callable[[], T]) -> tuple[T | None, str | None]:
    """What `call` returns, and in a line what it raised instead; errors of Tessera's own pass."""
    try:
        return call(), None
    except TesseraError:
        raise
    except Exception as error:  # noqa: BLE001 - a client of another service may raise anything
        return None, _line(error)


def run_tool(tool: Tool, call: Call, limit: float) -> Result:
    """What `tool` answers; a tool that raises is an error that the model is told in a line."""
    result = _result(tool, call, limit)
    # A half of a surrogate pair, as JSON and file names may hold one, is in no text that a tokenizer takes.
    return result._replace(text=result.text.encode("utf-8", "replace").decode("utf-8"))


def _result(tool: Tool, call: Call, limit: float) -> Result:
    try:
        text = tool.call(call.arguments, limit)
    except ToolFailed as failed:
        return Result(f"error: {failed}", failed.reason)
    except Exception as error:  # noqa: BLE001 - a user's tool, or a server's, may raise anything
        return Result(f"error: {_line(error)[:500]}", "crash")
    return Result(text) if isinstance(text, str) else Result(f"error: not a text: {text!r:.100}", "crash")


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
