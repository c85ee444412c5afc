"""Short answers compared as SQuAD does (Rajpurkar et al. 2016)."""

from __future__ import annotations

import string

ARTICLES = frozenset({"a", "an", "the"})
LONGEST = 1000  # characters of an answer
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """`text` in lower case, without ASCII punctuation, articles and repeated white space."""
    return " ".join(word for word in text.lower().translate(_NO_PUNCTUATION).split() if word not in ARTICLES)


def matches(text: str, answers: tuple[str, ...]) -> bool:
    """Whether `text` is one of `answers` after normalisation. A text without anything but articles matches none."""
    found = normalised(text[: LONGEST + 1])
    return len(text) <= LONGEST and found != "" and any(found == normalised(answer) for answer in answers)
