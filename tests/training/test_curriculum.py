"""Orders by difficulty, and mixtures by weight: what is drawn, what is logged, and that a run goes on where it was."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runs import TEST, TRAIN, completions_of, rl, rows_of, run, sft, without_times
from tessera.core.errors import UserError
from tessera.core.types import Problem
from tessera.launch import prepare, start
from tessera.recipe import check_recipe
from tessera.training.context import Observer
from tessera.training.curriculum import difficulty, make_sampler
from tessera.training.interrupt import Interrupted
from tessera.training.sampler import Sampler
from tessera.training.settings import CurriculumSettings
from tiny import TINY_LORA, tiny_policy

ROWS = [{**row, "level": n % 4} for n, row in enumerate(TRAIN)]  # 12 rows, three of each level 0 to 3
LEVEL = {f"train-{n}": row["level"] for n, row in enumerate(ROWS)}


def problems(levels: Sequence[Any]) -> list[Problem]:
    return [Problem(f"a/{n}", f"{n}?", None, metadata={"level": level}) for n, level in enumerate(levels)]


def sampler(levels: Sequence[Any], steps: int = 1, **settings: Any) -> Sampler:
    return make_sampler(problems(levels), 0, {}, CurriculumSettings(by="level", **settings), steps)


def by(column: str, **settings: Any) -> dict[str, Any]:
    """The key `rollouts` of a stage."""
    return {"curriculum": {"by": column, **settings}}


LEVELS = st.lists(st.integers(0, 5), min_size=1, max_size=20)


@given(LEVELS)
def test_an_epoch_goes_from_easy_to_hard_or_back(levels: list[int]) -> None:
    for order, reverse in (("easiest_first", False), ("hardest_first", True)):
        drawn = sampler(levels, order=order).take(2 * len(levels))
        for epoch in (drawn[: len(levels)], drawn[len(levels) :]):
            assert sorted(epoch) == list(range(len(levels)))
            assert [levels[i] for i in epoch] == sorted(levels, reverse=reverse)


@given(LEVELS, st.integers(1, 30))
def test_uniform_draws_every_difficulty_as_often(levels: list[int], draws: int) -> None:
    counts = Counter(levels[i] for i in sampler(levels, order="uniform").take(draws))
    share = draws / len(set(levels))
    assert all(abs(counts[level] - share) < 1 for level in set(levels))


def test_bins_are_of_equal_width_and_empty_ones_take_no_turns() -> None:
    # From 0 to 100 in four bins: [0, 25), [25, 50), [50, 75), [75, 100]; none in the third.
    levels = [0, 1, 2, 24.9, 25, 49, 75, 100]
    counts = Counter(levels[i] for i in sampler(levels, order="uniform", bins=4).take(24))
    assert counts == {0: 2, 1: 2, 2: 2, 24.9: 2, 25: 4, 49: 4, 75: 4, 100: 4}  # 8 a bin
    assert sampler([3, 3], order="uniform", bins=4).take(2) in ([0, 1], [1, 0])


def test_the_bound_grows_in_a_line_and_ends_where_it_is_told() -> None:
    # From 1 to 4 in 4 steps: 1, 2, 3, 4, and then 4; level 5 never comes.
    growing = sampler([1, 2, 3, 4, 5], order="growing", end=4, steps=4)
    seen = {step: {[1, 2, 3, 4, 5][i] for i in growing.take(60, step)} for step in range(1, 7)}
    assert seen == {1: {1}, 2: {1, 2}, 3: {1, 2, 3}, 4: {1, 2, 3, 4}, 5: {1, 2, 3, 4}, 6: {1, 2, 3, 4}}


def test_by_default_the_bound_has_reached_everything_at_the_stages_last_step() -> None:
    of_stage = make_sampler(problems([1, 2, 3]), 0, {}, CurriculumSettings(by="level", order="growing"), 5)
    # 1, 1.5, 2, 2.5, 3
    assert [{1 + i for i in of_stage.take(30, step)} for step in range(1, 6)] == [{1}, {1}, {1, 2}, {1, 2}, {1, 2, 3}]
    assert set(sampler([1, 2, 3], order="growing", steps=1).take(30)) == {0, 1, 2}


@given(st.sampled_from(["easiest_first", "hardest_first", "uniform", "growing"]), LEVELS, st.integers(0, 25))
def test_gone_on_with_at_any_point_the_order_is_the_same(order: Any, levels: list[int], before: int) -> None:
    one, other = sampler(levels, 10, order=order), sampler(levels, 10, order=order)
    for step in range(before):
        one.take(2, 1 + step)
    other.take(3, 9)
    other.restore(json.loads(json.dumps(one.state())))
    assert [other.take(2, 1 + s) for s in range(before, 30)] == [one.take(2, 1 + s) for s in range(before, 30)]


def test_a_curriculum_orders_each_part_of_a_mixture() -> None:
    mixed = [Problem(f"{part}/{n}", f"{part}{n}?", None, metadata={"level": -n}) for part in "ab" for n in range(4)]
    drawn = make_sampler(mixed, 0, {"a": 1, "b": 1}, CurriculumSettings(by="level"), 1).take(8)
    assert [mixed[i].id for i in drawn] == ["a/3", "b/3", "a/2", "b/2", "a/1", "b/1", "a/0", "b/0"]


@pytest.mark.parametrize(
    ("level", "message"),
    [
        ("Level 5", "problem 'a/0' has level = 'Level 5'; a curriculum by level needs a number$"),
        (True, "has level = True; a curriculum"),
        (float("nan"), "has level = nan; a curriculum"),
        (None, "has level = None; .* needs a number; curriculum.missing can stand for one that is not there"),
    ],
)
def test_a_difficulty_is_a_number(level: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        sampler([level])


def test_a_problem_without_difficulty_may_be_given_one() -> None:
    settings = CurriculumSettings(by="level", missing=2.5)
    assert [difficulty(p, settings) for p in problems([None, 4])] == [2.5, 4.0]
    with pytest.raises(UserError, match="has the columns 'level'; a curriculum by levle needs a number"):
        difficulty(problems([3])[0], CurriculumSettings(by="levle"))


@pytest.mark.parametrize("bounds", [{"start": 0.5}, {"end": 0.5}, {"start": 3, "end": 2}])
def test_a_window_begins_with_something_and_rises(bounds: dict[str, float]) -> None:
    with pytest.raises(UserError, match="does not fit problems of level 1 to 3: it has to begin with one of them"):
        sampler([1, 2, 3], order="growing", **bounds)


def test_what_does_not_fit_is_said_before_there_is_a_run_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a curriculum by hardness needs a number"):
        run(tmp_path / "run", rl(rollouts=by("hardness")), rows=(ROWS, (), ()))
    assert not (tmp_path / "run").exists()


def order_of(folder: Path) -> list[list[str]]:
    """By step, the problems of its groups, from what the run has kept."""
    steps: dict[int, dict[int, str]] = {}
    for row in completions_of(folder):
        steps.setdefault(row["step"], {})[row["group"]] = row["problem_id"]
    return [list(groups.values()) for groups in steps.values()]


def test_a_run_meets_its_problems_in_order_and_says_how_hard_they_are(tmp_path: Path) -> None:
    stage = rl(steps=4, prompts_per_step=3, rollouts=by("level"))
    run(tmp_path, stage, rows=(ROWS, (), ()))
    assert [[LEVEL[i] for i in step] for step in order_of(tmp_path)] == [[0] * 3, [1] * 3, [2] * 3, [3] * 3]
    told = [[row[f"difficulty/{of}"] for of in ("mean", "min", "max")] for row in rows_of(tmp_path, "rl")]
    assert told == [[n, n, n] for n in (0, 1, 2, 3)]


class StopAfter(Observer):
    """Asks for a stop once `steps` RL rows are written."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def row(self, row: Any) -> None:
        if row["kind"] == "rl":
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt


SUMS = {"name": "arithmetic", "digits": 1, "train_size": 9, "validation_size": 2, "test_size": 4}
PRODUCTS = {"name": "multiplication", "digits": 1, "train_size": 5, "validation_size": 2, "test_size": 3}
MIXTURE = {"name": "mixture", "parts": [{"task": SUMS, "name": "add"}, {"task": PRODUCTS, "weight": 2}]}


def mixed(folder: Path, *stages: dict[str, Any], resume: bool = False, observers: Sequence[Observer] = ()) -> Any:
    recipe = {
        "seed": 1,
        "model": {"name": "tiny", "lora": TINY_LORA.model_dump()},
        "task": MIXTURE,
        "stages": list(stages),
        "evaluation": {"max_new_tokens": 4},
        "run": {"dir": str(folder), "save_every": 1},
    }
    return start(prepare(check_recipe(recipe, "of a test")), policy=tiny_policy(), resume=resume, observers=observers)


def test_a_mixture_is_drawn_by_weight_and_measured_by_part(tmp_path: Path) -> None:
    summary = mixed(tmp_path, sft(steps=1), rl(steps=3, prompts_per_step=3, rollouts=by("a")))
    parts = [Counter(i.partition("/")[0] for i in step) for step in order_of(tmp_path)]
    assert parts == [{"add": 1, "multiplication": 2}] * 3
    for row in rows_of(tmp_path, "rl"):
        assert (row["part/add/groups"], row["part/multiplication/groups"]) == (1, 2)
        whole = (row["part/add/reward"] + 2 * row["part/multiplication/reward"]) / 3
        assert row["reward/mean"] == pytest.approx(whole)
        assert {"part/add/accuracy", "part/multiplication/accuracy"} <= set(row)
    for row in rows_of(tmp_path, "eval"):
        assert (row["part/add/n"], row["part/multiplication/n"], row["accuracy/n"]) == (4, 3, 7)
        solved = 4 * row["part/add/accuracy"] + 3 * row["part/multiplication/accuracy"]
        assert row["accuracy/value"] == pytest.approx(solved / 7)
        assert row["part/add/ci_low"] <= row["part/add/accuracy"] <= row["part/add/ci_high"]
    assert {name: part["n"] for name, part in summary["accuracy"]["final"]["parts"].items()} == {
        "add": 4,
        "multiplication": 3,
    }


def test_a_plain_task_has_no_parts_and_no_difficulty(tmp_path: Path) -> None:
    summary = run(tmp_path, rl(steps=1), rows=(TRAIN, (), TEST))
    assert not [key for row in rows_of(tmp_path) for key in row if key.startswith(("part/", "difficulty/"))]
    assert "parts" not in summary["accuracy"]["final"]


@pytest.mark.parametrize("order", ["uniform", "growing", "hardest_first"])
def test_a_run_that_was_stopped_goes_on_with_the_next_problems(tmp_path: Path, order: str) -> None:
    stages = (rl(steps=4, prompts_per_step=2, rollouts=by("a", order=order)),)
    mixed(tmp_path / "whole", *stages)
    with pytest.raises((KeyboardInterrupt, Interrupted)):
        mixed(tmp_path / "stopped", *stages, observers=[StopAfter(2)])
    mixed(tmp_path / "stopped", *stages, resume=True)
    whole, stopped = (without_times(rows_of(tmp_path / name)) for name in ("whole", "stopped"))
    assert stopped == whole
    assert completions_of(tmp_path / "stopped") == completions_of(tmp_path / "whole")
