import time
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.tasks.numerals import LONGEST, final_number, number_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # After a mark.
        ("2 + 3 of 7. The answer is 18.", 18),
        ("the final answer is: 18", 18),
        ("The correct answer is **18** eggs, see step 3.", 18),
        ("The answer is\n\n18", 18),
        ("The answer is: \\(18\\)", 18),
        ("The answer is 18 dollars per day. She has 3 hens.", 18),
        ("The answer is 3 * 4 = 12 eggs.", 12),
        ("The answer is 18!", 18),
        ("work 5\n#### 1,234", 1234),
        ("#### -5", -5),
        (r"\boxed{18} follows from 3", 18),
        (r"\boxed{18 \text{ dollars}}", 18),
        (r"\boxed{\text{18}}", 18),
        (r"\boxed{\$1{,}000}", 1000),
        (r"$\boxed{x=18}$", 18),
        (r"\boxed{\boxed{18}}", 18),
        (r"\boxed{90^\circ}", 90),
        ("The answer is 50%", 50),
        ("The answer is -$5", -5),
        ("The answer is $-5", -5),
        ("The answer is \N{MINUS SIGN}5", -5),
        ("The answer is unclear. 18", 18),  # the mark marks nothing
        ("The answer is 18. The answer is 20.", 20),  # the last word counts
        (r"\boxed{18} \boxed{20}", 20),
        ("<answer>18</answer><answer>20</answer>", 20),
        # Without one: the last number.
        ("so 18 then", 18),
        ("16 - 5", 5),
        ("= -7", -7),
        ("18 and \N{FULLWIDTH DIGIT ONE} more", 18),
        ("18\0", 18),
        (r"A\ 18", 18),
        ("US$18", 18),
        ("The answer is $18$3", 18),
        ("The answer is 1\N{NARROW NO-BREAK SPACE}800", 1800),
        ("The answer is 3**2", None),
        ("no digits", None),
        ("", None),
    ],
)
def test_where_the_answer_stands(text: str, expected: int | None) -> None:
    assert final_number(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$18.00", Fraction(18)),
        ("18.50", Fraction(37, 2)),
        (".5", Fraction(1, 2)),
        ("1,234.5", Fraction(2469, 2)),
        ("7/2", Fraction(7, 2)),
        ("3 1/2 cups", Fraction(7, 2)),
        ("-3 1/2", Fraction(-7, 2)),
        (r"\frac{36}{2}", Fraction(18)),
        (r"-\dfrac{1}{2}", Fraction(-1, 2)),
        ("1e3", Fraction(1000)),
        ("2.5E-1", Fraction(1, 4)),
        ("007", Fraction(7)),
        ("12,34", None),  # two numbers
        ("1.2.3", None),
        ("1/0", None),
        ("5 or 6", None),
        ("5 cups or 6", None),
        ("5, 6", None),
        ("5 and 6", None),
        ("5-6", None),
        ("5\N{EN DASH}6", None),
        ("3 * 4", None),
        (r"3 \times 4", None),
        (r"3\pi", None),
        (r"3\sqrt{2}", None),
        ("3^2", None),
        ("18\N{SUPERSCRIPT TWO}", None),
        ("18\N{FULLWIDTH DIGIT ONE}", None),
        ("9" * (LONGEST + 1), None),
    ],
)
def test_how_a_number_may_be_written(text: str, expected: Fraction | None) -> None:
    assert final_number(f"The answer is {text}") == expected
    assert final_number(rf"\boxed{{{text}}}") == expected


@pytest.mark.parametrize("text", ["118", "180", "18.5", "1.18", "18,000", "1 8", "x18", "18 19", "-18", "١٨", "１８"])
def test_a_text_that_holds_the_digits_is_not_the_number(text: str) -> None:
    assert final_number(text) != 18
    assert final_number(f"The answer is {text}.") != 18 or text == "18 19"  # 19 of something


@given(st.integers(-(10**30), 10**30), st.text(st.characters(exclude_categories=["Nd", "No"])))
def test_an_integer_written_after_any_text_is_read_back(number: int, before: str) -> None:
    assert final_number(f"{before}\n#### {number:,}") == number
    assert final_number(f"{before} {number}") in (number, None if before.rstrip().endswith(".") else number)


@given(st.text("0123456789.,/$-+ =\\{}()e#boxedfrac\n", max_size=60))
def test_any_jumble_is_read_or_not(text: str) -> None:
    read = final_number(text)
    assert read is None or isinstance(read, Fraction)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(18, 18), ("18", 18), (" $1,234 ", 1234), (2.5, Fraction(5, 2)), (0.1, Fraction(1, 10)), (1e22, 10**22),
     ("1/2", Fraction(1, 2)), (Fraction(7, 2), Fraction(7, 2)), (True, None), (None, None), ("x", None), ("", None),
     (float("nan"), None), (float("inf"), None), ("9" * 5000, None), ("5 or 6", None), ([5], None)],
)  # fmt: skip
def test_gold_numbers(value: Any, expected: Fraction | None) -> None:
    assert number_of(value) == expected


HUGE = [
    "a",
    "9",
    "99999999 ",
    "1,111",
    "1/",
    "1 ",
    "=",
    " ",
    "(",
    "\\boxed{",
    "the answer is ",
    "#",
    "$",
    "\0",
    "\\frac{",
]


@pytest.mark.parametrize("unit", HUGE)
def test_ten_megabytes_of_anything_take_a_moment(unit: str) -> None:
    text = unit * (10_000_000 // len(unit))
    started = time.perf_counter()
    assert final_number(text) != 18
    assert final_number(f"The answer is 18. {text}") in (18, None)
    assert time.perf_counter() - started < 5
