r"""Is a text laid out as asked: thoughts in `<think>`, the answer in `<answer>` or in `\boxed{}`? In linear time."""

from __future__ import annotations

import re

from tessera.tasks.maths.final import last_box
from tessera.tasks.tags import tagged

_BRACE = re.compile(r"[{}]")


def has_thoughts(text: str) -> bool:
    """Whether `text` opens with thoughts in the one pair of `<think>` tags that it holds, and goes on after them."""
    after = text.rpartition("</think>")[2]
    return text.lstrip().startswith("<think>") and bool(tagged(text, "think")) and not after.isspace() and bool(after)


def has_answer(text: str) -> bool:
    """Whether `text` holds one pair of `<answer>` tags with something between them."""
    return bool(tagged(text, "answer"))


def has_box(text: str) -> bool:
    r"""Whether the last `\boxed{` of `text` is closed and holds something."""
    return bool(last_box(text))


def braced(text: str, start: int) -> str | None:
    """What stands between the brace before `start` and the one that closes it, stripped; None where none does."""
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return text[start : brace.start()].strip()
    return None
