r"""How an answer in normal form is put together: lists, tuples and intervals, unions, matrices, equations, text.

Structure decides before any algebra does: `(1,2)` is neither `[1,2]` nor `1,2`, and no part of an answer is taken for
the whole.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tessera.tasks.maths.plain import without_thousands

DEEPEST = 60
_OPEN = {
    "(": ")",
    "[": "]",
    "{": "}",
    r"\{": r"\}",
    r"\langle": r"\rangle",
    r"\lfloor": r"\rfloor",
    r"\lceil": r"\rceil",
}
_CLOSE = frozenset(_OPEN.values())
_TOKEN = re.compile(r"\\begin\{[a-z]+\*?\}|\\end\{[a-z]+\*?\}|\\[a-zA-Z]+|\\.|\s+|.", re.DOTALL)
_MATRIX = re.compile(
    r"([\[(]?)\s*\\begin\{(p|b|B|small)?(?:matrix|array)\}(?:\s*\{[lcr|\s]*\})?(.*)\\end\{\2?(?:matrix|array)\}\s*([\])]?)",
    re.DOTALL,
)
_NAME = r"(?:\\[a-zA-Z]+|[a-zA-Z])(?:\s*_(?:\w|\{(?:[^{}]|\{[^{}]*\})*\}))?\s*(?:'|\^\\prime)?"
_ASSIGNED = re.compile(
    rf"(?:\\angle\s*)?(?:[A-Z]{{1,4}}(?:_\w)?\s*)*|{_NAME}(?:\s*\(\s*[a-zA-Z](?:\s*,\s*[a-zA-Z])*\s*\))?|\(\s*[a-zA-Z](?:\s*,\s*[a-zA-Z])+\s*\)|"
    r"(?:\\angle\s*)?[A-Z](?:\s*[A-Z](?:_\w)?)*"
)
_WORDS = re.compile(r"(?:\\text\{[^{}]*\}|[a-zA-Z]{3,}|[\s().,'\-])+")
_RELATIONS = {"<": "<", ">": ">", r"\le": r"\le", r"\ge": r"\ge"}


class TooDeep(ValueError):
    """Brackets nested deeper than any answer has them."""


@dataclass(frozen=True)
class Leaf:
    """An expression, perhaps with a unit, that has no structure of its own."""

    latex: str


@dataclass(frozen=True)
class Words:
    """An answer in words, or the letter of a choice: lower case, without punctuation."""

    text: str


@dataclass(frozen=True)
class Items:
    r"""Several answers, or a set, or a union's parts (`kind`): their order says nothing."""

    kind: str
    items: tuple[Answer, ...]


@dataclass(frozen=True)
class Row:
    """Ordered items between brackets: a tuple, a point, an interval."""

    brackets: str
    items: tuple[Answer, ...]


@dataclass(frozen=True)
class Matrix:
    """Rows of entries, whatever brackets stand around them."""

    rows: tuple[tuple[Answer, ...], ...]


@dataclass(frozen=True)
class Equation:
    """Sides joined by `=`. `name` is the left side where that only names the value (`x`, `f(x)`, `m_{max}`)."""

    name: str | None
    sides: tuple[Answer, ...]
    latex: tuple[str, ...]


@dataclass(frozen=True)
class Either:
    """Two readings of one spelling: `1,234` is a number or a list."""

    readings: tuple[Answer, ...]


Answer = Leaf | Words | Items | Row | Matrix | Equation | Either


def tokens(text: str) -> list[str]:
    """`text` in tokens of LaTeX; raises TooDeep for brackets nested deeper than `DEEPEST`."""
    found = _TOKEN.findall(text)
    depth = 0
    for token in found:
        depth += (token in _OPEN) - (token in _CLOSE)
        if depth > DEEPEST:
            raise TooDeep(f"brackets nested deeper than {DEEPEST}")
    return found


def split(text: str, *separators: str) -> list[str]:
    """Cut `text` at the separators that stand outside all brackets and environments."""
    parts, depth = [""], 0
    for token in tokens(text):
        if token in separators and depth == 0:
            parts.append("")
            continue
        depth += (token in _OPEN or token.startswith(r"\begin{")) - (token in _CLOSE or token.startswith(r"\end{"))
        depth = max(depth, 0)
        parts[-1] += token
    return [part.strip() for part in parts]


def enclosed(text: str) -> tuple[str, str, str] | None:
    """Opening bracket, inside and closing bracket where one pair encloses all of `text`; `(1,2]` is such a pair."""
    found = tokens(text)
    if len(found) < 2 or found[0] not in _OPEN or found[-1] not in _CLOSE:
        return None
    depth = 0
    for i, token in enumerate(found):
        depth += (token in _OPEN) - (token in _CLOSE)
        if depth == 0:
            return (found[0], "".join(found[1:-1]).strip(), found[-1]) if i == len(found) - 1 else None
    return None


def read(text: str) -> Answer:
    """The structure of an answer in normal form."""
    text = text.strip()
    joined = without_thousands(text)
    if joined is not None:
        return Either((Leaf(joined), _listed(text.split(","))))
    parts = [part for part in split(re.sub(r"(?<=[\s,])(?:and|or)(?=\s)", ",", text), ",", ";") if part]
    if len(parts) > 1:
        return _listed(parts)
    return _read_one(parts[0] if parts else "")


def _listed(parts: list[str]) -> Answer:
    items = [_read_one(part) for part in parts]
    flat = [
        inner
        for item in items
        for inner in (item.items if isinstance(item, Items) and item.kind == "list" else (item,))
    ]
    return Items("list", tuple(flat))


def _read_one(text: str) -> Answer:
    """The structure of what holds no comma outside brackets."""
    sides = split(text, "=", r"\in")
    if len(sides) > 1:
        name = "".join(sides[0].split()) if sides[0] and _ASSIGNED.fullmatch(sides[0]) else None
        return Equation(name, tuple(_read_one(side) for side in sides[name is not None :]), tuple(sides))
    for reader in (_inequality, _union, _plus_minus, _matrix, _bracketed, _text):
        answer = reader(text)
        if answer is not None:
            return answer
    return Leaf(text)


def _inequality(text: str) -> Answer | None:
    r"""`x > 2` and `1 \le x < 3` as the intervals they describe."""
    sides = split(text, *_RELATIONS)
    signs = [token for token in tokens(text) if token in _RELATIONS]
    if len(sides) != len(signs) + 1 or not all(sides):
        return None
    if len(sides) == 2:
        left, right = sides
        up = signs[0] in (">", r"\ge")
        if re.fullmatch(_NAME, right):
            left, right, up = right, left, not up
        if not re.fullmatch(_NAME, left):
            return None
        closed = signs[0] in (r"\le", r"\ge")
        bound = _read_one(right)
        if up:
            return Row("[)" if closed else "()", (bound, Leaf(r"\infty")))
        return Row("(]" if closed else "()", (Leaf(r"-\infty"), bound))
    if len(sides) == 3 and re.fullmatch(_NAME, sides[1]):
        ups = [sign in (">", r"\ge") for sign in signs]
        if ups[0] != ups[1]:
            return None
        low, high, (first, second) = sides[0], sides[2], signs
        if ups[0]:
            low, high, first, second = high, low, second, first
        brackets = ("[" if first in (r"\le", r"\ge") else "(") + ("]" if second in (r"\le", r"\ge") else ")")
        return Row(brackets, (_read_one(low), _read_one(high)))
    return None


def _union(text: str) -> Answer | None:
    parts = split(text, r"\cup")
    return Items("union", tuple(_read_one(part) for part in parts)) if len(parts) > 1 and all(parts) else None


def _plus_minus(text: str) -> Answer | None:
    if r"\pm" not in tokens(text) or (enclosed(text) and enclosed(text)[0] in (r"\{", "[")):  # type: ignore[index]
        return None
    both = [re.sub(r"\\pm(?![a-zA-Z])", a, re.sub(r"\\mp(?![a-zA-Z])", b, text)) for a, b in (("+", "-"), ("-", "+"))]
    return Items("list", tuple(_read_one(part.removeprefix("+").strip()) for part in both))


def _matrix(text: str) -> Answer | None:
    match = _MATRIX.fullmatch(text)
    if match is None or match[3].count(r"\begin{"):
        return None
    rows = [row for row in split(match[3], r"\\") if row and row != r"\hline"]
    return Matrix(tuple(tuple(_read_one(entry) for entry in split(row, "&")) for row in rows))


def _bracketed(text: str) -> Answer | None:
    pair = enclosed(text)
    if pair is None:
        return None
    opening, inside, closing = pair
    if opening == "{" and closing == "}":
        return read(inside)
    if opening == r"\{" and closing == r"\}":
        answer = read(inside)
        plain = isinstance(answer, Items) and answer.kind == "list"
        return Items("set", answer.items if plain else (answer,)) if "|" not in inside and ":" not in inside else None  # type: ignore[union-attr]
    parts = split(inside, ",", ";")
    if len(parts) > 1:
        return Row(opening + closing, tuple(_read_one(part) for part in parts))
    return _read_one(inside) if opening + closing == "()" else None


def _text(text: str) -> Answer | None:
    if not _WORDS.fullmatch(text) or not re.search("[a-zA-Z]", text):
        return None
    inside = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text)
    if r"\text" in text and "," in inside.strip(" ,"):
        return _listed([rf"\text{{{part.strip()}}}" for part in inside.split(",") if part.strip()])
    if not re.fullmatch(r"[a-zA-Z\s().,'\-]+", inside):
        return None
    return Words(" ".join(re.findall(r"[a-z']+|-", inside.lower().replace("-", " "))))
