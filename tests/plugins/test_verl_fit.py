"""Which compositions fit verl's interface. verl itself is not needed to know."""

from __future__ import annotations

from typing import Any

import pytest

from tessera.algorithms import build, registered
from tessera.core.errors import UserError
from tessera.plugins.verl_fit import check_fits, default_spec

FITS = {"bnpo", "cispo", "dapo", "dr_grpo", "grpo", "grpo_lambda", "gspo", "rloo", "s_grpo", "tr_grpo"}


def fits(spec: Any) -> bool:
    try:
        check_fits(build(spec))
    except UserError:
        return False
    return True


def test_ten_of_the_methods_fit() -> None:
    assert {name for name in registered() if fits(default_spec(name))} == FITS


def test_what_is_registered_has_no_penalty_and_a_mean_that_verl_has() -> None:
    assert default_spec("dapo") == {"name": "dapo", "beta": 0.0}
    assert default_spec("bnpo") == {"name": "bnpo", "beta": 0.0}
    assert default_spec("clip_cov") == {"name": "clip_cov"}
    assert default_spec("tr_grpo") == {"name": "tr_grpo", "beta": 0.0, "aggregation": "batch_token_mean"}


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"name": "t_spmo"}, "it needs the tokens of the completions, and an advantage estimator gets none"),
        ({"name": "cw_grpo"}, "weight covariance_kernel compares tokens of the whole step"),
        ({"name": "clip_cov"}, "weight covariance_clip compares tokens of the whole step"),
        ({"name": "grpo_lambda", "value_bound": True, "beta": 0}, "it needs log-probs of ending"),
        ({"name": "dapo", "selection": "complete"}, "it needs which completions were cut"),
        ({"name": "dapo", "selection": "high_entropy"}, "it needs entropies"),
        ({"name": "s_grpo"}, "regulariser kl needs a reference, and a policy loss gets none: set beta to 0"),
        ({"name": "grpo", "regulariser": "l2"}, "regulariser l2 is over parameters"),
        ({"name": "grpo", "importance_correction": "truncated"}, "use verl's rollout_correction"),
        ({"name": "tr_grpo", "beta": 0, "aggregation": "batch_token_mean", "variant": "random"}, "a random weight"),
        ({"name": "tr_grpo", "beta": 0}, "aggregation token_mean is not one of verl's; there are sequence_mean, batch"),
        (
            {"name": "dapo", "selection": "random_fraction"},
            "batch_token_mean divides by the tokens of selection random",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(spec: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=f"{spec['name']} does not fit verl's interface: .*{reason}"):
        check_fits(build(spec))
