"""The answer of a text that marks it with tags. Linear in the length of the text, whatever it holds."""

from __future__ import annotations

import re

_OPENED = re.compile(r"\s*(?:<think>\s*)+")


def tagged(text: str, tag: str) -> str | None:
    """What stands in the one pair `<tag>` ... `</tag>` of `text`, stripped; None unless there is exactly one pair.

    A text with two answers has none: otherwise a model could offer several and be paid for the best.
    """
    opening, closing = f"<{tag}>", f"</{tag}>"
    if text.count(opening) != 1 or text.count(closing) != 1:
        return None
    _, _, rest = text.partition(opening)
    inside, found, _ = rest.partition(closing)
    return inside.strip() if found else None


def thought_and_answered(text: str) -> bool:
    """Whether `text` is `<think>` ... `</think>` ... `<answer>` ... `</answer>`, opened by the first and each tag once.

    A `<think>` that a model writes again, right after the one that opened its turn, is no second one.
    """
    opened = _OPENED.match(text)
    if opened is None:
        return False
    body, tags = text[opened.end() :], ("</think>", "<answer>", "</answer>")
    places = [body.find(tag) for tag in tags]
    once = "<think>" not in body and all(body.count(tag) == 1 for tag in tags)
    return once and places == sorted(places)
