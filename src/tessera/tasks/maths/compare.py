"""Whether an answer is equal to a reference, structure by structure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product

from tessera.tasks.maths.algebra import proportional, same_value
from tessera.tasks.maths.normal import normal
from tessera.tasks.maths.plain import value
from tessera.tasks.maths.structure import Answer, Either, Equation, Items, Leaf, Matrix, Row, TooDeep, Words, read
from tessera.tasks.maths.units import split_unit

MOST_ITEMS = 64


def equal(gold: str, answer: str) -> bool:
    """Whether `answer` is mathematically equal to `gold`, both as written. Neither is symmetric nor guesses: `gold`
    may leave out what names the value or measures it (`x =`, a unit), and so may the answer."""
    ours, theirs = normal(gold), normal(answer)
    if not ours or not theirs:
        return False
    if ours == theirs:
        return True
    try:
        return same(read(ours), read(theirs))
    except TooDeep:
        return False


def same(gold: Answer, answer: Answer) -> bool:
    """Whether two answers are equal."""
    if isinstance(gold, Either) or isinstance(answer, Either):
        return any(same(g, a) for g, a in product(_readings(gold), _readings(answer)))
    if isinstance(gold, Equation) or isinstance(answer, Equation):
        return _same_equation(gold, answer)
    if isinstance(gold, Items) and isinstance(answer, Items):
        kinds = {gold.kind, answer.kind}
        return (len(kinds) == 1 or kinds == {"list", "set"}) and _same_in_any_order(gold.items, answer.items)
    if isinstance(gold, Row) and isinstance(answer, Row):
        return gold.brackets == answer.brackets and _same_in_order(gold.items, answer.items)
    if isinstance(gold, Matrix) and isinstance(answer, Matrix):
        return len(gold.rows) == len(answer.rows) and all(map(_same_in_order, gold.rows, answer.rows))
    if isinstance(gold, Leaf) and isinstance(answer, Leaf):
        return _same_leaf(gold.latex, answer.latex)
    if isinstance(gold, Words) or isinstance(answer, Words):
        return _letters(gold) == _letters(answer) is not None
    return False


def _readings(answer: Answer) -> Sequence[Answer]:
    return answer.readings if isinstance(answer, Either) else (answer,)


def _same_equation(gold: Answer, answer: Answer) -> bool:
    if isinstance(gold, Equation) and isinstance(answer, Equation):
        if gold.latex == answer.latex or _worded(gold) == _worded(answer) is not None:
            return True
        if gold.name is not None and gold.name == answer.name:
            return all(same(gold.sides[-1], side) for side in answer.sides)
        return len(gold.latex) == len(answer.latex) == 2 and proportional(_pair(gold), _pair(answer))
    if isinstance(gold, Equation):
        return gold.name is not None and same(gold.sides[-1], answer)
    assert isinstance(answer, Equation)
    # `x = 2/4 = 1/2`: all that follows the name must be right, not one side of it.
    return answer.name is not None and all(same(gold, side) for side in answer.sides)


def _worded(equation: Equation) -> tuple[str, ...] | None:
    """The sides of an equation between names of several letters, such as `MR=MC`, in lower case."""
    sides = tuple(side.lower() for side in equation.latex)
    return sides if all(re.fullmatch("[a-z]{2,}", side) for side in sides) else None


def _pair(equation: Equation) -> tuple[str, str]:
    return equation.latex[0], equation.latex[1]


def _same_in_order(gold: Sequence[Answer], answer: Sequence[Answer]) -> bool:
    return len(gold) == len(answer) and all(map(same, gold, answer))


def _same_in_any_order(gold: Sequence[Answer], answer: Sequence[Answer]) -> bool:
    """Whether the items pair up. Equality is transitive, so that the first partner found is as good as any."""
    if len(gold) != len(answer) or len(gold) > MOST_ITEMS:
        return False
    left = list(answer)
    for item in gold:
        partner = next((i for i, other in enumerate(left) if same(item, other)), None)
        if partner is None:
            return False
        del left[partner]
    return True


def _same_leaf(gold: str, answer: str) -> bool:
    ours, theirs = split_unit(gold), split_unit(answer)
    if "%" in (ours.unit, theirs.unit):
        return _same_percentage(ours.number, ours.unit, theirs.number, theirs.unit)
    if ours.unit and theirs.unit and ours.unit != theirs.unit:
        return False
    return same_value(ours.number, theirs.number)


def _same_percentage(gold: str, gold_unit: str, answer: str, answer_unit: str) -> bool:
    """`70%` is 0.7; and 70 where a question asks for a percentage, unless it could be meant as a share (up to 1)."""
    if gold_unit == answer_unit:
        return same_value(gold, answer)
    if {gold_unit, answer_unit} != {"%", ""}:
        return False
    percent, other = (gold, answer) if gold_unit == "%" else (answer, gold)
    number = value(percent)
    if same_value(rf"\frac{{{percent}}}{{100}}" if number is None else f"{number / 100}", other):
        return True
    return number is not None and number > 1 and same_value(percent, other)


def _letters(answer: Answer) -> str | None:
    r"""The letters of an answer in words; a lone letter or two may be the choice `\text{(B)}` or a name."""
    if isinstance(answer, Words):
        return answer.text or None
    if isinstance(answer, Leaf) and (match := re.fullmatch(r"\(?\s*([a-zA-Z]{1,2})\s*\)?", answer.latex)):
        return match[1].lower()
    return None
