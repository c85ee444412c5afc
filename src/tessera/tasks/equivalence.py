r"""Whether a completion's final answer is mathematically equal to a reference (math-verify's parser, killable checks).

The final answer is what the last `\boxed{}` holds; a box that is never closed, or empty, is no answer. A text without
any box is read as math-verify reads it, but only what it announces counts: `answer: 5`, `the final answer is $5$`.
A number that merely stands in the text, perhaps because the question was repeated, is no answer.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from functools import lru_cache

from tessera.core.errors import UserError
from tessera.tasks.maths.final import TAIL, has_box, last_box
from tessera.tasks.maths.normal import normal
from tessera.tasks.maths.plain import value
from tessera.tasks.pool import CheckFailed, CheckPool

LIMIT = 5.0
SHORT = 100

logger = logging.getLogger(__name__)


def equivalent(golds: Sequence[str], text: str, *, limit: float = LIMIT) -> bool:
    """Whether the final answer of `text` is equal to one of `golds`, LaTeX or plain.

    A check that takes longer than `limit` seconds, or whose process ends, counts as unequal; it is logged, and counted
    in `checks().failures`. Raises UserError where math-verify is not installed.
    """
    pool = checks()
    if not has_box(text):
        return bool(text.strip()) and _checked(pool, "text", golds, text[-TAIL:], limit)
    answer = last_box(text)
    if not answer:
        return False
    known = _plainly(golds, answer)
    return _checked(pool, "box", golds, answer, limit) if known is None else known


@lru_cache(maxsize=1)
def checks() -> CheckPool:
    """The pool of this process; UserError where math-verify is missing."""
    if importlib.util.find_spec("math_verify") is None:
        raise UserError("comparing mathematical answers needs math-verify: pip install 'tessera-rl[math]'")
    return CheckPool("tessera.tasks.maths.check:run")


def _plainly(golds: Sequence[str], answer: str) -> bool | None:
    """What needs no algebra: equal spellings, and plain numbers on both sides. None where a process has to decide."""
    if len(answer) > SHORT:
        return None
    theirs = normal(answer)
    number = value(theirs)
    ours = [normal(gold) for gold in golds]
    if not theirs or theirs in ours:
        return bool(theirs)
    numbers = [value(gold) for gold in ours]
    if number is None or None in numbers:
        return None
    # Decimals may be roundings (0.333333 of 1/3); that is for the whole comparison.
    return True if number in numbers else None if "." in answer or any("." in gold for gold in golds) else False


def _checked(pool: CheckPool, kind: str, golds: Sequence[str], text: str, limit: float) -> bool:
    try:
        return bool(pool.run(kind, list(golds), text, limit=limit))
    except CheckFailed as failure:
        logger.warning("no result for the answer %.60r (%s): it counts as wrong", text, failure.reason)
        return False
