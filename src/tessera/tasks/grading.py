"""Reading a model's answer out of its text. Pure functions, linear in the length of the text whatever it holds.

Integers are compared as normalised strings, never converted: Python refuses to convert very long ones, and the
conversion takes quadratic time.
"""

from __future__ import annotations

import re
from numbers import Integral
from typing import Any

# Matched against the text backwards, so that the first match is the last number and the rest is never looked at. A
# minus belongs to the number unless it follows a word, a digit or a closing bracket, where it subtracts or joins.
_LAST_NUMBER = re.compile(r"([0-9]+)(?:\.([0-9]+))?(-(?![\w)\]}]))?")
_WHOLE_TEXT = re.compile(r"\s*([-+]?)([0-9]+)(?:\.0*)?\s*")


def last_integer(text: str) -> str | None:
    """The last number of `text` as a normalised integer (`"-7"`, `"1234"`), or None if it is missing or fractional.

    2504.20834 App. B: commas are removed, then the last integer is taken. The paper does not print its expression;
    ours reads `12-5` as ending in 5 and `= -7` in -7 (U+2212 is a minus too), takes `12.0` for 12, and takes a
    number with a fraction for one number that is no integer, so `2.5` does not end in 5. Only the digits 0-9 count.
    """
    match = _LAST_NUMBER.search(text.replace(",", "").replace("\N{MINUS SIGN}", "-")[::-1])
    if match is None:
        return None
    last, before_point, minus = match.groups()
    if before_point is not None and last.strip("0"):
        return None
    return _normalised(minus or "", (before_point or last)[::-1])


def integer_text(value: Any) -> str | None:
    """`value` as a normalised integer, or None: an int, a float of integral value, or text such as `1,234` or `-5.0`.

    Raises ValueError for an int beyond Python's limit of digits for conversion (4300 by default).
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, Integral):
        return str(int(value))
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else None
    if isinstance(value, str) and (match := _WHOLE_TEXT.fullmatch(value.replace(",", ""))):
        return _normalised(match[1], match[2])
    return None


def _normalised(sign: str, digits: str) -> str:
    digits = digits.lstrip("0") or "0"
    return "-" + digits if sign == "-" and digits != "0" else digits
