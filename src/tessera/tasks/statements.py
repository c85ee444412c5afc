"""What knights and knaves say: statements as nested lists, true in which worlds, in words, and drawn at random.

`["telling-truth", i]` and `["lying", i]` say what person i is; `["not", s]`, `["and", s, t]`, `["or", s, t]`,
`["->", s, t]` and `["<=>", s, t]` join statements. A world makes each person a knight or a knave; world w has person i
for a knight where bit i of w is set. A statement is worked out in all worlds at once: as the integer whose bit w says
whether it is true in w.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from tessera.core.errors import UserError, unknown

Statement = Sequence[Any]
MOST_PEOPLE, DEEPEST = 16, 20

_LEAVES = {"telling-truth": "{0} is a knight", "lying": "{0} is a knave"}
_JOINTS: dict[str, tuple[str, Callable[[int, int, int], int]]] = {  # words, and worlds from those of s, t and all
    "and": ("{0} and {1}", lambda s, t, all_: s & t),
    "or": ("{0} or {1}", lambda s, t, all_: s | t),
    "->": ("If {0} then {1}", lambda s, t, all_: (all_ ^ s) | t),
    "<=>": ("{0} if and only if {1}", lambda s, t, all_: all_ ^ s ^ t),
}
_FORMS = ("claim", "not", *_JOINTS)

# As in the public data: after "that", in quotes, before and after the name.
SPEECHES = (
    "{name} said that {said}.",
    "{name} told you that {said}.",
    "{name} expressed that {said}.",
    '{name} said, "{said}."',
    '{name} noted, "{said}".',
    '{name} stated, "{said}".',
    '{name} remarked, "{said}".',
    '{name} commented, "{said}".',
    '{name} asserted: "{said}".',
    '{name} was heard saying, "{said}".',
    '"{said}," {name} claimed.',
    '"{said}," {name} declared.',
    '"{said}," {name} mentioned.',
    '"{said}" - {name}.',
    'According to {name}, "{said}".',
    'As {name} put it, "{said}".',
    'In {name}\'s words: "{said}".',
    'In a statement by {name}: "{said}".',
)


def check_statement(statement: Any, people: int, where: str, depth: int = 0) -> Statement:
    """`statement` if it is one about `people` persons; else a UserError that says what is wrong `where`."""
    if not isinstance(statement, Sequence) or isinstance(statement, str) or not statement or depth > DEEPEST:
        raise UserError(f"{where}: {statement!r:.60} is no statement, such as ['lying', 0] or ['not', ['lying', 0]]")
    head, *rest = statement
    if not isinstance(head, str) or head not in (*_LEAVES, "not", *_JOINTS):
        raise unknown(f"statement in {where}", str(head), (*_LEAVES, "not", *_JOINTS))
    takes = 2 if head in _JOINTS else 1
    if len(rest) != takes:
        raise UserError(f"{where}: {statement!r:.60} needs {takes} of what it is about, and has {len(rest)}")
    if head not in _LEAVES:
        for part in rest:
            check_statement(part, people, where, depth + 1)
    elif type(rest[0]) is not int or not 0 <= rest[0] < people:
        raise UserError(f"{where}: {statement!r:.60} must name one of the {people} people, from 0")
    return statement


def true_worlds(statement: Statement, people: int) -> int:
    """The worlds of `people` persons in which `statement` is true, as bits of an integer."""
    everything: int = (1 << 2**people) - 1
    head, *rest = statement
    if head == "telling-truth":
        return _knight(int(rest[0]), people)
    if head == "lying":
        return everything ^ _knight(int(rest[0]), people)
    if head == "not":
        return everything ^ true_worlds(rest[0], people)
    first, second = (true_worlds(part, people) for part in rest)
    return _JOINTS[head][1](first, second, everything)


def _knight(person: int, people: int) -> int:
    """The worlds in which `person` is a knight: runs of 2^person bits, off and on by turns."""
    run: int = 2**person
    period = ((1 << run) - 1) << run
    return sum(period << start for start in range(0, 2**people, 2 * run))


def solutions(statements: Sequence[Statement]) -> list[tuple[bool, ...]]:
    """Every way to make the speakers knights (True) and knaves such that the knights' statements alone are true."""
    people = len(statements)
    left = everything = (1 << 2**people) - 1
    for person, statement in enumerate(statements):
        left &= everything ^ _knight(person, people) ^ true_worlds(statement, people)
    worlds = (w for w in range(2**people) if left >> w & 1)
    return [tuple(bool(w >> person & 1) for person in range(people)) for w in worlds]


def worded(statement: Statement, names: Sequence[str]) -> str:
    """`statement` in the words of the public data, such as `If Jack is a knight then Zoey is a knave`."""
    head, *rest = statement
    if head in _LEAVES:
        return _LEAVES[head].format(names[rest[0]])
    parts = [worded(part, names) for part in rest]
    if head != "not":
        return _JOINTS[head][0].format(*parts)
    if rest[0][0] in _LEAVES:
        return parts[0].replace(" is a ", " is not a ")
    return f"it is not the case that {parts[0]}"


def draw_statement(speaker: int, people: int, source: random.Random) -> Statement:
    """What `speaker` says: a claim about another, its opposite, or two different claims joined; each form as often."""
    form = source.choice(_FORMS)
    if form in _JOINTS:
        claims = [[kind, person] for kind in _LEAVES for person in range(people)]
        return [form, *source.sample(claims, 2)]
    claim = [source.choice(list(_LEAVES)), source.choice([p for p in range(people) if p != speaker])]
    return ["not", claim] if form == "not" else claim
