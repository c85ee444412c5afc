r"""The final answer of a completion: what stands in its last `\boxed{}`. Linear in the length of the text."""

from __future__ import annotations

import re

# Longer answers than this are no answers: the longest of the public sets has 200 characters.
LONGEST = 2000
TAIL = 1000

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def has_box(text: str) -> bool:
    r"""Whether a `\boxed` stands anywhere in `text`, closed or not."""
    return "\\boxed" in text or "\\fbox" in text


def last_box(text: str) -> str | None:
    r"""What the last `\boxed{}` of `text` holds.

    None where there is none, where the last is never closed (the text was cut short, and what came before was not
    its last word), and where it holds more than `LONGEST` characters.
    """
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if start < 0:
        return None
    opening = _BOX.match(text, start)
    if opening is None:
        return None
    inside = text[opening.end() : opening.end() + LONGEST + 1]
    depth = 1
    for brace in _BRACE.finditer(inside):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return inside[: brace.start()].strip()
    return None
