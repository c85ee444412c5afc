from __future__ import annotations

import random
from collections import Counter
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.core.errors import UserError
from tessera.tasks.statements import (
    DEEPEST,
    SPEECHES,
    check_statement,
    draw_statement,
    solutions,
    true_worlds,
    worded,
)

NAMES = ("Ann", "Bob", "Cy")


def holds(statement: Any, world: tuple[bool, ...]) -> bool:
    """Whether `statement` is true in one world: the slow twin."""
    head, *rest = statement
    if head == "telling-truth":
        return world[rest[0]]
    if head == "lying":
        return not world[rest[0]]
    values = [holds(part, world) for part in rest]
    if head == "not":
        return not values[0]
    return {"and": all(values), "or": any(values), "->": values[0] <= values[-1], "<=>": values[0] == values[-1]}[head]


def by_enumeration(statements: Any) -> list[tuple[bool, ...]]:
    worlds = product((False, True), repeat=len(statements))
    return [w for w in worlds if all(holds(s, w) == w[i] for i, s in enumerate(statements))]


def statements_of(people: int) -> st.SearchStrategy[Any]:
    claims = st.tuples(st.sampled_from(["telling-truth", "lying"]), st.integers(0, people - 1)).map(list)
    return st.recursive(
        claims,
        lambda s: st.one_of(
            st.tuples(st.just("not"), s).map(list),
            st.tuples(st.sampled_from(["and", "or", "->", "<=>"]), s, s).map(list),
        ),
        max_leaves=5,
    )


def test_worlds_of_two_people_by_hand() -> None:
    # Worlds 0..3: nobody, person 0, person 1, both are knights; bit w stands for world w.
    assert true_worlds(["telling-truth", 0], 2) == 0b1010
    assert true_worlds(["telling-truth", 1], 2) == 0b1100
    assert true_worlds(["lying", 1], 2) == 0b0011
    assert true_worlds(["and", ["telling-truth", 0], ["telling-truth", 1]], 2) == 0b1000
    assert true_worlds(["->", ["telling-truth", 0], ["telling-truth", 1]], 2) == 0b1101
    assert true_worlds(["<=>", ["telling-truth", 0], ["telling-truth", 1]], 2) == 0b1001


@given(st.integers(1, 6).flatmap(lambda n: st.lists(statements_of(n), min_size=n, max_size=n)))
def test_the_solutions_are_those_of_enumeration(statements: list[Any]) -> None:
    for statement in statements:
        assert check_statement(statement, len(statements), "here") is statement
    assert sorted(solutions(statements)) == sorted(by_enumeration(statements))


def test_solutions_of_small_puzzles() -> None:
    paradox = [["lying", 0]]
    assert solutions(paradox) == []
    assert solutions([["telling-truth", 0]]) == [(False,), (True,)]
    assert solutions([["lying", 1], ["<=>", ["telling-truth", 0], ["telling-truth", 1]]]) == [(True, False)]


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (["lying", 1], "Bob is a knave"),
        (["not", ["telling-truth", 0]], "Ann is not a knight"),
        (["not", ["lying", 2]], "Cy is not a knave"),
        (["->", ["lying", 1], ["telling-truth", 2]], "If Bob is a knave then Cy is a knight"),
        (["<=>", ["telling-truth", 0], ["lying", 0]], "Ann is a knight if and only if Ann is a knave"),
        (["and", ["lying", 0], ["lying", 1]], "Ann is a knave and Bob is a knave"),
        (["or", ["lying", 0], ["not", ["lying", 1]]], "Ann is a knave or Bob is not a knave"),
        (["not", ["and", ["lying", 0], ["lying", 1]]], "it is not the case that Ann is a knave and Bob is a knave"),
    ],
)
def test_the_words_of_the_public_data(statement: Any, words: str) -> None:
    assert worded(statement, NAMES) == words


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("lying", "is no statement"),
        ([], "is no statement"),
        (["laying", 0], r"unknown statement in here 'laying' \(did you mean 'lying'\?\)"),
        ([["lying", 0]], "unknown statement in here"),
        (["lying", 3], "must name one of the 3 people, from 0"),
        (["lying", -1], "must name one of the 3 people"),
        (["lying", True], "must name one of the 3 people"),
        (["lying"], "needs 1 of what it is about, and has 0"),
        (["and", ["lying", 0]], "needs 2 of what it is about, and has 1"),
        (["not", ["lying", 0], ["lying", 1]], "needs 1 of what it is about, and has 2"),
        (["not", ["lying", "0"]], "must name one of the 3 people"),
    ],
)
def test_what_is_no_statement(statement: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_statement(statement, 3, "here")


def test_depth_is_bounded() -> None:
    nested: Any = ["lying", 0]
    for _ in range(DEEPEST):
        nested = ["not", nested]
    assert check_statement(nested, 1, "here") is nested
    with pytest.raises(UserError, match="is no statement"):
        check_statement(["not", nested], 1, "here")


def test_drawn_statements_have_the_forms_of_the_public_data() -> None:
    source, forms = random.Random(0), Counter[str]()
    for _ in range(6000):
        statement = draw_statement(1, 3, source)
        head, *rest = statement
        forms[head] += 1
        if head in ("telling-truth", "lying"):
            assert rest[0] in (0, 2)  # another
        elif head == "not":
            assert rest[0][1] in (0, 2)
        else:
            assert rest[0] != rest[1]
    joined = [forms[head] for head in ("not", "and", "or", "->", "<=>")]
    # Binomial(6000, 1/6): 1000 with a standard deviation of 28.9; claims are of two kinds.
    assert all(850 < n < 1150 for n in [*joined, forms["telling-truth"] + forms["lying"]])
    assert all(400 < forms[head] < 600 for head in ("telling-truth", "lying"))


def test_every_way_of_speaking_names_the_speaker_and_what_is_said() -> None:
    assert len(SPEECHES) == len(set(SPEECHES))
    assert all(speech.count("{name}") == speech.count("{said}") == 1 for speech in SPEECHES)
