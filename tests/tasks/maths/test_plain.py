from fractions import Fraction

import pytest

from tessera.tasks.maths.plain import significant_digits, value, without_thousands


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12", Fraction(12)),
        ("-0.5", Fraction(-1, 2)),
        (".25", Fraction(1, 4)),
        ("+2", Fraction(2)),
        (r"\frac{-1}{2}", Fraction(-1, 2)),
        (r"-\frac{6}{4}", Fraction(-3, 2)),
        ("6/4", Fraction(3, 2)),
        (r"1\frac{4}{5}", Fraction(9, 5)),
        ("-1 4/5", Fraction(-9, 5)),
        (r"8.7 \cdot 10^8", Fraction(870_000_000)),
        (r"1 \cdot 10^{-3}", Fraction(1, 1000)),
        ("10^{-3}", Fraction(1, 1000)),
        ("1/0", None),
        (r"\frac{1}{0}", None),
        ("1,2", None),
        ("1 2", None),
        ("2x", None),
        ("", None),
        ("9" * 61, None),
        (r"1 \cdot 10^{9999}", None),
        ("٤", None),
        (r"0.1\overline{6}", Fraction(1, 6)),  # 1/10 + 6/90 = 15/90
        (r"-2.\overline{27}", Fraction(-25, 11)),  # 2 + 27/99
        (r"\overline{3}", None),
    ],
)
def test_value(text: str, expected: Fraction | None) -> None:
    assert value(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,234", "1234"),
        ("-1,234,567.8", "-1234567.8"),
        ("12,34", None),
        ("1, 234", None),
        ("0,123", None),
        ("1234,567", None),
    ],
)
def test_without_thousands(text: str, expected: str | None) -> None:
    assert without_thousands(text) == expected


def test_significant_digits() -> None:
    assert significant_digits("0.0330") == (Fraction(33, 1000), Fraction(1, 20000), 3)
    # Half of the last place, 0.1 times 100.
    assert significant_digits(r"1.5 \cdot 10^2") == (Fraction(150), Fraction(5), 2)
    assert significant_digits("12") is None
