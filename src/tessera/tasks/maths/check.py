"""What runs in the checking process: the whole comparison of one completion with its references."""

from __future__ import annotations

from collections.abc import Sequence

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

from tessera.tasks.maths.compare import equal

_ANNOUNCED = [
    LatexExtractionConfig(try_extract_without_anchor=False, boxed_match_priority=-1),
    ExprExtractionConfig(try_extract_without_anchor=False),
]


def check(golds: Sequence[str], answer: str) -> bool:
    """Whether `answer` is equal to one of `golds`."""
    return any(equal(gold, answer) for gold in golds)


def check_text(golds: Sequence[str], text: str) -> bool:
    """The same for the answer that math-verify finds announced in `text`, as in `The final answer is $5$`."""
    found = parse(text, _ANNOUNCED, extraction_mode="first_match", parsing_timeout=None)
    return bool(found) and isinstance(found[-1], str) and check(golds, found[-1])


def run(kind: str, golds: Sequence[str], text: str) -> bool:
    """One request of the pool: `kind` is `box` or `text`."""
    return check(golds, text) if kind == "box" else check_text(golds, text)
