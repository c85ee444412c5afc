from __future__ import annotations

from tessera.reports.difference import differences, first


def test_names_keys_by_their_path_and_shows_both_values() -> None:
    before = {"seed": 1, "stages": [{"steps": 40, "lr": 0.1}], "old": None}
    after = {"seed": 1, "stages": [{"steps": 80, "lr": 0.1}, {"steps": 5}], "new": {"a": "x"}}
    assert differences(before, after) == [
        "stages.0.steps: 40 in the run, 80 given",
        "old: None in the run, nothing given",
        "stages.1.steps: nothing in the run, 5 given",
        "new.a: nothing in the run, 'x' given",
    ]


def test_equal_recipes_do_not_differ_whatever_their_order() -> None:
    assert differences({"a": 1, "b": {"c": [1, 2]}}, {"b": {"c": [1, 2]}, "a": 1}) == []


def test_an_empty_list_is_not_an_absent_one() -> None:
    assert differences({"a": []}, {}) == ["a: [] in the run, nothing given"]


def test_nan_equals_itself_and_a_string_is_not_its_number() -> None:
    assert differences({"a": float("nan")}, {"a": float("nan")}) == []
    assert differences({"a": 1}, {"a": "1"}) == ["a: 1 in the run, '1' given"]


def test_three_are_named_and_the_others_counted() -> None:
    assert [first(["a", "b", "c", "d", "e"][:n]) for n in (0, 1, 3, 5)] == ["", "a", "a; b; c", "a; b; c; and 2 more"]
