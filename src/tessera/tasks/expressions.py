"""Arithmetic as people write it: read with `ast`, worked in fractions, never evaluated as code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from tessera.tasks.traces import OPERATIONS

# No letter, point or underscore gets past this, so `ast` sees whole numbers, brackets and signs alone; the length
# bounds the depth of the tree and, since `**` is refused, the size of every intermediate result.
MOST_CHARACTERS = 300
_CHARACTERS = re.compile(r"[0-9+\-*/() ]+")
_SIGNS = str.maketrans({"×": "*", "÷": "/", "\N{MINUS SIGN}": "-"})


@dataclass(frozen=True)
class Expression:
    """An expression that was read: its exact value, the numbers in it, and how many of + - * / join them."""

    value: Fraction
    numbers: tuple[int, ...]
    operations: int


def read_expression(text: str) -> Expression | None:
    """`text` as an expression in whole numbers, + - * / (or × ÷ −), signs and brackets.

    None for anything else: another operator, a name, a number with a point, a division by zero, brackets that do not
    match, or more than MOST_CHARACTERS characters.
    """
    if len(text) > MOST_CHARACTERS:
        return None
    written = " ".join(text.translate(_SIGNS).split())
    if not _CHARACTERS.fullmatch(written):
        return None
    try:
        return _read(ast.parse(written, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, MemoryError, RecursionError):  # what ast and _read raise
        return None


def _read(node: ast.expr) -> Expression:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return Expression(Fraction(node.value), (node.value,), 0)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        inner = _read(node.operand)
        return Expression(
            -inner.value if isinstance(node.op, ast.USub) else inner.value, inner.numbers, inner.operations
        )
    if not isinstance(node, ast.BinOp) or type(node.op) not in OPERATIONS:
        raise ValueError(f"not arithmetic: {type(node).__name__}")
    left, right = _read(node.left), _read(node.right)
    value = OPERATIONS[type(node.op)][1](left.value, right.value)
    return Expression(value, left.numbers + right.numbers, left.operations + right.operations + 1)


def solve(numbers: Sequence[int], target: int) -> str | None:
    """An expression in `numbers`, each used at most once and two at least, that equals `target`; None if there is none.

    All numbers are tried first, then all but one, and so on. The search is exact and complete; its time grows steeply
    with the count of numbers (milliseconds for four, seconds for six).
    """
    for count in range(len(numbers), 1, -1):
        for chosen in dict.fromkeys(_choices(tuple(numbers), count)):
            if (found := _reach(chosen, Fraction(target))) is not None:
                return found[1:-1]
    return None


def _choices(numbers: tuple[int, ...], count: int) -> Iterator[tuple[int, ...]]:
    for mask in range(2 ** len(numbers)):
        if mask.bit_count() == count:
            yield _picked(numbers, mask)


def _picked(numbers: tuple[int, ...], mask: int) -> tuple[int, ...]:
    return tuple(number for i, number in enumerate(numbers) if mask >> i & 1)


def _reach(numbers: tuple[int, ...], target: Fraction) -> str | None:
    """An expression that uses all of `numbers` and equals `target`.

    The smaller part of each split is worked out forwards, and what the other part would have to equal, backwards. A
    product with a part that is 0 needs nothing of the other, which is left out: fewer numbers do the same.
    """
    if len(numbers) == 1:
        return str(numbers[0]) if numbers[0] == target else None
    for part, rest in _splits(numbers):
        for value, written in _values(part).items():
            for needed, form in _needed(target, value):
                if (other := _reach(rest, needed)) is not None:
                    return form.format(written, other)
    return None


def _splits(numbers: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Every way to part `numbers` in two, the first part no larger than the second."""
    everything = 2 ** len(numbers) - 1
    for mask in range(1, everything):
        if 2 * mask.bit_count() <= len(numbers):
            yield _picked(numbers, mask), _picked(numbers, everything - mask)


def _needed(target: Fraction, value: Fraction) -> Iterator[tuple[Fraction, str]]:
    """What the other operand has to be for `value` and it to make `target`, and how the two are then written."""
    yield target - value, "({0} + {1})"
    yield value - target, "({0} - {1})"
    yield target + value, "({1} - {0})"
    if value and target:
        yield target / value, "({0} * {1})"
        yield target * value, "({1} / {0})"
        yield value / target, "({0} / {1})"


def _values(numbers: tuple[int, ...]) -> dict[Fraction, str]:
    """Every value that all of `numbers` together can make, with one way to write it."""
    if len(numbers) == 1:
        return {Fraction(numbers[0]): str(numbers[0])}
    found: dict[Fraction, str] = {}
    for part, rest in _splits(numbers):
        others = _values(rest)
        for one, written in _values(part).items():
            for other, also in others.items():
                for value, form in _combined(one, other):
                    found.setdefault(value, form.format(written, also))
    return found


def _combined(one: Fraction, other: Fraction) -> Iterator[tuple[Fraction, str]]:
    yield one + other, "({0} + {1})"
    yield one - other, "({0} - {1})"
    yield other - one, "({1} - {0})"
    yield one * other, "({0} * {1})"
    if other:
        yield one / other, "({0} / {1})"
    if one:
        yield other / one, "({1} / {0})"
