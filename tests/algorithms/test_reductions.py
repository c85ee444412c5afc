"""A method with its knob neutral is its parent, bit for bit."""

import pytest
import torch

from tessera import score_group

NAN = float("nan")


def group(shape=(5, 9), *, dyadic=False, shared=True, ragged=True, seed=0):
    rng = torch.Generator().manual_seed(seed)
    G, T = shape
    logp = -3 * torch.rand(G, T, generator=rng, dtype=torch.float64)
    tokens = torch.randint(0, 2, (G, T), generator=rng) if shared else torch.arange(G * T).reshape(G, T)
    rewards = torch.arange(G) % 2 if dyadic else torch.randn(G, generator=rng, dtype=torch.float64)
    lengths = torch.randint(0, T + 1, (G,), generator=rng) if ragged else torch.full((G,), T)
    mask = torch.rand(G, T, generator=rng) < 0.8 if ragged else torch.ones(G, T, dtype=torch.bool)
    return {"rewards": rewards, "tokens": tokens, "logp": logp, "lengths": lengths, "mask": mask}


def evaluate(name, config, given, **also):
    logp = given["logp"].clone().requires_grad_()
    loss = score_group(name, config=config, **{**given, "logp": logp}, **also)
    (gradient,) = torch.autograd.grad(loss.value, logp)
    return loss.value.detach(), gradient


def same(a, b):
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[1], b[1])
    assert a[1].any()  # two empty gradients would be equal as well


@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("std", ["sample", "population"])
def test_s_grpo_that_selects_everything_is_grpo_without_clip(beta, std):
    given = group()
    ref_logp = given["logp"] + 0.3
    shared = {"beta": beta, "std": std}
    parent = evaluate("grpo", {**shared, "clip_low": None, "clip_high": None}, given, ref_logp=ref_logp)
    for rule in ({"cutoff": 9}, {"cutoff": 50}, {"cutoff": 0, "max_selected": 9, "probability": 1.0}):
        same(evaluate("s_grpo", {**shared, **rule}, given, ref_logp=ref_logp), parent)


def test_with_one_update_a_rollout_grpos_clip_never_binds():
    given = group()
    same(evaluate("grpo", {}, given), evaluate("grpo", {"clip_low": None, "clip_high": None}, given))
    same(evaluate("grpo", {}, given), evaluate("s_grpo", {"beta": 0.0, "cutoff": 9}, given))


def test_bounds_out_of_reach_are_no_bounds():
    given = group()
    old_logp = given["logp"] + torch.linspace(-1, 1, 9, dtype=torch.float64)
    far = evaluate("grpo", {"clip_low": 5.0, "clip_high": 5.0}, given, old_logp=old_logp)
    same(far, evaluate("grpo", {"clip_low": None, "clip_high": None}, given, old_logp=old_logp))


def test_a_penalty_of_strength_zero_is_none():
    given = group()
    ref_logp = given["logp"] + 0.3
    zero = {"regulariser": {"name": "kl", "beta": 0.0}}
    same(evaluate("grpo", zero, given, ref_logp=ref_logp), evaluate("grpo", {}, given))


def test_completions_of_one_length_make_sequences_and_tokens_agree():
    given = group(ragged=False)
    parent = evaluate("grpo", {}, given)
    same(evaluate("grpo", {"aggregation": "token_mean"}, given), parent)
    same(evaluate("grpo", {"aggregation": "fixed_length", "max_tokens": 9}, given), parent)


def test_one_group_is_the_whole_step():
    given = group()
    means = [evaluate("grpo", {"aggregation": name}, given) for name in ("token_mean", "batch_token_mean")]
    same(*means)
    halves = group((4, 9), dyadic=True)  # the group's mean and the step's mean are both 1/2 without rounding
    step_scale = {"advantage": {"name": "group_normalized", "scale": "step"}}
    same(evaluate("grpo", step_scale, halves), evaluate("grpo", {}, halves))


def test_the_piece_an_algorithm_has_may_be_named_again():
    given = group()
    same(
        evaluate("s_grpo", {"weight": "uniform", "surrogate": {"name": "detached_ratio"}}, given),
        evaluate("s_grpo", {}, given),
    )


def test_t_spmo_on_first_tokens_that_all_differ_is_a_centred_reward():
    # A(v|root) = R_i - mean R; rewards of 0 and 1 over four completions make the float mean exact
    given = group((4, 1), dyadic=True, shared=False, ragged=False)
    centred = {
        "advantage": {"name": "group_normalized", "scale": "none"},
        "surrogate": "probability",
        "aggregation": "token_mean",
    }
    parent = evaluate("grpo", centred, given)
    same(evaluate("t_spmo", {"pairs": "all"}, given), parent)
    same(evaluate("t_spmo", {"pairs": "informative"}, given), parent)


def test_t_spmo_without_a_shared_prefix_credits_first_tokens_only():
    # of 4 x 8 pairs the 4 first ones are informative: `all` divides by 32 where `informative` divides by 4
    given = group((4, 8), dyadic=True, shared=False, ragged=False)
    value, gradient = evaluate("t_spmo", {"pairs": "informative"}, given)
    first = {key: x[:, :1] if x.dim() == 2 else x.clamp(max=1) for key, x in given.items()}
    value_first, gradient_first = evaluate("t_spmo", {}, first)
    assert torch.equal(value, value_first)
    assert torch.equal(gradient[:, :1], gradient_first)
    assert not gradient[:, 1:].any()
    value_all, gradient_all = evaluate("t_spmo", {"pairs": "all"}, given)
    assert torch.equal(value_all * 8, value)
    assert torch.equal(gradient_all * 8, gradient)


def test_t_spmo_counts_a_repeated_group_once():
    # every completion twice: the same means, the same pairs, the same loss
    given = group((4, 6), dyadic=True)
    twice = {key: torch.cat([x, x]) for key, x in given.items()}
    value, gradient = evaluate("t_spmo", {}, given)
    value_twice, gradient_twice = evaluate("t_spmo", {}, twice)
    assert torch.equal(value, value_twice)
    assert torch.equal(gradient_twice[:4], gradient)
    assert not gradient_twice[4:].any()


def test_the_penalty_over_parameters_is_not_in_score_group():
    given = group()
    same(evaluate("t_spmo", {"l2": 10.0}, given), evaluate("t_spmo", {"l2": 0.0}, given))
