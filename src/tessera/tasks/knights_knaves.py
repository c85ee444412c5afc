"""Knights & Knaves: who tells the truth? Asked and graded as in 2511.00066 App. B.1.1 and Table 5."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field

from tessera.core.errors import UserError
from tessera.core.types import Problem
from tessera.tasks.data import Row
from tessera.tasks.prompts import PromptFormat
from tessera.tasks.puzzles import PuzzleTask
from tessera.tasks.statements import (
    MOST_PEOPLE,
    SPEECHES,
    Statement,
    check_statement,
    draw_statement,
    solutions,
    worded,
)
from tessera.tasks.tags import tagged, thought_and_answered

SYSTEM = (
    "You are a helpful assistant. The assistant first thinks about the reasoning process in the mind and then provides "
    "the user with the answer. The reasoning process and answer are enclosed within <think></think> and "
    "<answer></answer> tags, respectively, i.e., <think>reasoning process here </think><answer> answer here </answer>. "
    "Now the user asks you to solve a logical reasoning problem. After thinking, when you finally reach a conclusion, "
    "clearly state the identity of each character within <answer></answer> tags. i.e., <answer> (1) Zoey is a knight\n"
    "(2) ... </answer>."
)
FORMATTED, UNFORMATTED = 1.0, -1.0
RIGHT, WRONG, UNREADABLE = 2.0, -1.5, -2.0
LONGEST_ANSWER = 2000  # characters: eight people take a tenth of it
# fmt: off
NAMES = (
    "Abigail", "Aiden", "Amelia", "Aria", "Ava", "Benjamin", "Charlotte", "Chloe", "Daniel", "David", "Eleanor",
    "Elijah", "Ella", "Emma", "Ethan", "Eva", "Felix", "Grace", "Hannah", "Harper", "Henry", "Isabella", "Jack",
    "Jacob", "James", "Julia", "Leo", "Liam", "Lily", "Logan", "Lucas", "Mason", "Mia", "Nathan", "Noah",
    "Nora", "Oliver", "Olivia", "Oscar", "Owen", "Penelope", "Riley", "Ruby", "Samuel", "Scarlett", "Sofia",
    "Theo", "Victoria", "William", "Zoey",
)
# fmt: on


class KnightsKnaves(PuzzleTask):
    """Puzzles of 2 to 8 people who always lie or always tell the truth, with one solution.

    Rows hold `quiz`, `names`, and `solution` (true for a knight) or `statements`. The reward has two components:
    `format`, +1 or -1, for <think> ... </think> <answer> ... </answer>; and `answer`, +2 right, -1.5 wrong, -2 where it
    does not give each person one identity. The paper's table couples them no further. A drawn puzzle is kept if
    enumeration of all worlds leaves exactly one.
    """

    prompt: PromptFormat = PromptFormat(style="chat", system=SYSTEM, prefill="<think>")
    people: tuple[Annotated[int, Field(ge=2, le=8)], ...] = Field(
        (3, 4, 5, 6, 7), min_length=1, description="how many people a drawn puzzle has; one of these"
    )

    of_drawing: ClassVar[frozenset[str]] = PuzzleTask.of_drawing | {"people"}
    full_marks: ClassVar[float] = FORMATTED + RIGHT

    def draw(self, source: random.Random) -> Mapping[str, Any]:
        """A puzzle of which exactly one solution is consistent."""
        people = source.choice(self.people)
        names = source.sample(NAMES, people)
        while True:  # about one draw in three has one solution
            statements = [draw_statement(speaker, people, source) for speaker in range(people)]
            if len(found := solutions(statements)) == 1:
                break
        spoken = [
            source.choice(SPEECHES).format(name=name, said=worded(statement, names))
            for name, statement in zip(names, statements, strict=True)
        ]
        quiz = (
            "A very special island is inhabited only by knights and knaves. Knights always tell the truth, and knaves "
            f"always lie. You meet {people} inhabitants: {', '.join(names[:-1])}, and {names[-1]}. {' '.join(spoken)} "
            "So who is a knight and who is a knave?"
        )
        return {"quiz": quiz, "names": names, "solution": list(found[0]), "statements": statements}

    def identity(self, values: Mapping[str, Any]) -> Hashable:
        """The statements, whoever's names stand in them."""
        return json.dumps(values["statements"])

    def problem(self, row: Row) -> Problem:
        """The problem of a row; where it has statements, they must single out its solution."""
        quiz, names = row.column("quiz"), _names(row)
        if not isinstance(quiz, str) or not quiz.strip():
            raise UserError(f"{row.where}: quiz = {quiz!r:.60} must be a text")
        solution = _solution(row, len(names))
        kept = {name: value for name, value in row.values.items() if name not in ("id", "quiz")}
        about = {**kept, "names": names, "solution": solution, "n_people": len(names)}
        answer = _identities(names, solution)
        return Problem(str(row.column("id")), self.prompt.render(quiz), answer, self.prompt.prefill, about)

    def reward(self, problem: Problem, text: str) -> Mapping[str, float]:
        """Table 5: `format` and `answer`."""
        found = read_identities(tagged(text, "answer"), problem.metadata["names"])
        right = self.correct(problem, text)
        return {
            "format": FORMATTED if thought_and_answered(text) else UNFORMATTED,
            "answer": UNREADABLE if found is None else RIGHT if right else WRONG,
        }

    def correct(self, problem: Problem, text: str) -> bool:
        """Whether every person is given the right identity, in whatever format around the answer."""
        found = read_identities(tagged(text, "answer"), problem.metadata["names"])
        return found is not None and found == tuple(problem.metadata["solution"])

    def answer_of(self, problem: Problem, text: str) -> str | None:
        """Who is what, in the order of the names."""
        found = read_identities(tagged(text, "answer"), problem.metadata["names"])
        return None if found is None else ", ".join("knight" if knight else "knave" for knight in found)

    def gold(self, problem: Problem) -> str:
        """The solution, each statement held against it, and the answer."""
        return _turn(problem, problem.metadata["solution"])

    def corrupted(self, problem: Problem) -> str:
        """The same with the first person's identity turned round."""
        first, *others = problem.metadata["solution"]
        return _turn(problem, (not first, *others))


def read_identities(answer: str | None, names: Sequence[str]) -> tuple[bool, ...] | None:
    """Who is a knight according to `answer`, in the order of `names`; None unless it says so of each person, once.

    Read are clauses such as `(1) Zoey is a knight` and `Zoey: knave`, in any order and layout. A knight or a knave that
    stands in no such clause (`is not a knight`, `a knight or a knave`, somebody else) makes the whole unreadable.
    """
    if answer is None or len(answer) > LONGEST_ANSWER:
        return None
    called = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    clause = rf"\b({called})[*_]*\s*(?:\bis\b|[:=-])\s*[*_]*(?:\b(?:an?|the)\b)?\s*[*_]*(?a:\b(knight|knave)\b)"
    clauses = re.findall(clause, answer, re.IGNORECASE)
    if len(clauses) != len(re.findall("(?a:knight|knave)", answer, re.IGNORECASE)):
        return None
    said = {name.lower(): kind.lower() == "knight" for name, kind in clauses}
    complete = len(clauses) == len(names) and said.keys() == {name.lower() for name in names}
    return tuple(said[name.lower()] for name in names) if complete else None


def _identities(names: Sequence[str], solution: Sequence[bool]) -> str:
    pairs = enumerate(zip(names, solution, strict=True), 1)
    return "\n".join(f"({n}) {name} is a {'knight' if knight else 'knave'}" for n, (name, knight) in pairs)


def _turn(problem: Problem, solution: Sequence[bool]) -> str:
    names, statements = problem.metadata["names"], problem.metadata.get("statements", ())
    checks = [
        f"{name} is a {'knight' if knight else 'knave'}, so it is {'true' if knight else 'false'} that "
        f"{worded(statement, names).replace('If ', 'if ', 1)}."
        for name, knight, statement in zip(names, solution, statements, strict=False)
    ]
    opened = "" if problem.prefill.endswith("<think>") else "<think>"
    return f"{opened}{' '.join(checks)}</think>\n<answer>\n{_identities(names, solution)}\n</answer>"


def _names(row: Row) -> tuple[str, ...]:
    names = row.column("names")
    texts = isinstance(names, Sequence) and not isinstance(names, str) and all(isinstance(n, str) and n for n in names)
    if not texts or len({name.lower() for name in names}) < len(names) or not 1 <= len(names) <= MOST_PEOPLE:
        raise UserError(f"{row.where}: names = {names!r:.80} must be a list of 1 to {MOST_PEOPLE} different names")
    return tuple(names)


def _solution(row: Row, people: int) -> tuple[bool, ...]:
    """The row's solution, or that of its statements; where it has both they must agree."""
    stated = row.values.get("statements") is not None
    given = row.values.get("solution") if stated else row.column("solution")
    if not (stated and given is None) and not _booleans(given, people):
        raise UserError(
            f"{row.where}: solution = {given!r:.60} must be {people} times true or false, in order of names"
        )
    if not stated:
        return tuple(map(bool, given or ()))
    found = solutions(_statements(row, people))
    if len(found) != 1 or given not in (None, list(found[0]), found[0]):
        raise UserError(
            f"{row.where}: the statements have {len(found)} solutions, {found!r:.80}, and the row's is {given}"
        )
    return found[0]


def _booleans(value: Any, count: int) -> bool:
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    return listed and len(value) == count and all(isinstance(one, bool) for one in value)


def _statements(row: Row, people: int) -> list[Statement]:
    statements = row.column("statements")
    if not isinstance(statements, Sequence) or len(statements) != people:
        raise UserError(f"{row.where}: statements = {statements!r:.60} must be one for each of {people} people")
    return [check_statement(statement, people, row.where) for statement in statements]
