"""Reading the number that a worked answer ends in, exactly, in linear time whatever the text holds.

Numbers are fractions of integers, never floats: 0.1 is 1/10, and 18.00 is 18. One longer than `LONGEST` characters is
no number, so that no comparison takes long. Only the digits 0-9 count.
"""

from __future__ import annotations

import re
from collections import deque
from fractions import Fraction
from typing import Any

from tessera.tasks.formats import braced

LONGEST = 200  # characters of a number
_WINDOW = 400  # characters after a mark in which its number stands
_MARKS = 8  # so many of the last marks are looked at: a text of nothing but marks takes no longer

_MARK = re.compile(r"\bthe (?:final |correct )?answer is\b|####+|\\boxed\s*{", re.IGNORECASE)
_SENTENCE = re.compile(r"\n|[.!?](?=\s|$)")

# What may stand in and around a number and says nothing of its value: LaTeX's marks of thousands; then currencies,
# bold type, LaTeX's spaces and brackets, units.
_JOINT = re.compile(r"(?<=[0-9])(?:\{,\}|\\[,!]|[\u00a0\u2009\u202f])(?=[0-9]{3}(?![0-9]))|(?<=-)\\?[$€£¥](?=[0-9])")
_IDLE = re.compile(r"\\?[$€£¥%]|(?<![0-9)])\*\*|\*\*(?![0-9(])|\\[,!;: ()\[\]]|\^\\circ|\^{\\circ}|\\(?:left|right)\b")
_WRAPPED = re.compile(r"\\(?:text|textbf|mathbf|mathrm|bf|rm)\s*{([^{}]*)}")

# A minus belongs to the number unless it follows a word, a digit or a closing bracket, where it subtracts or joins.
_NUMBER = re.compile(
    r"(?:(?<![\w)\]}.])(?P<sign>[-+]))?(?<![\w.])"
    r"(?:\\[dt]?frac{(?P<over>[0-9]+)}{(?P<under>[0-9]+)}"
    r"|(?P<whole>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)?(?:(?<=[0-9])|(?=\.[0-9])))(?P<point>\.[0-9]+)?"
    r"(?P<power>[eE][-+]?[0-9]{1,2}(?![0-9]))?(?: (?P<part>[0-9]+(?=/[0-9])))?(?:/(?P<divisor>[0-9]+))?)"
)
# What follows a number that is a term of something unfinished, or one of several on offer.
_CUT = re.compile(r"\.?[0-9]|[^\W_a-zA-Z]")
_GOES_ON = re.compile(
    r"\s*(?:(?:\*\*|[-+*×·÷/\N{EN DASH}])\s*[0-9(\\]|\^|\\[a-zA-Z]"  # 3 * 4, 3-4, 3^2, 3\pi
    r"|[,;|]\s*-?[0-9]|(?:[^\W\d]+\s+)?or\s+-?[0-9]|(?:and|to)\s+-?[0-9])"  # 3, 4; 3 or 4; 3 cups or 4; 3 to 4
)


def final_number(text: str) -> Fraction | None:
    r"""The number that `text` gives as its answer; None where there is none, or more than one is offered.

    It stands after the last `The answer is` or `####` (behind the last `=` of that sentence), or in the last
    `\boxed{}`; without a number in any of these, it is the last of the text. Thousands may be parted by commas; a
    currency, a unit or a percent sign beside the number is passed over; `7/2`, `3 1/2`, `\frac{7}{2}` and `1e3` are
    read for what they are.
    """
    for mark in reversed(deque(_MARK.finditer(text), _MARKS)):
        span = _boxed(text, mark.end()) if mark[0].endswith("{") else _sentence(text, mark.end())
        if (match := _NUMBER.search(span)) is not None:
            unfinished = _CUT.match(span, match.end()) or _GOES_ON.match(span, match.end())
            return None if unfinished else _value(match)
    return _last_number(text)


def number_of(value: Any) -> Fraction | None:
    """A gold answer as a number: a number, or a text that is one (`1,234`, `$5`, `0.5`, `7/2`); otherwise None."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | Fraction):
        return None
    match = _NUMBER.fullmatch(_plain(str(value)).strip())
    return None if match is None else _value(match)


def _sentence(text: str, start: int) -> str:
    """The sentence after a mark, from its last equals sign on."""
    window = text[start : start + _WINDOW].lstrip(" \t\n:*")
    end = _SENTENCE.search(window)
    return _plain(window[: end.start() if end else None]).rpartition("=")[2]


def _boxed(text: str, start: int) -> str:
    """The box that opens before `start`, from its last equals sign on; nothing where it stays open."""
    return _plain(braced(text[start : start + _WINDOW], 0) or "").rpartition("=")[2]


def _last_number(text: str) -> Fraction | None:
    last = max(text.rfind(digit) for digit in "0123456789")
    start = max(0, last + 1 - LONGEST)
    numbers = deque(_NUMBER.finditer(span := _plain(text[start : last + LONGEST])), 1)
    if not numbers or (start and numbers[0].start() == 0) or _CUT.match(span, numbers[0].end()):
        return None
    return _value(numbers[0])


def _plain(text: str) -> str:
    unwrapped = _WRAPPED.sub(r" \1", text.replace("\N{MINUS SIGN}", "-"))
    return _IDLE.sub(" ", _JOINT.sub("", unwrapped))


def _value(match: re.Match[str]) -> Fraction | None:
    """The value of a match of `_NUMBER`, or None for one too long, or a division by zero."""
    if len(match[0]) > LONGEST:
        return None
    over, under = match["over"] or "0", match["under"] or match["divisor"] or "1"
    decimal = Fraction(f"{(match['whole'] or '0').replace(',', '')}{match['point'] or ''}{match['power'] or ''}")
    if not int(under):
        return None
    if match["part"]:  # 3 1/2
        size = decimal + Fraction(int(match["part"]), int(under))
    else:
        size = (decimal or Fraction(int(over))) / int(under)
    return -size if match["sign"] == "-" else size
