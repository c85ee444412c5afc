"""Plain numbers, exactly: integers, decimals, fractions of integers, mixed numbers, powers of ten, periods."""

from __future__ import annotations

import re
from fractions import Fraction

_DECIMAL = r"\d{1,60}(?:\.\d{0,60})?|\.\d{1,60}"
_NUMBER = re.compile(rf"([+-]?)\s*({_DECIMAL})(?:\s*\\cdot\s*10\^(?:\{{\s*([+-]?\d{{1,3}})\s*\}}|(\d)))?")
_POWER = re.compile(r"([+-]?)\s*10\^(?:\{\s*([+-]?\d{1,3})\s*\}|(\d))")
_WHOLE = r"\s*([+-]?\s*\d{1,60})\s*"
_RATIO = re.compile(rf"([+-]?)\s*(?:\\frac\s*\{{{_WHOLE}\}}\s*\{{{_WHOLE}\}}|(\d{{1,60}})\s*/\s*(\d{{1,60}}))")
_MIXED = re.compile(
    r"([+-]?)\s*(\d{1,60})\s*(?:\\frac\s*\{\s*(\d{1,60})\s*\}\s*\{\s*(\d{1,60})\s*\}|\s(\d{1,60})/(\d{1,60}))"
)
_REPEATING = re.compile(r"([+-]?)\s*(\d{0,30})\.(\d{0,30})\s*\\(?:overline|bar)\s*\{?\s*(\d{1,30})\s*\}?")
_THOUSANDS = re.compile(r"([+-]?\s*[1-9]\d{0,2})((?:,\d{3}){1,20})(\.\d{1,60})?")


def value(text: str) -> Fraction | None:
    r"""The number that `text`, in normal form, writes plainly; None for anything else, however simple."""
    if not text.isascii():  # digits of other scripts
        return None
    if match := _NUMBER.fullmatch(text):
        number = Fraction(match[2]) * Fraction(10) ** int(match[3] or match[4] or 0)
    elif match := _POWER.fullmatch(text):
        number = Fraction(10) ** int(match[2] or match[3])
    elif match := _RATIO.fullmatch(text):
        above, below = (int("".join(n.split())) for n in (match[2] or match[4], match[3] or match[5]))
        if below == 0:
            return None
        number = Fraction(above, below)
    elif match := _MIXED.fullmatch(text):
        whole, above, below = (int(n) for n in (match[2], match[3] or match[5], match[4] or match[6]))
        if below == 0:
            return None
        number = whole + Fraction(above, below)
    elif match := _REPEATING.fullmatch(text):
        number = _repeating(match[2] or "0", match[3], match[4])
    else:
        return None
    return -number if match[1] == "-" else number


def _repeating(whole: str, once: str, period: str) -> Fraction:
    """0.1666... is 1/10 + 6/90: a period counts in nines, from the place where it begins."""
    return Fraction(f"{whole}.{once or '0'}") + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(once))


def without_thousands(text: str) -> str | None:
    """`text` without its thousands commas if it is one number with such commas: `1,234`, not `12,34` or `1, 234`."""
    return text.replace(",", "") if _THOUSANDS.fullmatch(text) else None


def significant_digits(text: str) -> tuple[Fraction, Fraction, int] | None:
    """Of a plain decimal: its value, half a unit of its last place, and its number of significant digits."""
    match = _NUMBER.fullmatch(text)
    number = value(text)
    if match is None or number is None or "." not in match[2]:
        return None
    digits = match[2].replace(".", "").lstrip("0")
    places = len(match[2].partition(".")[2]) - int(match[3] or match[4] or 0)
    return number, Fraction(1, 2) / Fraction(10) ** places, len(digits)
