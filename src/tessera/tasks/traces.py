"""Reasoning traces from annotated equations: the sums of a word problem, one a sentence, for a supervised warm-up."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from fractions import Fraction

OPERATIONS: dict[type[ast.operator], tuple[str, Callable[[Fraction, Fraction], Fraction]]] = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", operator.sub),
    ast.Mult: ("*", operator.mul),
    ast.Div: ("/", operator.truediv),
}
_SENTENCE = re.compile(r"(?<=[.?!])\s+")


def worked_solution(question: str, equation: str) -> tuple[str, Fraction] | None:
    """What is asked, each operation of `equation` with its result, and the answer; and the answer as a number.

    None when the equation holds anything but numbers and + - * /, no operation at all, or divides by zero.
    """
    try:
        steps: list[str] = []
        answer = _work(ast.parse(equation.strip(), mode="eval").body, steps)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError):
        return None
    if not steps:
        return None
    asked = _SENTENCE.split(question.strip())[-1]
    numbers = " and ".join(_shown(Fraction(n)) for n in re.findall(r"\d+(?:\.\d+)?", equation))
    sums = " ".join(f"We calculate {step}." for step in steps)
    text = (
        f"Let's solve this step by step. We want to know: {asked} The numbers that we need are {numbers}. {sums} "
        f"So the answer is {_shown(answer)}."
    )
    return text, answer


def _work(node: ast.expr, steps: list[str]) -> Fraction:
    """The value of `node`; its operations are appended to `steps` in the order they are carried out."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return Fraction(str(node.value))
    if not isinstance(node, ast.BinOp) or type(node.op) not in OPERATIONS:
        raise ValueError(f"not arithmetic: {ast.dump(node)}")
    sign, operation = OPERATIONS[type(node.op)]
    left, right = _work(node.left, steps), _work(node.right, steps)
    value = operation(left, right)
    steps.append(f"{_shown(left)} {sign} {_shown(right)} = {_shown(value)}")
    return value


def _shown(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else f"{float(value):g}"
