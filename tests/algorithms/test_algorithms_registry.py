"""From a recipe's `algorithm:` to a composition."""

import pytest

from tessera.algorithms import build, registered
from tessera.algorithms.registry import Config, register
from tessera.core.errors import UserError


def test_the_three_are_registered_in_order():
    names = list(registered())
    assert {"grpo", "s_grpo", "t_spmo"} <= set(names)
    assert names == sorted(names)


def test_the_registry_cannot_be_changed_from_outside():
    registered().clear()
    assert registered()


def test_registering_returns_the_function_unchanged(monkeypatch):
    monkeypatch.setattr("tessera.algorithms.registry._ALGORITHMS", dict(registered()))

    def compose(config):
        return build("grpo")

    assert register("another", Config)(compose) is compose
    assert build("another") == build("grpo")


@pytest.mark.parametrize("name", ["grpo", "s_grpo", "t_spmo"])
def test_a_name_alone_is_a_mapping_with_that_name(name):
    assert build(name) == build({"name": name})
    assert build(name).name == name


def test_the_mapping_is_left_as_it_was():
    spec = {"name": "grpo", "weight": "uniform", "eps": 0.1}
    build(spec)
    assert spec == {"name": "grpo", "weight": "uniform", "eps": 0.1}


def test_pieces_are_exchanged_by_name_and_by_mapping():
    base = build("grpo")
    by_name = build({"name": "grpo", "surrogate": "probability"})
    by_mapping = build({"name": "grpo", "surrogate": {"name": "probability"}})
    assert by_name == by_mapping != base
    assert by_name.surrogate.name == "probability"
    assert by_name.aggregation == base.aggregation


def test_an_exchanged_piece_takes_its_own_keys():
    built = build(
        {
            "name": "s_grpo",
            "advantage": "prefix_value",
            "selection": {"name": "unique_pairs", "pairs": "all"},
            "beta": 0.0,
        }
    )
    assert built.selection.config == {"pairs": "all"}
    assert built.regulariser.name == "none"
    assert built.surrogate.name == "detached_ratio"


def test_all_six_kinds_can_be_exchanged():
    swaps = {
        "advantage": "prefix_value",
        "selection": "unique_pairs",
        "weight": "uniform",
        "surrogate": "probability",
        "regulariser": {"name": "l2", "strength": 0.5},
        "aggregation": {"name": "token_mean"},
    }
    built = build({"name": "grpo", **swaps})
    assert [p.name for p in built.pieces.values()] == [
        "prefix_value",
        "unique_pairs",
        "uniform",
        "probability",
        "l2",
        "token_mean",
    ]
    t_spmo = build({"name": "t_spmo", "l2": 0.5}).pieces
    assert built.pieces == t_spmo


def test_aggregation_as_text_is_grpos_key_and_as_a_mapping_a_piece():
    # the key knows four names; with fixed_length it wants max_tokens beside it, the piece wants it inside
    assert build({"name": "grpo", "aggregation": "token_mean"}).aggregation.name == "token_mean"
    as_key = build({"name": "grpo", "aggregation": "fixed_length", "max_tokens": 300})
    as_piece = build({"name": "grpo", "aggregation": {"name": "fixed_length", "max_tokens": 300}})
    assert as_key == as_piece
    assert as_key.aggregation.config == {"max_tokens": 300}
    # s_grpo has no such key: text names a piece
    assert build({"name": "s_grpo", "aggregation": "token_mean"}).aggregation.name == "token_mean"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gropo", "unknown algorithm 'gropo' (did you mean 'grpo'?)"),
        ({"name": "grpo", "clip_hi": 1}, "unknown key of algorithm grpo 'clip_hi' (did you mean 'clip_high'?)"),
        ({"name": "s_grpo", "cutof": 1}, "unknown key of algorithm s_grpo 'cutof' (did you mean 'cutoff'?)"),
        (
            {"name": "s_grpo", "selecton": "all"},
            "unknown key of algorithm s_grpo 'selecton' (did you mean 'selection'?)",
        ),
        ({"name": "grpo", "weight": "unifrm"}, "unknown weight 'unifrm' (did you mean 'uniform'?)"),
        (
            {"name": "grpo", "surrogate": {"name": "clipped_ratio", "clip_hi": 1}},
            "unknown key of surrogate clipped_ratio 'clip_hi' (did you mean 'clip_high'?)",
        ),
        (
            {"name": "grpo", "aggregation": "token_men"},
            "algorithm grpo: aggregation = 'token_men': Input should be 'sequence_mean', 'token_mean',"
            " 'batch_token_mean' or 'fixed_length'",
        ),
        (
            {"name": "s_grpo", "probability": -1},
            "algorithm s_grpo: probability = -1: Input should be greater than or equal to 0",
        ),
        ({"name": "s_grpo", "beta": float("nan")}, "algorithm s_grpo: beta = nan: Input should be a finite number"),
        (
            {"name": "grpo", "aggregation": "fixed_length"},
            "algorithm grpo: max_tokens goes with aggregation = fixed_length, and fixed_length needs it",
        ),
        (
            {"name": "grpo", "max_tokens": 9},
            "algorithm grpo: max_tokens goes with aggregation = fixed_length, and fixed_length needs it",
        ),
        (
            {"name": "grpo", "aggregation": {"name": "fixed_length"}},
            "aggregation fixed_length needs the key 'max_tokens'",
        ),
        ({"name": "grpo", "weight": 3}, "weight must be a name or a mapping with the key 'name', got 3"),
        ({"name": "grpo", "weight": {"w": 3}}, "weight must be a name or a mapping with the key 'name', got {'w': 3}"),
        ({"eps": 1}, "algorithm must be a name or a mapping with the key 'name', got {'eps': 1}"),
        (["grpo"], "algorithm must be a name or a mapping with the key 'name', got ['grpo']"),
    ],
)
def test_each_mistake_is_one_line_that_names_it(spec, message):
    with pytest.raises(UserError) as error:
        build(spec)
    assert str(error.value) == message


def test_a_key_that_is_no_text_is_named_too():
    with pytest.raises(
        UserError,
        match=r"^unknown key of algorithm t_spmo '3' \(known: advantage, aggregation, importance_correction",
    ):
        build({"name": "t_spmo", 3: 4})
