import pytest

pytest.importorskip("math_verify", reason="needs the extra math")

from tessera.tasks.maths.algebra import expression, proportional, same_value


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [
        ("1/2", "0.5", True),
        (r"\frac{1}{3}", "0.333333", True),  # six digits of what has no last one
        (r"\frac{1}{3}", "0.33333", False),
        (r"\frac{1}{3}", "0.333334", False),
        (r"\pi", "3.141593", True),
        (r"\pi", "3.1416", False),
        ("1", "0.999999", False),
        (r"5.3 \cdot 10^{-9}", r"3.3 \cdot 10^{-10}", False),  # equal to six places
        (r"\sqrt{8}", r"2\sqrt{2}", True),
        (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}", True),
        (r"\sqrt{8}", r"2\sqrt{3}", False),
        ("2^{10}", "1024", True),
        ("(x+1)^{2}", "x^{2}+2x+1", True),
        ("(x+1)^{2}", "x^{2}+1", False),
        ("x", "X", False),
        ("|x|", "x", False),
        (r"\sqrt{x^{2}}", "x", False),
        ("x+y", "x+z", False),
        ("x+y-y", "x", True),
        (r"\sin^{2} x + \cos^{2} x", "1", True),
        (r"\ln(ab)", r"\ln a + \ln b", True),
        ("(1+i)^{2}", "2i", True),
        ("2^{n}", "n^{2}", False),
        (r"\lfloor n/2 \rfloor", "n/2", False),
        (r"\binom{n}{2}", r"\frac{n(n-1)}{2}", True),
        (r"\frac{x^{2}-1}{x-1}", "x+1", True),
        (r"\gamma^{2}-1", r"(\gamma-1)(\gamma+1)", True),
        ("", "", False),
        ("x +", "x", False),
    ],
)
def test_same_value(gold: str, answer: str, expected: bool) -> None:
    assert same_value(gold, answer) is expected
    assert same_value(answer, gold) is expected


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [
        (("y", "2x+3"), ("2x-y", "-3"), True),
        (("y", "2x+3"), ("2y", "4x+6"), True),
        (("y", "2x+3"), ("y", "2x+4"), False),
        (("x+y", "0"), ("1", "1"), False),
        (("1", "2"), ("2", "4"), False),
    ],
)
def test_proportional(gold: tuple[str, str], answer: tuple[str, str], expected: bool) -> None:
    assert proportional(gold, answer) is expected


def test_what_cannot_be_read_is_none() -> None:
    assert expression(r"\frac{1}{") is None
    assert expression("") is None


@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [
        ("6:00", "7:00", False),  # a ratio with nothing below
        ("1 + 2004!", "2 + 2004!", False),  # equal to 5000 digits
        ("1 + 2004!", "2004! + 1", True),
        (r"2 \binom{5}{2}", "20", True),  # twice 10, no mixed number 2 + 10
        (r"2 \binom{5}{2}", "12", False),
        (r"2 \binom{100}{50} + 1", r"3 \binom{100}{50} + 1", False),
        (r"149-\frac{99}{200}\binom{200}{99}", r"249-\frac{99}{200}\binom{200}{99}", False),
    ],
)
def test_exact_numbers_are_compared_exactly(gold: str, answer: str, equal: bool) -> None:
    assert same_value(gold, answer) is equal
