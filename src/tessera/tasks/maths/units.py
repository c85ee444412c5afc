r"""Units behind a number: `5 \text{ cm}^2`, `30^\circ`, `\$20`, `20 miles`, `60\%`."""

from __future__ import annotations

import re
from typing import NamedTuple

from tessera.tasks.maths.plain import value

_ALIASES = {
    "cm": "centimeter", "mm": "millimeter", "km": "kilometer", "m": "meter", "kg": "kilogram", "g": "gram",
    "metre": "meter", "centimetre": "centimeter", "kilometre": "kilometer", "hr": "hour", "h": "hour", "min": "minute",
    "sec": "second", "s": "second", "ft": "foot", "feet": "foot", "in": "inch", "inche": "inch", "yd": "yard",
    "mi": "mile", "lb": "pound", "oz": "ounce", "deg": "degree", "buck": "dollar", "usd": "dollar", "ml": "milliliter",
    "l": "liter", "litre": "liter", "mph": "mile/hour", "kph": "kilometer/hour", "sq": "square", "hz": "hertz",
}  # fmt: skip
# Words that name a unit even outside \text{}. Single letters are variables there.
_BARE = (
    "centimeters?|centimetres?|millimeters?|kilometers?|kilometres?|meters?|metres?|inch(?:es)?|feet|foot|yards?|miles?|"
    "seconds?|minutes?|hours?|days?|weeks?|months?|years?|grams?|kilograms?|pounds?|ounces?|dollars?|cents?|degrees?|"
    "units?|square units?|cubic units?|cm|mm|km|kg|km/h|mph|min|sec|hr|ft|lbs?|mL|Hz|kHz|MHz|J|kJ|eV|keV|MeV|"
    r"square (?:cm|mm|km|meters?|inch(?:es)?|feet|miles?)|cm/s|m/s"
)
_POWERED = r"(?:\s*\^\s*(?:\{?\s*-?\s*\d\s*\}?))?"
_TEXT = rf"\s*\\text\{{(?:[a-zA-Z][a-zA-Z /.\-]*)\}}{_POWERED}"
_UNIT = re.compile(
    rf"(?P<rest>.*?[\d}})!a-z])(?:(?P<all>(?:{_TEXT})+)\s*[CFK]?|\s*(?P<bare>{_BARE})(?P<barepower>{_POWERED}))"
)
_COUNTED = re.compile(r"(.*?[\d}])\s+([a-z]{3,}(?: [a-z]{3,}){0,2})")
_FUNCTIONS = {"sin", "cos", "tan", "cot", "sec", "csc", "log", "exp", "det", "gcd", "lcm", "min", "max", "sqrt"}
_SENSELESS = {
    "not",
    "or",
    "and",
    "if",
    "when",
    "where",
    "to",
    "mod",
    "base",
    "for",
    "than",
    "but",
    "is",
    "except",
    "no",
    "over",
}
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}


class Measured(NamedTuple):
    """An answer without its unit. `unit` is the empty string where there is none, `%` for a percentage."""

    number: str
    unit: str


def split_unit(text: str) -> Measured:
    r"""Part a number in normal form from its unit; text that says more (`5 \text{ or } 6`) is left whole."""
    if text.endswith(r"\%") and len(text) > 2:
        return Measured(text[:-2].strip(), "%")
    dollars = re.fullmatch(r"([+-]?)\s*\\\$\s*(.+)", text)
    if dollars:
        return Measured(dollars[1] + split_unit(dollars[2]).number, "dollar")
    match = _UNIT.fullmatch(text)
    if match is None:
        return _counted(text)
    written = re.sub(r"\\text\{|[{}^]", " ", (match["all"] or "") + (match["bare"] or "") + (match["barepower"] or ""))
    words = [_singular(word) for word in re.findall(r"[a-z]+|-?\d|/", written.lower())]
    if len(words) > 6 or _SENSELESS & set(words):
        return Measured(text, "")
    number = match["rest"].strip()
    if words and words[0] in _SCALES:
        number, words = rf"{number} \cdot 10^{_SCALES[words[0]]}", words[1:]
    if words[:1] == ["square"]:
        words = [*words[1:], "2"]
    elif words[:1] == ["cubic"]:
        words = [*words[1:], "3"]
    return Measured(number, " ".join(words))


def _counted(text: str) -> Measured:
    """`27 apples`: words after a plain number say what was counted, unless they belong to mathematics."""
    match = _COUNTED.fullmatch(text)
    if match is None or value(match[1]) is None or (_SENSELESS | _FUNCTIONS) & set(match[2].split()):
        return Measured(text, "")
    return Measured(match[1], " ".join(map(_singular, match[2].split())))


def _singular(word: str) -> str:
    word = word if len(word) < 3 or not word.endswith("s") or word.endswith("ss") else word[:-1]
    return _ALIASES.get(word, word)
