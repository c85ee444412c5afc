"""Numbers and foreign text in the form that a report shows."""

from __future__ import annotations

import unicodedata
from typing import Any

HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, format (direction marks), surrogate, separators
JOINERS = "\u200c\u200d"  # part of ordinary words and emoji in some scripts


def visible(value: Any) -> str:
    """`value` as text in which every character shows: NUL as ␀, a direction override as ⟨U+202E⟩. Not HTML-escaped."""
    return "".join(_visible(character) for character in str(value))


def cut(value: Any, longest: int) -> str:
    """`value` as text; beyond `longest` characters the rest is counted, not shown."""
    text = str(value)
    return text if len(text) <= longest else f"{text[:longest]} … ({len(text) - longest} more characters)"


def short(value: float | None, digits: int = 4) -> str:
    """A number in few characters: 12.5k, 0.0123, 5e-6; a dash for None."""
    if value is None:
        return "–"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= max(size, 1e4):
            return f"{value / size:.{digits}g}{letter}"
    if 0 < abs(value) < 1e-3:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:.{digits}g}"


def percent(value: float | None) -> str:
    """A share as a percentage with one decimal."""
    return "–" if value is None else f"{100 * value:.1f} %"


def duration(seconds: float) -> str:
    """`4.2 s`, `3 min 20 s`, `1 h 02 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _visible(character: str) -> str:
    if character in "\n\t" or character in JOINERS or unicodedata.category(character) not in HIDDEN:
        return character
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"⟨U+{code:04X}⟩"
