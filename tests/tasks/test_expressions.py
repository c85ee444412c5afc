from __future__ import annotations

from fractions import Fraction
from itertools import permutations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.tasks.expressions import MOST_CHARACTERS, Expression, read_expression, solve


@pytest.mark.parametrize(
    ("text", "value", "numbers", "operations"),
    [
        ("(79 - 60) + 17", 36, (79, 60, 17), 2),
        ("1 + 2 * 3 - 4 / 8", Fraction(13, 2), (1, 2, 3, 4, 8), 4),  # 1 + 6 - 1/2
        ("8 / (3 - 8 / 3)", 24, (8, 3, 8, 3), 3),  # 8 / (1/3)
        ("2 - 3 - 4", -5, (2, 3, 4), 2),
        ("6 × 7 ÷ 2 − 1", 20, (6, 7, 2, 1), 3),
        ("-(5 - 20)", 15, (5, 20), 1),
        ("+7", 7, (7,), 0),
        ("((7))", 7, (7,), 0),
        ("1\n +\t2", 3, (1, 2), 1),
        ("1/3 + 1/3 + 1/3", 1, (1, 3, 1, 3, 1, 3), 5),  # in floats too, but 1/49 * 49 is not
        ("1 / 49 * 49", 1, (1, 49, 49), 2),
    ],
)
def test_arithmetic_is_read_and_worked_exactly(text: str, value: Fraction, numbers: object, operations: int) -> None:
    assert read_expression(text) == Expression(Fraction(value), numbers, operations)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    ["", " ", "1 +", "(1", "1)", "()", "1 2", "3(4)", "9**9**9**9", "9//2", "9 % 2", "1 = 1", "1, 2", "x", "1e3", "1.0",
     ".5",
     "0x10", "1_0", "007", "٣ + 1", "３ + 1", "²", "1 / 0", "1 / (2 - 2)", "1\0", "__import__('os')", "1 if 1 else 2",
     "[1]", "~1", "1 # 2", "1;2", "1 << 2", "True", '"1"'],
)  # fmt: skip
def test_what_is_no_arithmetic(text: str) -> None:
    assert read_expression(text) is None


def test_length_and_depth_are_bounded() -> None:
    deep = MOST_CHARACTERS // 2 - 1
    for longest in ("(" * deep + "1" + ")" * deep, "-" * (MOST_CHARACTERS - 1) + "1"):
        read = read_expression(longest)
        assert read is not None and abs(read.value) == 1
    assert read_expression("1" * MOST_CHARACTERS) is not None
    assert read_expression("1" * (MOST_CHARACTERS + 1)) is None
    assert read_expression("(" * 10_000_000) is None


def every_value(numbers: tuple[int, ...]) -> set[Fraction]:
    """What two or more of `numbers` can make, in every order and bracketing, without any of the solver's shortcuts."""

    def of(row: tuple[int, ...]) -> set[Fraction]:
        if len(row) == 1:
            return {Fraction(row[0])}
        found = set()
        for cut in range(1, len(row)):
            for a, b in product(of(row[:cut]), of(row[cut:])):
                found |= {a + b, a - b, a * b} | ({a / b} if b else set())
        return found

    return set().union(*(of(row) for n in range(2, len(numbers) + 1) for row in permutations(numbers, n)))


@given(st.lists(st.integers(1, 12), min_size=2, max_size=3), st.integers(1, 150))
def test_the_solver_finds_an_expression_exactly_where_there_is_one(numbers: list[int], target: int) -> None:
    found = solve(numbers, target)
    assert (found is not None) == (target in every_value(tuple(numbers)))
    if found is not None:
        read = read_expression(found)
        left = list(numbers)
        assert read is not None and read.value == target and read.operations >= 1
        for number in read.numbers:
            left.remove(number)  # raises if it is used more often than it is there


@pytest.mark.parametrize(
    ("numbers", "target", "expected"),
    [
        ([3, 3, 8, 8], 24, "8 / (3 - (8 / 3))"),  # the well-known hard one: only through a fraction
        ([5, 5, 7, 40], 40, None),  # such as 40 + (5 - 5) * 7: a number can be left out
        ([1, 1], 3, "unreachable"),
        ([7], 7, "unreachable"),  # one number alone is no expression
    ],
)
def test_hard_puzzles(numbers: list[int], target: int, expected: str | None) -> None:
    found = solve(numbers, target)
    if expected == "unreachable":
        assert found is None
    else:
        read = read_expression(found or "")
        assert read is not None and read.value == target
        assert expected is None or found == expected
