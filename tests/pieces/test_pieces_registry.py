"""Pieces by name, with checked configuration."""

import dataclasses

import pytest
from pydantic import Field, model_validator

from tessera.core.errors import UserError
from tessera.pieces import KINDS, STRICT, make, names
from tessera.pieces.registry import BaseModel, validate


def test_every_kind_has_the_pieces_of_the_three_papers():
    known = {
        "advantage": {"group_normalized", "prefix_value"},
        "selection": {"all", "stochastic_prefix", "unique_pairs"},
        "weight": {"uniform"},
        "surrogate": {"clipped_ratio", "detached_ratio", "probability"},
        "regulariser": {"none", "kl", "l2"},
        "aggregation": {"sequence_mean", "token_mean", "batch_token_mean", "fixed_length"},
    }
    assert tuple(known) == KINDS
    for kind, expected in known.items():
        assert expected <= set(names(kind))
        assert names(kind) == sorted(names(kind))


def test_make_fills_in_defaults():
    piece = make("surrogate", "clipped_ratio", clip_high=0.28)
    assert piece.config == {"clip_low": 0.2, "clip_high": 0.28}
    assert str(piece) == "clipped_ratio(clip_low=0.2, clip_high=0.28)"
    assert (piece.kind, piece.name) == ("surrogate", "clipped_ratio")


def test_a_piece_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make("weight", "uniform").name = "other"


@pytest.mark.parametrize(
    ("kind", "name", "config", "message"),
    [
        ("weight", "unifrom", {}, "unknown weight 'unifrom' (did you mean 'uniform'?)"),
        (
            "surrogate",
            "clipped_ratio",
            {"clip_hgh": 1},
            "unknown key of surrogate clipped_ratio 'clip_hgh' (did you mean 'clip_high'?)",
        ),
        ("weight", "uniform", {"kind": 1}, "unknown key of weight uniform 'kind'"),
        ("aggregation", "fixed_length", {}, "aggregation fixed_length needs the key 'max_tokens'"),
        (
            "selection",
            "stochastic_prefix",
            {"probability": 1.5},
            "selection stochastic_prefix: probability = 1.5: Input should be less than or equal to 1",
        ),
        (
            "surrogate",
            "clipped_ratio",
            {"clip_low": -0.1},
            "surrogate clipped_ratio: clip_low = -0.1: Input should be greater than or equal to 0",
        ),
        (
            "regulariser",
            "kl",
            {"beta": float("inf")},
            "regulariser kl: beta = inf: Input should be a finite number",
        ),
        (
            "regulariser",
            "kl",
            {"estimator": "k4"},
            "regulariser kl: estimator = 'k4': Input should be 'k1', 'k2' or 'k3'",
        ),
        (
            "advantage",
            "group_normalized",
            {"scale": "grp"},
            "advantage group_normalized: scale = 'grp': Input should be 'group', 'step' or 'none'",
        ),
    ],
)
def test_each_mistake_is_one_line_that_names_it(kind, name, config, message):
    with pytest.raises(UserError) as error:
        make(kind, name, **config)
    assert str(error.value) == message


class Pair(BaseModel):
    """Two numbers that must differ."""

    model_config = STRICT
    a: int = Field(ge=0)
    b: int = 1

    @model_validator(mode="after")
    def _differ(self):
        if self.a == self.b:
            raise ValueError("a and b must differ")
        return self


def test_a_rule_over_several_keys_reads_as_its_author_wrote_it():
    assert validate(Pair, {"a": 3}, "pair").a == 3
    with pytest.raises(UserError, match=r"^pair: a and b must differ$"):
        validate(Pair, {"a": 1}, "pair")
