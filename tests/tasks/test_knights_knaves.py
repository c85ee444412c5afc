from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tessera.core.errors import UserError
from tessera.core.types import Message
from tessera.tasks.base import Reward
from tessera.tasks.data import Row, read_jsonl
from tessera.tasks.knights_knaves import KnightsKnaves, read_identities
from tessera.tasks.registry import grade, load_task
from tessera.tasks.statements import SPEECHES, solutions, worded
from tessera.tasks.validate import validate_task

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "knights_knaves"
real = pytest.mark.skipif(not DATA.exists(), reason="the Knights & Knaves files are not beside the repository")
FILES = {"train": str(DATA / "train.jsonl"), "test": str(DATA / "test.jsonl")}

ROW = {
    "quiz": 'You meet 2 inhabitants: Zoey, and Jack. Zoey said, "Jack is a knave." Jack noted, "Zoey is a knight '
    'if and only if Jack is a knight". So who is a knight and who is a knave?',
    "names": ["Zoey", "Jack"],
    "solution": [True, False],
    "statements": [["lying", 1], ["<=>", ["telling-truth", 0], ["telling-truth", 1]]],
}
ANSWER = "(1) Zoey is a knight\n(2) Jack is a knave"


def components(format: float, answer: float) -> Reward:
    return Reward(format + answer, {"format": format, "answer": answer}, answer == 2)


@pytest.mark.parametrize(
    ("text", "format", "answer"),
    [
        (f"If so.</think><answer>{ANSWER}</answer>", 1, 2),
        (f"<think>If so.</think>\n<answer>\n{ANSWER}\n</answer>", 1, 2),  # the whole turn
        (f"<answer>{ANSWER}</answer>", -1, 2),  # right, and in no format
        ("If so.</think><answer>Zoey is a knave, and Jack is a knave.</answer>", 1, -1.5),
        ("<answer>Zoey is a knave, and Jack is a knave.</answer>", -1, -1.5),
        ("If so.</think><answer>Zoey is a knight</answer>", 1, -2),  # incomplete
        ("If so.</think><answer></answer>", 1, -2),
        (f"If so.</think>{ANSWER}", -1, -2),
        ("", -1, -2),
        (f"a</think><answer>{ANSWER}</answer><answer>{ANSWER}</answer>", -1, -2),
        (f"a<answer>{ANSWER}</answer></think>", -1, 2),
    ],
)
def test_the_papers_table(text: str, format: float, answer: float) -> None:
    assert grade("knights_knaves", ROW, text) == components(format, answer)


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("Zoey is a knight, Jack is a knave.", (True, False)),
        ("jack is the KNAVE and zoey is a Knight", (True, False)),
        ("- **Zoey**: knight\n- **Jack**: **knave**", (True, False)),
        ("Zoey = a knight; Jack = a knave", (True, False)),
        ("(2) Jack is a knave (1) Zoey is a knight", (True, False)),
        ("Zoey is a knave\nJack is a knight", (False, True)),
        ("match by substring", None),
        ("knight knave", None),
        ("Zoey is a knight", None),
        ("Zoey is not a knight, Jack is a knave", None),
        ("Zoey is a knight or a knave, Jack is a knave", None),
        ("Zoey is a knight. Zoey is a knave. Jack is a knave.", None),
        ("Zoey is a knight. Zoey is a knight. Jack is a knave.", None),
        ("Zoey is a knight, Jack is a knave, Bob is a knave", None),
        ("Zoeyx is a knight, Jack is a knave", None),
        ("xZoey is a knight, Jack is a knave", None),
        ("Zoey and Jack are knights", None),
        ("Zoey is a knightly person, Jack is a knave", None),
        ("Zoey is a \N{KELVIN SIGN}night, Jack is a knave", None),
        (ANSWER + " " * 2000, None),
        (None, None),
    ],
)
def test_reading_identities(answer: str | None, read: tuple[bool, ...] | None) -> None:
    assert read_identities(answer, ("Zoey", "Jack")) == read


def test_a_name_may_begin_with_another_and_hold_signs() -> None:
    assert read_identities(
        "Ann is a knave, Ann-Marie is a knight, Dr. O'X is a knave", ("Ann", "Ann-Marie", "Dr. O'X")
    ) == (
        False,
        True,
        False,
    )


def test_the_prompt_is_the_papers_and_its_echo_earns_the_least() -> None:
    task = KnightsKnaves()
    problem = task.problem_of(Row("here", {"id": "x", **ROW}))
    system, user = problem.prompt
    assert isinstance(system, Message) and system.role == "system"
    assert system.content.startswith(
        "You are a helpful assistant. The assistant first thinks about the reasoning process"
    )
    assert system.content.endswith("i.e., <answer> (1) Zoey is a knight\n(2) ... </answer>.")
    assert (user.content, problem.prefill, problem.answer) == (ROW["quiz"], "<think>", ANSWER)
    assert task.reward(problem, problem.prefill + system.content + user.content) == {"format": -1, "answer": -2}


def test_the_gold_holds_each_statement_against_the_solution() -> None:
    task = KnightsKnaves()
    problem = task.problem_of(Row("here", {"id": "x", **ROW}))
    assert task.gold(problem) == (
        "Zoey is a knight, so it is true that Jack is a knave. Jack is a knave, so it is false that Zoey is a knight "
        f"if and only if Jack is a knight.</think>\n<answer>\n{ANSWER}\n</answer>"
    )
    assert "(1) Zoey is a knave" in task.corrupted(problem)
    bare = KnightsKnaves(prompt={"prefill": ""})
    opened = bare.problem_of(
        Row(
            "here",
            {
                "id": "x",
                **ROW,
            },
        )
    )
    assert bare.gold(opened).startswith("<think>Zoey") and bare.reward(opened, bare.gold(opened)) == {
        "format": 1,
        "answer": 2,
    }


def test_a_solution_may_be_left_to_the_statements_and_the_statements_may_be_missing() -> None:
    unsolved = {key: value for key, value in ROW.items() if key != "solution"}
    unstated = {key: value for key, value in ROW.items() if key != "statements"}
    for row in (unsolved, unstated):
        assert grade("knights_knaves", row, f"a</think><answer>{ANSWER}</answer>") == components(1, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"solution": [True, True]},
            r"the statements have 1 solutions, \[\(True, False\)\], and the row's is \[True, True\]",
        ),
        ({"statements": [["telling-truth", 0], ["telling-truth", 1]]}, "the statements have 4 solutions"),
        ({"statements": [["lying", 0]]}, "must be one for each of 2 people"),
        ({"solution": [1, 0]}, "must be 2 times true or false, in order of names"),
        ({"solution": [True]}, "must be 2 times true or false"),
        ({"names": ["Zoey", "zoey"]}, "must be a list of 1 to 16 different names"),
        ({"names": "Zoey"}, "must be a list of 1 to 16 different names"),
        ({"quiz": " "}, "quiz = ' ' must be a text"),
    ],
)
def test_rows_that_are_no_puzzle(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        grade("knights_knaves", {**ROW, **changes}, "")


def consistent(statements: Any, world: tuple[bool, ...]) -> bool:
    """Whether the knights' statements alone are true in `world`, worked out one world at a time."""

    def true(statement: Any) -> bool:
        match statement:
            case ["telling-truth", person]:
                return world[person]
            case ["lying", person]:
                return not world[person]
            case ["not", one]:
                return not true(one)
            case ["and", one, other]:
                return true(one) and true(other)
            case ["or", one, other]:
                return true(one) or true(other)
            case ["->", one, other]:
                return true(other) if true(one) else True
            case ["<=>", one, other]:
                return true(one) is true(other)
        raise AssertionError(statement)

    return all(true(statement) is knight for statement, knight in zip(statements, world, strict=True))


@pytest.mark.parametrize("people", range(2, 9))
def test_500_puzzles_of_each_size_have_exactly_one_solution(people: int) -> None:
    task = KnightsKnaves(people=[people], train_size=500, validation_size=0, test_size=0)
    problems = task.problems("train")
    assert len({json.dumps(p.metadata["statements"]) for p in problems}) == 500
    for problem in problems:
        statements = problem.metadata["statements"]
        worlds = [w for w in product((False, True), repeat=people) if consistent(statements, w)]
        assert worlds == [problem.metadata["solution"]]
        assert len(problem.metadata["names"]) == problem.metadata["n_people"] == people


def test_drawn_puzzles_say_what_their_statements_say() -> None:
    for problem in KnightsKnaves(train_size=200, validation_size=0, test_size=0).problems("train"):
        quiz, names = problem.prompt[1].content, problem.metadata["names"]
        for name, statement in zip(names, problem.metadata["statements"], strict=True):
            said = worded(statement, names)
            assert any(speech.format(name=name, said=said) in quiz for speech in SPEECHES)


def test_drawn_puzzles_validate() -> None:
    task = load_task({"name": "knights_knaves", "people": [2, 5, 8], "train_size": 100, "test_size": 30})
    assert {p.metadata["n_people"] for p in task.train} == {2, 5, 8}
    report = validate_task(task, sample=100, size=1_000_000)
    assert report.ok, str(report)


@real
def test_the_solver_agrees_with_the_real_data_on_every_row() -> None:
    rows = [row.values for path in FILES.values() for row in read_jsonl(path)]
    assert len(rows) == 1800
    assert all(solutions(row["statements"]) == [tuple(row["solution"])] for row in rows)


@real
def test_the_words_are_those_of_the_real_data() -> None:
    for row in read_jsonl(FILES["train"])[::5]:
        quiz, names = row.values["quiz"], row.values["names"]
        for name, statement in zip(names, row.values["statements"], strict=True):
            said = worded(statement, names)
            assert any(speech.format(name=name, said=said) in quiz for speech in SPEECHES), (name, statement, quiz)


@real
def test_the_real_data_validates() -> None:
    task = load_task({"name": "knights_knaves", **FILES, "validation_size": 100})
    assert (len(task.train), len(task.validation), len(task.test)) == (1400, 100, 300)
    first = task.test[0]
    assert first.id == "kk-3ppl-test-1000" and first.answer.startswith(
        "(1) Amelia is a knight\n(2) Penelope is a knight"
    )
    assert re.fullmatch(r"A very special island .* who is a knave\?", first.prompt[1].content)
    report = validate_task(task, sample=1400)
    assert report.ok, str(report)


def test_an_answer_is_who_is_what() -> None:
    task = KnightsKnaves()
    problem = task.problem_of(Row("here", {"id": "x", **ROW}))
    texts = [f"<answer>{ANSWER}</answer>", "<answer>Jack: knave, Zoey: knight</answer>", ANSWER]
    assert [task.answer_of(problem, text) for text in texts] == ["knight, knave", "knight, knave", None]
