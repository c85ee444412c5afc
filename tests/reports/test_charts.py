from __future__ import annotations

import pytest

from tessera.reports.charts import charts, silent_groups, stage_starts, time_split
from tessera.reports.svg import Point


def by_title(rows):
    return {chart.title: chart for chart in charts(rows)}


def test_a_whole_run_has_every_curve_asked_for(made) -> None:
    titles = list(by_title(list(made.all_rows())))
    assert titles[:3] == ["Reward", "Accuracy", "Contributing tokens per example"]
    assert {
        "Completion length",
        "Truncated completions",
        "KL to the reference",
        "Entropy",
        "Gradient norm, before clipping",
        "Groups with equal rewards",
        "Reward components",
        "Supervised loss",
        "Supervised token accuracy",
    } <= set(titles)


def test_a_curve_reads_its_key_of_its_kind_of_row(made) -> None:
    rows = [made.sft(1) | {"loss": 0.5}, made.rl(2) | {"loss": 9.0, "kl": 0.25}]
    found = by_title(rows)
    assert found["Supervised loss"].series[0].points == [Point(1, 0.5)]
    assert found["KL to the reference"].series[0].points == [Point(2, 0.25)]
    assert {chart.last for chart in found.values()} == {2}


def test_accuracy_has_rollouts_and_evaluations_by_split(made) -> None:
    stage = (1, "rl")
    rows = [
        made.evaluation(0, "base", 0.25, stage),
        made.rl(1) | {"accuracy": 0.5},
        made.evaluation(1, "", 0.75, stage, "validation"),
    ]
    series = by_title(rows)["Accuracy"].series
    assert [(one.name, one.marks) for one in series] == [("rollouts", False), ("test", True), ("validation", True)]
    assert series[1].points == [Point(0, 0.25, 0.2, 0.3)]
    assert series[0].points == [Point(1, 0.5)]


def test_null_leaves_a_point_out_and_a_key_nobody_has_leaves_the_chart_out(made) -> None:
    rows = [made.rl(1) | {"kl": 0.5, "entropy": None}, made.rl(2) | {"kl": None, "entropy": None}]
    found = by_title(rows)
    assert found["KL to the reference"].series[0].points == [Point(1, 0.5)]
    assert "Entropy" not in found


def test_a_curve_that_is_always_0_is_shown_only_where_that_says_something(made) -> None:
    found = by_title([made.rl(1) | {"clip_fraction/low": 0.0, "rollouts/failed": 0, "truncation_rate": 0.0}])
    assert "Clipped tokens" not in found and "Failed rewards" not in found
    assert found["Truncated completions"].series[0].points == [Point(1, 0.0)]
    assert "Failed rewards" in by_title([made.rl(1) | {"rollouts/failed": 2}])


def test_lines_break_where_a_stage_ends(made) -> None:
    later = {"stage": "again", "stage_index": 2}
    rows = [made.rl(1), made.rl(2), made.sft(3), made.rl(4) | later]
    [series] = by_title(rows)["Reward"].series
    assert [[p.x for p in segment] for segment in series.segments] == [[1, 2], [4]]


def test_stages_start_half_a_step_before_their_first(made) -> None:
    rows = [made.evaluation(0, "base", 0.5, (0, "warm-up")), made.sft(1), made.sft(2), made.rl(3)]
    assert stage_starts(rows) == ((0.0, "warm-up"), (2.5, "rl"))
    assert stage_starts([made.rl(1), made.rl(2)]) == ()


def test_one_component_is_the_reward_itself_and_is_not_drawn_twice(made) -> None:
    row = made.rl(1)
    assert [one.name for one in by_title([row])["Reward components"].series] == ["correct", "format"]
    del row["reward/format"]
    assert "Reward components" not in by_title([row])


def test_silent_groups_are_a_share(made) -> None:
    assert silent_groups({"groups/total": 4, "groups/zero_spread": 1}) == 0.25
    assert silent_groups({"groups/total": 0, "groups/zero_spread": 0}) is None
    assert silent_groups({}) is None


def test_time_is_split_by_stage_with_what_is_left_over(made) -> None:
    times = {"time/rollout": 3.0, "time/reward": 0.5, "time/scoring": 1.0, "time/backward": 1.0, "time/sync": 0.5}
    rows = [made.rl(1) | times | {"time/step": 7.0}, made.rl(2) | times | {"time/rollout": 5.0, "time/step": 9.0}]
    [(name, parts)] = time_split(rows)
    # rollout (3 + 5) / 2; steps last 8 on average, of which 7 are accounted for
    assert name == "rl"
    assert dict(parts) == pytest.approx(
        {"rollout": 4.0, "reward": 0.5, "scoring": 1.0, "backward": 1.0, "sync": 0.5, "other": 1.0}
    )
    assert time_split([made.sft(1)]) == []
    assert charts([]) == []


def test_what_was_published_stands_beside_accuracy_in_steps_of_its_own(made) -> None:
    told = {"source": "A paper", "accuracy": {"one": {"10": 0.3, "0": 0.1}, "two": {9: 0.2, 30: 0.5}}}
    _, own, beside = charts([made.rl(1) | {"accuracy": 0.5}], told)[:3]
    assert (own.title, own.last) == ("Accuracy", 1)
    assert (beside.title, beside.unit, beside.last) == ("Accuracy as published: A paper", "%", 30)
    assert beside.series[0].segments == ((Point(0, 0.1), Point(10, 0.3)), (Point(9, 0.2), Point(30, 0.5)))
    assert beside.stages == ((0, "one"), (9, "two"))
