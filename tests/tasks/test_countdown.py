from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tessera.core.errors import UserError
from tessera.core.types import Problem
from tessera.tasks.base import LoadedTask, Reward
from tessera.tasks.countdown import Countdown
from tessera.tasks.data import Row
from tessera.tasks.registry import grade, load_task
from tessera.tasks.validate import validate_task

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "countdown"
real = pytest.mark.skipif(not DATA.exists(), reason="the Countdown files are not beside the repository")
ROW = {"nums": [79, 60, 17], "target": 36}


def value_of(answer: str, **options: Any) -> float:
    return grade("countdown", ROW, f"Let me see. <answer>{answer}</answer>", **options).value


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("(79 - 60) + 17", 1.0),
        (" (79-60)+17 = 36 ", 1.0),
        ("17 − 60 + 79", 1.0),
        ("-60 + 79 + 17", 1.0),
        ("(79 - 60) + 17 = 35", 1.0),  # the value after the sign is not judged
        ("79 - 60 + 17 = 19 + 17 = 36", 0.1),
        ("79 - 60 + 17 = x", 0.1),
        ("36", 0.1),
        ("(36)", 0.1),
        ("36 = 79 - 60 + 17", 0.1),
        ("79 - 43", 0.1),  # 43 was not given
        ("79 - 60 + 17 + 17 - 17", 0.1),
        ("79 + 60", 0.1),
        ("", 0.1),
        ("9**9**9**9", 0.1),
        ("٧٩ - ٦٠ + ١٧", 0.1),
        ("79 - 60 + 17\0", 0.1),
    ],
)
def test_what_an_answer_earns(answer: str, value: float) -> None:
    assert value_of(answer) == value


@pytest.mark.parametrize(
    "text", ["", "79 - 60 + 17", "<answer>79 - 60 + 17", "<answer>1</answer><answer>79 - 60 + 17</answer>"]
)
def test_without_one_pair_of_tags_there_is_no_answer(text: str) -> None:
    assert grade("countdown", ROW, text) == Reward(0.0, {}, False)


def test_an_echo_of_the_prompt_is_no_answer() -> None:
    problem = Countdown().problem_of(Row("here", {"id": "x", "nums": [1, 2, 3], "target": 1}))
    (message,) = problem.prompt
    assert message.content.startswith("Write an expression that equals 1 with the numbers 1, 2, 3. Use + - * /")
    assert Countdown().reward(problem, message.content) == 0.0  # though its example reaches this target


def test_near_correct_falls_with_the_relative_distance() -> None:
    row = {"nums": [10, 8, 3, 2], "target": 80}
    near = {"10 * 8 - 2": 78, "10 * 8 - 3 - 2": 75, "10 * (8 - 3 / 2)": 65, "10 * 8 + 3 * 2": 86, "8 * (10 - 2)": 64}
    # 0.8 - 0.5 (|value - 80| / 80) / 0.1 = 0.8 - |value - 80| / 16, down to 0.3 at a distance of 8
    expected = {78: 0.675, 75: 0.4875, 65: 0.1, 86: 0.425, 64: 0.1}
    for answer, value in near.items():
        got = grade("countdown", row, f"<answer>{answer}</answer>")
        assert (got.value, got.correct) == (pytest.approx(expected[value]), False)
    at_the_limit = grade("countdown", {"nums": [9, 8], "target": 80}, "<answer>9 * 8</answer>")
    assert at_the_limit.value == pytest.approx(0.3)
    wide = grade("countdown", row, "<answer>8 * (10 - 2)</answer>", near_limit=0.4)
    assert wide.value == pytest.approx(0.8 - 0.5 * (16 / 80) / 0.4)
    assert grade("countdown", row, "<answer>10 * 8 - 2</answer>", near_limit=0).value == 0.1


def test_the_gold_of_a_row_whose_target_is_one_of_its_numbers_is_no_bare_number() -> None:
    task = Countdown()
    problem = task.problem_of(Row("here", {"id": "x", "nums": [37, 48, 89, 39], "target": 39}))
    assert task.reward(problem, task.gold(problem)) == 1.0
    assert task.reward(problem, "<answer>39</answer>") == 0.1
    hopeless = task.problem_of(Row("here", {"id": "x", "nums": [1, 1], "target": 3}))
    with pytest.raises(UserError, match=r"problem 'x': no expression in \(1, 1\) is 3"):
        task.gold(hopeless)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"nums": [1, 2], "target": 0}, "target = 0 must be a whole number above 0"),
        ({"nums": [1, 2], "target": "3"}, "target = '3' must be a whole number above 0"),
        ({"nums": "1, 2", "target": 3}, "nums = '1, 2' must be a list of whole numbers"),
        ({"numbers": [1, 2], "target": 3}, "has no column 'nums'"),
    ],
)
def test_rows_that_are_no_puzzle(row: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        grade("countdown", row, "")


@pytest.mark.parametrize("targets", [[0, 10], [10, 9], [1], "all"])
def test_a_range_of_targets(targets: Any) -> None:
    with pytest.raises(UserError, match="targets"):
        load_task({"name": "countdown", "targets": targets})


@real
def test_files_take_no_options_of_drawing() -> None:
    with pytest.raises(UserError, match="counts, targets: for puzzles that are drawn"):
        load_task({"name": "countdown", "train": str(DATA / "train.jsonl"), "targets": [10, 50], "counts": [3]})


def test_drawn_puzzles_are_as_asked_for() -> None:
    task = load_task({"name": "countdown"})
    problems = [*task.train, *task.validation, *task.test]
    assert len(problems) == 1400
    counts = Counter(len(p.metadata["nums"]) for p in problems)
    # Binomial(1400, 1/2): 600..800 is more than 5 standard deviations (18.7) wide on each side.
    assert set(counts) == {3, 4} and 600 < counts[3] < 800
    assert all(10 <= p.answer <= 100 and all(1 <= n <= 99 for n in p.metadata["nums"]) for p in problems)
    other = load_task({"name": "countdown", "counts": [2, 5], "targets": [7, 7], "train_size": 40, "test_size": 0})
    assert {len(p.metadata["nums"]) for p in other.train} == {2, 5}
    assert {p.answer for p in other.train} == {7}
    with pytest.raises(UserError, match="different puzzles are asked for, and no more than 0 were found"):
        load_task({"name": "countdown", "counts": [2], "targets": [10**6, 10**6]})


# Brute force: a judge that was written from the description alone. Tokens and recursive descent, values as pairs.


class Judge:
    def __init__(self, text: str) -> None:
        self.tokens = re.findall(r"[0-9]+|\S", text)
        self.used: list[int] = []
        self.joined = 0

    def whole(self) -> tuple[int, int]:
        value = self.sum()
        assert not self.tokens
        return value

    def take(self, *wanted: str) -> str | None:
        return self.tokens.pop(0) if self.tokens and self.tokens[0] in wanted else None

    def sum(self) -> tuple[int, int]:
        a, b = self.product()
        while sign := self.take("+", "-"):
            c, d = self.product()
            self.joined += 1
            a, b = a * d + (c if sign == "+" else -c) * b, b * d
        return a, b

    def product(self) -> tuple[int, int]:
        a, b = self.signed()
        while sign := self.take("*", "/"):
            c, d = self.signed()
            self.joined += 1
            a, b = (a * c, b * d) if sign == "*" else (a * d, b * c)
            assert b
        return a, b

    def signed(self) -> tuple[int, int]:
        if sign := self.take("+", "-"):
            a, b = self.signed()
            return (a if sign == "+" else -a), b
        if self.take("("):
            value = self.sum()
            assert self.take(")")
            return value
        assert self.tokens
        token = self.tokens.pop(0)
        assert token.isascii() and token.isdigit() and (token.strip("0") == "" or token[0] != "0")
        self.used.append(int(token))
        return int(token), 1


def judged(text: str, numbers: list[int], target: int, limit: float) -> float:
    parts = re.split("(</?answer>)", text)
    if parts[1::2] != ["<answer>", "</answer>"]:
        return 0.0
    sides = parts[2].split("=")
    try:
        assert len(sides) < 3 and (len(sides) == 1 or re.match(r"^\s*[-+]?[0-9]+([./][0-9]+)?\s*$", sides[1]))
        judge = Judge(sides[0])
        top, bottom = judge.whole()
        assert judge.joined
        left = list(numbers)
        for number in judge.used:
            assert number in left
            left.remove(number)
    except AssertionError:
        return 0.1
    if top == target * bottom:
        return 1.0
    relative = abs(top / bottom - target) / target
    return 0.8 - 0.5 * relative / limit if relative < limit + 1e-12 else 0.1


def mutated(text: str, numbers: list[int], source: random.Random) -> str:
    """One of: a character put in, taken away or exchanged; two numbers or two operators exchanged; a value added."""
    at = source.randrange(len(text))
    strange = source.choice("0123456789++--**//(()) ==.x٣,\0\n<>_")
    kind = source.randrange(7)
    if kind < 3:
        return text[:at] + ("" if kind == 1 else strange) + text[at + (kind > 0) :]
    pattern = "[0-9]+" if kind < 5 else "[-+*/]"
    places = [m.span() for m in re.finditer(pattern, text.partition("</")[0])]
    if kind == 6 or not places:
        return text.replace("</answer>", f" = {source.choice(numbers)}</answer>")
    start, end = source.choice(places)
    new = source.choice([*map(str, numbers), str(source.randint(0, 99))] if kind < 5 else "+-*/")
    return text[:start] + new + text[end:]


def test_the_reward_agrees_with_a_judge_that_shares_no_code_with_it() -> None:
    drawn = Countdown(train_size=250, validation_size=0, test_size=0, counts=(2, 3, 4), seed=3)
    tasks = {limit: drawn.model_copy(update={"near_limit": limit}) for limit in (0.1, 1.0)}
    source, seen = random.Random(0), Counter[float]()
    for problem in drawn.problems("train"):
        limit, task = source.choice([*tasks.items()])
        numbers = list(problem.metadata["nums"])
        gold = task.gold(problem).partition("\n")[2]
        for _ in range(40):  # 250 x 40 = 10,000
            target = max(1, problem.answer + source.choice([0, 0, source.randint(-10, 10)]))
            text = gold
            for _ in range(source.choice([1, 1, 1, 2, 3])):
                text = mutated(text, numbers, source)
            expected = judged(text, numbers, target, limit)
            earned = task.reward(replace(problem, answer=target), text)
            assert earned == pytest.approx(expected, abs=1e-9), (text, numbers, target)
            seen[expected if expected in (0.0, 0.1, 1.0) else 0.5] += 1
    assert set(seen) == {0.0, 0.1, 0.5, 1.0} and min(seen.values()) > 200, seen  # every grade was met


def test_every_drawn_target_is_reachable_and_validates() -> None:
    task = load_task({"name": "countdown", "train_size": 150, "validation_size": 20, "test_size": 50})
    report = validate_task(task, sample=150)
    assert report.ok, str(report)


@real
def test_the_real_data() -> None:
    files = {"train": str(DATA / "train.jsonl"), "test": str(DATA / "test.jsonl"), "validation_size": 100}
    task = load_task({"name": "countdown", **files})
    assert (len(task.train), len(task.validation), len(task.test)) == (1400, 100, 500)
    assert task.train[0] == task.task.problem_of(
        Row("here", {"id": "countdown-train-0", "nums": [44, 19, 35], "target": 98})
    )
    report = validate_task(task, sample=1400)
    assert report.ok, str(report)


def test_numbers_are_of_any_sequence() -> None:
    problem = Problem("x", "?", 12, metadata={"nums": [3, 4]})
    assert Countdown().correct(problem, "<answer>3 * 4</answer>")
    assert LoadedTask.load("countdown", Countdown(train_size=3, validation_size=0, test_size=0)).train


def test_an_answer_is_what_its_expression_comes_to() -> None:
    task = Countdown()
    problem = task.problem_of(Row("here", {"id": "x", **ROW}))
    texts = ["(79 - 60) + 17", "17 + 79 - 60 = 36", "79 / 60", "36", "79 - 43"]
    read = [task.answer_of(problem, f"<answer>{text}</answer>") for text in texts]
    assert read == ["36", "36", "79/60", None, None]  # a bare number and one that was not given are no answers
    assert task.answer_of(problem, "79 - 60 + 17") is None
