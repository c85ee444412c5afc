"""`score_group`: its arguments, its errors, and the shape of its answer."""

import pytest
import torch

import tessera
from tessera import score_group
from tessera.core.errors import UserError

NAN = float("nan")


def arguments(**changes):
    """Three completions of four positions; the last row is empty."""
    base = {
        "rewards": torch.tensor([1.0, 0.0, 0.5]),
        "tokens": torch.tensor([[1, 2, 3, 4], [1, 5, 6, 0], [0, 0, 0, 0]]),
        "logp": torch.tensor([[-1.0, -2.0, -0.5, -0.1], [-1.0, -0.3, -3.0, NAN], [NAN] * 4]),
        "lengths": torch.tensor([4, 3, 0]),
    }
    return {**base, **changes}


def test_it_is_the_packages_one_function():
    assert tessera.score_group is score_group


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": torch.tensor([1, 2])}, r"tokens must have shape \[G,T\], got \(2,\)"),
        ({"tokens": torch.zeros(3, 4)}, r"tokens must be an integer tensor, got torch.float32"),
        ({"lengths": torch.tensor([4.0, 3.0, 0.0])}, r"lengths must be an integer tensor, got torch.float32"),
        ({"lengths": torch.tensor([True, True, False])}, r"lengths must be an integer tensor, got torch.bool"),
        ({"lengths": torch.tensor([4, 3])}, r"lengths must have shape \[G\] = \(3,\), got \(2,\)"),
        ({"lengths": torch.tensor([5, 3, 0])}, r"lengths must lie in 0..4, got \[5, 3, 0\]"),
        ({"lengths": torch.tensor([4, -1, 0])}, r"lengths must lie in 0..4, got \[4, -1, 0\]"),
        ({"logp": torch.zeros(3, 5)}, r"logp must have shape \[G,T\] = \(3, 4\), got \(3, 5\)"),
        ({"logp": torch.zeros(3, 4, dtype=torch.long)}, r"logp must be a float tensor, got torch.int64"),
        (
            {"logp": torch.full((3, 4), NAN)},
            r"logp must be finite where the policy wrote the token, got nan at \(0, 0\)",
        ),
        ({"logp": torch.full((3, 4), -torch.inf)}, r"logp must be finite .* got -inf at \(0, 0\)"),
        ({"rewards": torch.zeros(2)}, r"rewards must have shape \[G\] = \(3,\), got \(2,\)"),
        ({"rewards": torch.tensor([1.0, NAN, 0.0])}, r"rewards must be finite, got nan at \(1,\)"),
        ({"rewards": torch.tensor([1.0, 0.0, torch.inf])}, r"rewards must be finite, got inf at \(2,\)"),
        ({"rewards": [1.0, 0.0, 0.5]}, r"rewards must be a torch tensor, got list"),
        ({"mask": torch.ones(3, 3, dtype=torch.bool)}, r"mask must have shape \[G,T\] = \(3, 4\), got \(3, 3\)"),
        ({"mask": torch.ones(3, 4)}, r"mask must be a bool tensor, got torch.float32"),
        ({"old_logp": torch.zeros(4, 3)}, r"old_logp must have shape \[G,T\] = \(3, 4\), got \(4, 3\)"),
        ({"ref_logp": torch.zeros(3)}, r"ref_logp must have shape \[G,T\] = \(3, 4\), got \(3,\)"),
        ({"old_logp": torch.full((3, 4), torch.inf)}, r"old_logp must be finite .* got inf at \(0, 0\)"),
        ({"ref_logp": torch.full((3, 4), NAN)}, r"ref_logp must be finite .* got nan at \(0, 0\)"),
        ({"eos_logp": torch.zeros(3, 1)}, r"eos_logp must have shape \[G,T\] = \(3, 4\), got \(3, 1\)"),
        ({"name": "gropo"}, r"unknown algorithm 'gropo' \(did you mean 'grpo'\?\)"),
        ({"config": {"betta": 1}}, r"unknown key of algorithm grpo"),
        ({"config": {"name": "s_grpo"}}, r"config names the algorithm 's_grpo', but name is 'grpo'"),
    ],
)
def test_each_bad_argument_is_named(changes, message):
    with pytest.raises(UserError, match=rf"^{message}"):
        score_group(**{"name": "grpo", **arguments(**changes)})


def test_a_group_of_one_is_refused():
    alone = {key: value[:1] for key, value in arguments().items()}
    with pytest.raises(UserError, match="needs group size >= 2, got 1"):
        score_group("grpo", **alone)


def test_config_may_repeat_the_name():
    repeated = score_group("grpo", config={"name": "grpo", "eps": 0.1}, **arguments())
    assert torch.equal(repeated.value, score_group("grpo", config={"eps": 0.1}, **arguments()).value)


def test_config_exchanges_pieces_as_a_recipe_does():
    loss = score_group(
        "grpo", config={"selection": {"name": "stochastic_prefix", "cutoff": 1, "probability": 0}}, **arguments()
    )
    assert loss.selected.int().tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [0] * 4]


def test_the_answer_by_hand():
    # rewards 1, 0, 1/2: mean 1/2, population variance 1/6
    a = 0.5 / (1 / 6) ** 0.5
    loss = score_group("grpo", config={"std": "population", "eps": 0.0}, **arguments())
    assert loss.value.dim() == 0
    assert loss.selected.int().tolist() == [[1, 1, 1, 1], [1, 1, 1, 0], [0, 0, 0, 0]]
    assert loss.advantage.tolist() == [pytest.approx(row, rel=1e-6) for row in [[a] * 4, [-a, -a, -a, 0], [0] * 4]]
    assert loss.per_token.tolist() == [pytest.approx(row, rel=1e-6) for row in [[-a] * 4, [a, a, a, 0], [0] * 4]]
    assert torch.equal(loss.weight, loss.selected.float())
    assert loss.metrics == {
        "tokens/contributing": 7.0,
        "kl": 0.0,
        "clip_fraction/low": 0.0,
        "clip_fraction/high": 0.0,
        "exponent_bounded": 0.0,
        "weight/mean": 1.0,
        "advantage/mean": pytest.approx(a / 7, rel=1e-6),
    }


def test_metrics_by_hand():
    # on row 0 (A > 0) ratio e binds above at 4 of 7 tokens, on row 1 (A < 0) it does not; KL to ref / pi = 1/e: 1/e
    logp = torch.zeros(3, 4)
    loss = score_group("grpo", **arguments(logp=logp, old_logp=logp - 1, ref_logp=logp - 1))
    assert loss.metrics["clip_fraction/high"] == pytest.approx(4 / 7)
    assert loss.metrics["clip_fraction/low"] == 0.0
    assert loss.metrics["kl"] == pytest.approx(0.36787944, rel=1e-6)
    loss = score_group("grpo", **arguments(logp=logp, old_logp=logp + 1))
    assert loss.metrics["clip_fraction/low"] == pytest.approx(3 / 7)


def test_lengths_and_mask_both_have_to_allow_a_token():
    # position 1 of row 0 is tool output; the end of row 1 and all of row 2 are padding, whatever the mask says
    mask = torch.ones(3, 4, dtype=torch.bool)
    mask[0, 1] = False
    loss = score_group("grpo", **arguments(mask=mask))
    assert loss.selected.int().tolist() == [[1, 0, 1, 1], [1, 1, 1, 0], [0] * 4]


def test_a_given_constant_carries_no_gradient():
    logp = torch.full((3, 4), -1.0, requires_grad=True)
    old, ref = (torch.full((3, 4), -1.1, requires_grad=True) for _ in range(2))
    loss = score_group("grpo", config={"beta": 0.1}, **arguments(logp=logp, old_logp=old, ref_logp=ref))
    loss.value.backward()
    assert logp.grad.any()
    assert old.grad is None
    assert ref.grad is None


def test_rewards_beyond_all_floats_of_single_precision_leave_a_finite_loss():
    # +-1e300 count as +-1e38: A(v|root) = 1e38 - 0 on the first row's first own token; in float32 it is held at
    # 3.4e38 / e^60 / 100 = 2.98e10, so that times a ratio of e^60 it is finite
    loss = score_group("t_spmo", **arguments(rewards=torch.tensor([1e300, -1e300, 0.0], dtype=torch.float64)))
    assert loss.advantage[0, 1].item() == pytest.approx(2.98e10, rel=1e-3)
    assert torch.isfinite(loss.value)


def test_half_precision_is_computed_with_in_single():
    logp = arguments()["logp"].bfloat16().requires_grad_()
    exact = logp.detach().float().requires_grad_()
    loss, expected = (score_group("t_spmo", **arguments(logp=x)) for x in (logp, exact))
    assert loss.value.dtype == torch.float32
    assert torch.equal(loss.value, expected.value)
    loss.value.backward()
    expected.value.backward()
    assert torch.equal(logp.grad, exact.grad.bfloat16())


def test_double_precision_stays_double():
    loss = score_group("grpo", **arguments(logp=arguments()["logp"].double(), rewards=torch.tensor([1, 0, 2])))
    assert {x.dtype for x in (loss.value, loss.per_token, loss.advantage, loss.weight)} == {torch.float64}


def test_a_group_without_a_single_token_has_loss_zero():
    empty = {"tokens": torch.zeros(3, 0, dtype=torch.long), "logp": torch.zeros(3, 0), "lengths": torch.zeros(3).long()}
    for name in ("grpo", "s_grpo", "t_spmo"):
        assert score_group(name, **arguments(**empty)).value.item() == 0.0
