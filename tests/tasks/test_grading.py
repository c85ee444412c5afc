import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.tasks.grading import integer_text, last_integer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("First 3, then 4. The answer is 12.", "12"),
        ("1,234,567", "1234567"),
        ("1, 2, 3", "3"),
        ("= -7", "-7"),
        ("= \N{MINUS SIGN}7", "-7"),
        ("-7", "-7"),
        (r"\boxed{-7}", "-7"),
        ("(-7)", "-7"),
        ("**-7**", "-7"),
        ("5--7", "-7"),  # the second minus is the number's
        ("12-5", "5"),  # a subtraction, not -5
        ("x-5", "5"),
        ("(2+3)-5", "5"),
        ("12 - 5", "5"),
        ("007", "7"),
        ("-0", "0"),
        ("000", "0"),
        ("12.0", "12"),
        ("-12.00", "-12"),
        ("12.", "12"),
        ("12.\n3", "3"),
        ("2.5", None),  # one number with a fraction, not the integer 5
        ("It is 42, or 0.9 sure", None),  # the last number decides, and it is no integer
        ("$3.50 of 7 dollars", "7"),
        ("no digits", None),
        ("", None),
        ("٤٢", None),  # Arabic-Indic digits
        ("42 and ٤٢", "42"),
        ("4\x0042", "42"),
    ],
)
def test_last_integer(text: str, expected: str | None) -> None:
    assert last_integer(text) == expected


@given(st.integers(), st.text(st.characters(exclude_categories=["Nd"])), st.text())
def test_an_integer_written_after_any_text_is_read_back(number: int, unnumbered: str, before: str) -> None:
    assert last_integer(f"{before} {number:,} {unnumbered.replace('.', '')}") == str(number)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (145, "145"),
        (-3, "-3"),
        (145.0, "145"),
        (1e22, "10000000000000000000000"),
        ("1,234", "1234"),
        (" -5.0 ", "-5"),
        ("+5", "5"),
        ("-+5", None),
        ("-0", "0"),
        (2.5, None),
        ("2.5", None),
        ("five", None),
        ("", None),
        ("١٢", None),
        (True, None),
        (None, None),
        (float("nan"), None),
        (float("inf"), None),
        ([5], None),
    ],
)
def test_integer_text(value: object, expected: str | None) -> None:
    assert integer_text(value) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("9" * 1_000_000, "9" * 1_000_000),  # Python would refuse to convert it
        ("-" + "0" * 1_000_000 + "7", "-7"),
        ("7" + "-" * 10_000_000, "7"),
        ("1.1" * 3_000_000, None),
        ("1 " * 5_000_000, "1"),
        ("(" * 5_000_000 + ")" * 5_000_000, None),
        ("\0" * 10_000_000, None),
        ("," * 10_000_000, None),
        (" " * 10_000_000, None),
    ],
    ids=["digits", "zeros", "minuses", "points", "numbers", "brackets", "NUL", "commas", "spaces"],
)
def test_hostile_texts_are_read_in_bounded_time(text: str, expected: str | None) -> None:
    started = time.perf_counter()
    assert last_integer(text) == expected
    assert time.perf_counter() - started < 3
    started = time.perf_counter()
    integer_text(text)
    assert time.perf_counter() - started < 3
