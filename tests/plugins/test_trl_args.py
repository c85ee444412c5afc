"""What an algorithm makes of GRPOConfig, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import pytest

from tessera.algorithms import build, registered
from tessera.core.errors import UserError
from tessera.plugins.trl_args import OBJECTIVE, check_spec, settled


@dataclass
class Arguments:
    """The arguments of GRPOConfig that are looked at, with its defaults."""

    loss_type: str = "dapo"
    epsilon: float = 0.2
    beta: float = 0.0
    vllm_importance_sampling_correction: bool = True
    steps_per_generation: int = 4
    gradient_accumulation_steps: int = 4
    num_iterations: int = 1


@pytest.mark.parametrize(
    ("spec", "beta"),
    [
        ("dapo", 0.0),
        ("s_grpo", 0.01),
        ("tr_grpo", 0.001),
        ({"name": "grpo", "beta": 0.3}, 0.3),
        ({"name": "grpo", "regulariser": {"name": "kl", "beta": 0.0}}, 1.0),  # a reference, whose penalty is nothing
    ],
)
def test_a_penalty_makes_trl_keep_a_reference(spec: Any, beta: float) -> None:
    given = Arguments()
    assert settled(build(spec), given).beta == beta
    assert given.beta == 0.0  # the user's own are left as they were


def test_a_penalty_of_the_same_strength_may_be_named_twice() -> None:
    assert settled(build("s_grpo"), Arguments(beta=0.01)).beta == 0.01
    with pytest.raises(UserError, match=r"beta = 0\.02 is not s_grpo's, which is 0\.01: give beta in `algorithm`"):
        settled(build("s_grpo"), Arguments(beta=0.02))
    with pytest.raises(UserError, match=r"beta = 0\.02 is not dapo's, which is 0\.0"):
        settled(build("dapo"), Arguments(beta=0.02))


def test_trls_own_correction_for_the_sampler_is_off() -> None:
    assert settled(build("grpo"), Arguments()).vllm_importance_sampling_correction is False


@pytest.mark.parametrize("name", ["s_grpo", "t_spmo"])
def test_an_objective_without_a_ratio_is_used_in_one_update_of_a_rollout(name: str) -> None:
    settled(build(name), Arguments(steps_per_generation=2))  # two generations a step
    settled(build(name), Arguments(steps_per_generation=2, num_iterations=2))  # twice within one step
    for asks in ({"num_iterations": 2}, {"steps_per_generation": 8}):
        with pytest.raises(UserError, match=f"{name}'s surrogate .* has no ratio: one update a rollout.* 4 and 8"):
            settled(build(name), Arguments(**asks))
        settled(build("grpo"), Arguments(**asks))


def test_arguments_of_trls_objective_are_refused_with_what_says_the_same() -> None:
    with pytest.raises(UserError, match=r"epsilon = 0\.3 is of TRL's objective, not of gspo's: give clip_low and clip"):
        settled(build("gspo"), Arguments(epsilon=0.3))


def test_stage_keys_are_refused() -> None:
    check_spec("grpo")
    check_spec({"name": "t_spmo", "l2": 0.0})
    with pytest.raises(UserError, match="replay is not part of an algorithm and does not carry over"):
        check_spec({"name": "t_spmo", "replay": {}})


def test_trl_has_all_the_arguments_that_are_refused() -> None:
    trl = pytest.importorskip("trl", minversion="1.16")
    known = {f.name: f.default for f in fields(trl.GRPOConfig)}
    assert set(OBJECTIVE) <= known.keys()
    assert {f.name: known[f.name] for f in fields(Arguments) if f.name in OBJECTIVE} == {
        "loss_type": "dapo",
        "epsilon": 0.2,
    }
    assert all("replay" not in entry.config.model_fields for entry in registered().values())
