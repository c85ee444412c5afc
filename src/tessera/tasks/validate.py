"""Does a task grade what it should? Gold answers, wrong ones and hostile texts, each scored against the clock."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tessera.core.errors import UserError
from tessera.core.types import Problem
from tessera.tasks.base import SPLITS, LoadedTask, Task, full_marks, grade_text, owner
from tessera.tasks.grading import integer_text

SECONDS_LIMIT = 5.0
HOSTILE_SIZE = 10_000_000

# What code that reads strings raises on strings it did not expect.
GRADER_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    UserError,
    ValueError,
)

HOSTILE: dict[str, Callable[[int], str]] = {
    "long text": lambda size: "a" * size,
    "a long number": lambda size: "9" * size,
    "many numbers": lambda size: "99999999 " * (size // 9),
    "many spaces": lambda size: " " * size,
    "nested brackets": lambda size: "(" * (size // 2) + ")" * (size // 2),
    "nested boxes": lambda size: r"\boxed{" * (size // 8) + "}" * (size // 8),
    "NUL bytes": lambda size: "\0" * size,
    "a tower of powers in <answer>": lambda size: f"<answer>{'99999999**' * (size // 10)}99999999</answer>",
    "nested brackets in <answer>": lambda size: f"<answer>{'(' * (size // 2)}99999999{')' * (size // 2)}</answer>",
}


@dataclass(frozen=True)
class Check:
    """One thing that was checked. `ok` is None where there was nothing to check; `detail` says what was seen."""

    name: str
    ok: bool | None
    detail: str


@dataclass(frozen=True)
class Report:
    """What validation found; `str(report)` is a line a check."""

    task: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return all(check.ok is not False for check in self.checks)

    def __str__(self) -> str:
        marks = {True: "ok  ", False: "FAIL", None: "-   "}
        return "\n".join(f"{marks[c.ok]}  {c.name}: {c.detail}" for c in self.checks)


def validate_task(
    loaded: LoadedTask, sample: int = 20, *, seconds: float = SECONDS_LIMIT, size: int = HOSTILE_SIZE, seed: int = 0
) -> Report:
    """Check the reward of a task on up to `sample` problems of each split.

    Gold answers must earn full marks (`task.full_marks`, 1 unless the task says otherwise); corrupted ones, an empty
    text and two `<answer>` tags must not; nor must hostile texts of up to `size` characters, which are tried on one
    problem a split. Every score must come within `seconds`. Hostile texts grow tenfold at a time and stop at the
    first that is too slow, so a grader of quadratic time is found out early; one that never returns is not cut off.
    """
    if sample < 1:
        raise UserError(f"sample = {sample} must be at least 1 problem of each split")
    checks = [
        check
        for split in SPLITS
        for check in _check_split(split, loaded.task, _sample(loaded.problems(split), sample, seed), seconds, size)
    ]
    return Report(loaded.name, tuple(checks))


def gold_text(task: Task, problem: Problem) -> str | None:
    """A continuation that should earn full marks: `task.gold(problem)`, else the answer as text, None without one."""
    task, problem = owner(task, problem)
    if callable(gold := getattr(task, "gold", None)):
        return None if (text := gold(problem)) is None else str(text)
    return None if problem.answer is None else str(problem.answer)


def corrupted_text(task: Task, problem: Problem) -> str | None:
    """A wrong continuation of the same form: `task.corrupted(problem)`, else the answer changed, None without one."""
    task, problem = owner(task, problem)
    if callable(corrupted := getattr(task, "corrupted", None)):
        return None if (text := corrupted(problem)) is None else str(text)
    return None if problem.answer is None else _changed(problem.answer)


def _changed(answer: Any) -> str:
    if (integer := integer_text(answer)) is not None:
        return str(int(integer) + 1)
    text = str(answer)
    return text[:-1] + ("B" if text.endswith("A") else "A")


def _sample(problems: Sequence[Problem], count: int, seed: int) -> list[Problem]:
    return random.Random(seed).sample(problems, min(count, len(problems)))


def row_checks(task: Task, problem: Problem, seconds: float = SECONDS_LIMIT) -> list[Check]:
    """Gold, wrong, empty and doubled answers to one problem."""
    return list(_answer_checks(task, [problem], seconds))


def hostile_checks(
    task: Task, problem: Problem, seconds: float = SECONDS_LIMIT, size: int = HOSTILE_SIZE
) -> Iterator[Check]:
    """Hostile texts as answers to one problem, each growing to `size` characters."""
    for name, make in HOSTILE.items():
        sizes = (size // shrunk for shrunk in (10_000, 1_000, 100, 10, 1))
        texts = ((problem, make(n)) for n in sizes)
        yield _check(f"{name} ({size:,} characters) does not", task, texts, False, seconds)


def _check_split(split: str, task: Task, problems: list[Problem], seconds: float, size: int) -> Iterator[Check]:
    if not problems:
        yield Check(split, None, "no problems")
        return
    for check in (*_answer_checks(task, problems, seconds), *hostile_checks(task, problems[0], seconds, size)):
        yield replace(check, name=f"{split}: {check.name}")


def _answer_checks(task: Task, problems: list[Problem], seconds: float) -> Iterator[Check]:
    def check(what: str, cases: Iterable[tuple[Problem, str | None]], full: bool = False) -> Check:
        return _check(what, task, cases, full, seconds)

    wrong = [(problem, corrupted_text(task, problem)) for problem in problems]
    yield check("gold answers earn full marks", ((p, gold_text(task, p)) for p in problems), full=True)
    yield check("corrupted answers do not", wrong)
    yield check("an empty text does not", ((p, "") for p in problems))
    yield check("<answer> twice does not", ((p, f"<answer>{w or ''}</answer>" * 2) for p, w in wrong))


def _check(name: str, task: Task, cases: Iterable[tuple[Problem, str | None]], full: bool, seconds: float) -> Check:
    """Score the cases one by one up to the first failure."""
    slowest, scored = 0.0, 0
    for problem, continuation in cases:
        if continuation is None:
            continue
        started = time.perf_counter()
        fault = _fault(task, problem, continuation, full)
        taken = time.perf_counter() - started
        if fault is None and taken > seconds:
            fault = f"took {taken:.1f} s, over the limit of {seconds:g} s, on {len(continuation):,} characters"
        if fault is not None:
            return Check(name, False, f"problem {problem.id!r}: {fault}")
        slowest, scored = max(slowest, taken), scored + 1
    return Check(name, True, f"{scored} scored, slowest {slowest:.3f} s") if scored else _unanswered(name)


def _unanswered(name: str) -> Check:
    return Check(name, None, "no problem has an answer, and the task makes no text")


def _fault(task: Task, problem: Problem, continuation: str, full: bool) -> str | None:
    """What is wrong with the score of one text, if anything."""
    joint = "\n" if problem.prefill and not problem.prefill[-1].isspace() else ""
    marks = full_marks(owner(task, problem)[0])
    try:
        earned = grade_text(task, problem, problem.prefill + joint + continuation)
    except GRADER_ERRORS as error:
        return f"{continuation!r:.60} raised {type(error).__name__}: {error!s:.200}"
    if (earned.value >= marks) == full == earned.correct:
        return None
    judged = "correct" if earned.correct else "wrong"
    return f"{continuation!r:.60} earned {earned.value:g} and counts as {judged}; full marks are {marks:g}"
