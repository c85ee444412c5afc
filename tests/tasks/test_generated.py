from itertools import combinations, islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.core.errors import UserError
from tessera.tasks.arithmetic import Arithmetic
from tessera.tasks.base import SPLITS, LoadedTask
from tessera.tasks.generated import draw_pairs, operand_range, pair_count
from tessera.tasks.registry import load_task


def test_operands() -> None:
    assert operand_range(1) == (2, 9)
    assert operand_range(2) == (11, 99)
    assert operand_range(3) == (101, 999)


def test_pair_count() -> None:
    assert pair_count(1) == 36  # 8 operands: 8 * 9 / 2
    assert pair_count(2) == 4005  # 89 operands: 89 * 90 / 2
    assert pair_count(3) == 404_550  # 899 operands: 899 * 900 / 2


def test_every_pair_can_be_drawn() -> None:
    expected = {(a, b) for a in range(2, 10) for b in range(a, 10)}
    assert {(min(p), max(p)) for p in draw_pairs(1, 36, seed=5)} == expected


def test_a_longer_draw_begins_with_the_shorter() -> None:
    assert draw_pairs(3, 50, seed=1) == draw_pairs(3, 500, seed=1)[:50]
    assert draw_pairs(3, 50, seed=1) != draw_pairs(3, 50, seed=2)


def test_the_draw_of_a_seed_never_changes() -> None:
    assert draw_pairs(3, 3, seed=0) == [(544, 864), (637, 680), (354, 706)]


def test_both_orders_are_drawn() -> None:
    ordered = [a < b for a, b in draw_pairs(3, 1000, seed=0)]
    # Binomial(1000, 1/2) up to ties: 400..600 is more than 6 standard deviations (15.8) wide on each side.
    assert 400 < sum(ordered) < 600


@st.composite
def tasks(draw: st.DrawFn) -> tuple[dict[str, int], LoadedTask]:
    """Any sizes that fit, up to every pair there is."""
    digits = draw(st.integers(1, 4))
    room = min(pair_count(digits), 60)
    train = draw(st.integers(1, room))
    validation = draw(st.integers(0, room - train))
    test = draw(st.integers(0, room - train - validation))
    sizes = {"train": train, "validation": validation, "test": test}
    options = {f"{split}_size": size for split, size in sizes.items()}
    name = draw(st.sampled_from(["arithmetic", "multiplication"]))
    seed = draw(st.integers(-(2**70), 2**70))
    return sizes, load_task({"name": name, "digits": digits, "seed": seed, **options})


@given(tasks())
@settings(deadline=None)
def test_splits_have_their_sizes_and_never_ask_the_same(drawn: tuple[dict[str, int], LoadedTask]) -> None:
    sizes, task = drawn
    pairs = {s: {frozenset(p.metadata.values()) for p in task.problems(s)} for s in SPLITS}
    # As sets of operands: {a, b} is also {b, a}, and each split repeats none.
    assert {split: len(found) for split, found in pairs.items()} == sizes
    assert all(pairs[one].isdisjoint(pairs[other]) for one, other in combinations(SPLITS, 2))


def test_a_larger_train_split_leaves_the_others_as_they_were() -> None:
    small = load_task({"name": "multiplication", "train_size": 10, "validation_size": 5, "test_size": 20})
    large = load_task({"name": "multiplication", "train_size": 90, "validation_size": 5, "test_size": 20})
    assert (large.test, large.validation, large.train[:10]) == (small.test, small.validation, small.train)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"digits": 3}, {"train": 1000, "validation": 100, "test": 3000}),
        # 4005 pairs for 4100 problems: 4005 * 1000 // 4100, 4005 * 100 // 4100, 4005 * 3000 // 4100
        ({"digits": 2}, {"train": 976, "validation": 97, "test": 2930}),
        # 36 - 20 = 16 left for 3100 problems: 16 * 100 // 3100, 16 * 3000 // 3100
        ({"digits": 1, "train_size": 20}, {"train": 20, "validation": 0, "test": 15}),
        ({"digits": 3, "test_size": 0}, {"train": 1000, "validation": 100, "test": 0}),
    ],
)
def test_default_sizes_are_the_usual_or_what_fits(options: dict[str, int], expected: dict[str, int]) -> None:
    assert Arithmetic(**options).sizes == expected


def test_more_problems_than_exist_is_an_error() -> None:
    with pytest.raises(UserError, match="37 problems are asked for, and 36 exist with digits = 1"):
        load_task({"name": "arithmetic", "digits": 1, "train_size": 30, "test_size": 7})


def test_long_numbers_are_no_different() -> None:
    task = load_task({"name": "arithmetic", "digits": 60, "train_size": 5, "validation_size": 0, "test_size": 5})
    for problem in islice(task.train, 5):
        a, b = problem.metadata["a"], problem.metadata["b"]
        assert 10**59 < a < 10**60 and problem.answer == a + b
        assert task.task.reward(problem, f" {a + b:,}") == 1.0
