r"""Whether two expressions are equal: exactly where both are numbers, at many points where they hold variables.

The expressions are read by math-verify's parser. Its own comparison rounds to six places, which makes all small
numbers equal (`5.3e-9`, `3.3e-10`), takes `x` for `X`, and simplifies for seconds; so values are compared here.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import sympy
from latex2sympy2_extended import latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from sympy.core.function import AppliedUndef

from tessera.tasks.maths.plain import significant_digits, value

# What sympy and the parser raise on input they have no answer for. Anything else ends the process, and is counted.
UNREADABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
)
CASE_MATTERS = ConversionConfig(lowercase_symbols=False)
DIGITS = 40
ENOUGH_DIGITS = 6
# Irrational-looking, of both signs, small and larger than one; a variable takes another in each.
_POINTS = ("0.7312845", "1.9041733", "-0.6180541", "2.7144173", "-1.4432901", "0.2890377")


def same_value(gold: str, answer: str) -> bool:
    """Whether two expressions in normal form, without units, have the same value wherever both have one."""
    if gold == answer:
        return bool(gold)
    numbers = value(gold), value(answer)
    if None not in numbers:
        return numbers[0] == numbers[1] or _rounded(gold, answer) or _rounded(answer, gold)
    left, right = expression(gold), expression(answer)
    if left is None or right is None:
        return False
    if left.has(sympy.zoo, sympy.nan) or right.has(sympy.zoo, sympy.nan):  # no value: 6:00, read as a ratio
        return False
    if left == right:
        return True
    if isinstance(left, sympy.MatrixBase) or isinstance(right, sympy.MatrixBase):
        return False
    return _same_expression(left, right) or _rounds_to(answer, left) or _rounds_to(gold, right)


def proportional(gold: tuple[str, str], answer: tuple[str, str]) -> bool:
    """Whether two equations say the same: the differences of their sides are multiples of each other."""
    sides = [expression(side) for side in (*gold, *answer)]
    if not all(isinstance(side, sympy.Expr) for side in sides):
        return False
    try:
        left, right = sides[0] - sides[1], sides[2] - sides[3]
        if left.free_symbols != right.free_symbols or not left.free_symbols:
            return False
        values = [(_number(left, point), _number(right, point)) for point in _points(left, right)]
        ratios = [a / b for a, b in values if a and b]
        return len(ratios) >= 3 and all(_close(ratio, ratios[0]) for ratio in ratios)
    except UNREADABLE:
        return False


@lru_cache(maxsize=512)
def expression(latex: str) -> Any:
    """The expression that `latex` writes, `i` the imaginary unit; None where it cannot be read whole."""
    prepared = _prepared(latex)
    if not prepared or re.search(r"\d\s*_|'", prepared):  # a numeral of another base, of which the digits would be read
        return None
    try:
        read = _parsed(prepared)
        if not isinstance(read, sympy.Basic | sympy.MatrixBase):
            return None
        applied = {f: sympy.Symbol(str(f).replace(" ", "")) for f in read.atoms(AppliedUndef)}
        return read.subs(applied).subs(sympy.Symbol("i"), sympy.I)
    except UNREADABLE:
        return None


def _parsed(latex: str) -> Any:
    try:
        return latex2sympy(
            latex, conversion_config=ConversionConfig(lowercase_symbols=False), normalization_config=None
        )
    except Exception as error:
        if type(error) is Exception or isinstance(error, UNREADABLE):  # the parser raises the bare class
            raise ValueError(str(error)) from None
        raise


def _prepared(latex: str) -> str:
    """`latex` in the words that the parser knows."""
    text = re.sub(
        r"\\frac\{d(?:\^(\d))?\s*([a-zA-Z])(?:_([a-z]))?\}\{d\s*([a-zA-Z])(?:\^(\d))?\}", r"D_{d\1\2\3d\4\5}", latex
    )
    text = re.sub(r"\\(dot|ddot|bar|hat|vec|tilde|overline)\s*\{?\s*(\\?[a-zA-Z]+)\s*\}?", r"\2_{\1}", text)
    text = re.sub(r"([a-zA-Z])_\{(\w+)\}_(?:\{(\w)\}|(\w))", r"\1_{\2\3\4}", text)
    text = re.sub(r"\\(g|G)amma(?!\s*\()(?![a-zA-Z])", r"\1_{gamma}", text)
    text = re.sub(r"([a-zA-Z])\s*(?:\^\s*\{?\s*\\prime\s*\}?|')", r"\1_{prime}", text)
    text = re.sub(r"(?<![a-zA-Z\\])([Ee])_\{?(\w+)\}?", r"z_{\1\2}", text)  # no power of e
    text = re.sub(r"_\{?\s*\\(odot|oplus|max|min|infty)(?![a-zA-Z])\s*\}?", r"_{\1}", text)
    text = re.sub(r"_(\w)(?=\\)", r"_{\1}", text)
    text = re.sub(r"(?<=\d)\s*(?=\\binom)", r" \\cdot ", text)  # twice it, no mixed number
    return re.sub(r"_\{?\\text\{([a-zA-Z ]+)\}\}?", r"_{\1}", text).replace(r"_{prime} (", "_{prime}(")


def _same_expression(left: Any, right: Any) -> bool:
    try:
        if left.free_symbols != right.free_symbols and not _cancels(left, right):
            return False
        if (difference := (left - right).doit()).is_Rational:  # exactly, whatever the size: 1 + 2004! is not 2 + 2004!
            return bool(difference == 0)
        agreed = 0
        for point in _points(left, right):
            a, b = _number(left, point), _number(right, point)
            if a is None or b is None:
                continue
            if _close(a, b):
                agreed += 1
            elif (a.is_real and b.is_real) or not point:
                return False
            if not point:
                break
        return agreed >= (3 if left.free_symbols | right.free_symbols else 1)
    except UNREADABLE:
        return False


def _cancels(left: Any, right: Any) -> bool:
    """Whether the variables that only one side has might vanish from it, as in `x + y - y`."""
    return bool(left.free_symbols <= right.free_symbols or right.free_symbols <= left.free_symbols)


def _points(left: Any, right: Any) -> list[dict[Any, Any]]:
    symbols = sorted(left.free_symbols | right.free_symbols, key=str)
    if not symbols:
        return [{}]
    points, each = [sympy.Float(point, DIGITS) for point in _POINTS], range(len(symbols))
    n = len(points)
    # The first have all variables positive and apart, where roots and logarithms are real.
    rows = [[abs(points[(i + j) % n]) + j for j in each] for i in range(2)]
    rows += [[points[(i + 2 * j) % n] * (1 + j) for j in each] for i in range(n)]
    rows += [[abs(points[i]) + 3 + i + 2 * j for j in each] for i in range(2)]
    return [dict(zip(symbols, row, strict=True)) for row in rows]


def _number(expression: Any, point: dict[Any, Any]) -> Any:
    """The value of `expression` at `point`, or None where it has none."""
    number = expression.subs(point).doit().evalf(DIGITS)
    return number if number.is_number and number.is_finite and not number.free_symbols else None


def _close(a: Any, b: Any) -> bool:
    # Decimals are read with fifteen digits.
    difference, size = abs(a - b), max(abs(a), abs(b))
    return bool(difference <= size * sympy.Float("1e-13")) if a and b else bool(difference < sympy.Float("1e-30"))


def _rounded(exact: str, decimal: str) -> bool:
    """Whether `decimal` is `exact`, which has no finite decimal expansion, to at least six significant digits."""
    number, written = value(exact), significant_digits(decimal)
    if number is None or written is None or written[2] < ENOUGH_DIGITS:
        return False
    below = number.denominator
    while below % 2 == 0:
        below //= 2
    while below % 5 == 0:
        below //= 5
    return below != 1 and abs(number - written[0]) <= written[1]


def _rounds_to(decimal: str, exact: Any) -> bool:
    """The same for an irrational constant, `3.141593` for pi."""
    written = significant_digits(decimal)
    if written is None or written[2] < ENOUGH_DIGITS or exact.free_symbols or exact.is_rational:
        return False
    try:
        number = exact.doit().evalf(DIGITS)
        decimal_value, half_a_unit = (sympy.Rational(*n.as_integer_ratio()) for n in written[:2])
        return bool(number.is_real and abs(number - decimal_value) <= half_a_unit)
    except UNREADABLE:
        return False
