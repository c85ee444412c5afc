"""Surrogates: value, gradient, and where a clip bound it, by hand."""

from math import exp, inf, log, tanh

import pytest
import torch

from tessera.pieces import make


def leaf(*values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def evaluate(name, logp, scored, **config):
    terms = make("surrogate", name, **config)(scored)
    (gradient,) = torch.autograd.grad(terms.objective_BT.sum(), logp)
    flags = terms.clipped_low_BT[0].tolist(), terms.clipped_high_BT[0].tolist()
    return terms.objective_BT[0].tolist(), gradient.tolist(), *flags


def test_the_clip_binds_on_both_sides_and_only_against_the_credit(one_row):
    # A = 2 and -2 at ratios 3/2, 1/2 and 1.1, bounds 0.8 and 1.2; where it does not bind, d objective/d logp = rho A
    ratios, advantage = [1.5, 0.5, 1.5, 0.5, 1.1], [2.0, 2.0, -2.0, -2.0, 2.0]
    logp = leaf(*(log(r) - 1 for r in ratios))
    value, gradient, low, high = evaluate("clipped_ratio", logp, one_row(logp, old=[-1.0] * 5, advantage=advantage))
    assert value == pytest.approx(
        [2.4, 1.0, -3.0, -1.6, 2.2], abs=1e-14
    )  # min(3, 2.4), min(1, 1.6), min(-3, -2.4), ...
    assert gradient == pytest.approx([0.0, 1.0, -3.0, 0.0, 2.2], abs=1e-14)
    assert high == [True, False, False, False, False]
    assert low == [False, False, False, True, False]


def test_the_two_bounds_are_apart(one_row):
    logp = leaf(log(1.5), log(0.5))
    scored = one_row(logp, old=[0.0, 0.0], advantage=[1.0, -1.0])
    value, *_ = evaluate("clipped_ratio", logp, scored, clip_low=0.1, clip_high=0.3)
    assert value == pytest.approx([1.3, -0.9], abs=1e-15)


@pytest.mark.parametrize(("side", "kept"), [("clip_low", 0), ("clip_high", 1)])
def test_none_is_no_bound_on_that_side(one_row, side, kept):
    # ratio 3 with A = 1 meets the upper bound 1.2, ratio 0.1 with A = -1 the lower bound 0.8
    logp = leaf(log(3), log(0.1))
    scored = one_row(logp, old=[0.0, 0.0], advantage=[1.0, -1.0])
    value, gradient, low, high = evaluate("clipped_ratio", logp, scored, **{side: None})
    bounded, free = [1.2, -0.8], [3.0, -0.1]
    expected = [bounded[i] if i == kept else free[i] for i in range(2)]
    assert value == pytest.approx(expected, abs=1e-14)
    assert gradient == pytest.approx([0.0 if i == kept else free[i] for i in range(2)], abs=1e-14)
    assert (high[0], low[1]) == (kept == 0, kept == 1)


def test_without_bounds_it_is_the_plain_ratio(one_row):
    logp = leaf(log(30), log(1e-9))
    scored = one_row(logp, old=[0.0, 0.0], advantage=[1.0, -1.0])
    value, gradient, low, high = evaluate("clipped_ratio", logp, scored, clip_low=None, clip_high=None)
    assert value == pytest.approx([30.0, -1e-9], rel=1e-14)
    assert gradient == pytest.approx([30.0, -1e-9], rel=1e-14)
    assert not any(low + high)


def test_the_defaults_bound_at_one_fifth(one_row):
    logp = leaf(log(2), log(0.5))
    value, *_ = evaluate("clipped_ratio", logp, one_row(logp, old=[0.0, 0.0], advantage=[1.0, -1.0]))
    assert value == pytest.approx([1.2, -0.8], abs=1e-15)


def test_on_policy_the_ratio_is_one_and_the_gradient_is_whole(one_row):
    # min and clip tie at ratio 1: the halves of the gradient must add up to A
    logp = leaf(-0.3, -2.0)
    value, gradient, low, high = evaluate("clipped_ratio", logp, one_row(logp, advantage=[0.7, -0.4]))
    assert (value, gradient) == ([0.7, -0.4], [0.7, -0.4])
    assert not any(low + high)


def test_the_weight_is_inside_the_clip(one_row):
    # credit w A = 0.5 * 4 = 2 at ratio 3/2: min(3, 1.2 * 2) = 2.4; a weight of -1 turns the side: -1 * 1.5 stays
    logp = leaf(log(1.5), log(1.5))
    scored = one_row(logp, old=[0.0, 0.0], advantage=[4.0, 1.0], weight=[0.5, -1.0])
    value, gradient, _, high = evaluate("clipped_ratio", logp, scored)
    assert value == pytest.approx([2.4, -1.5], abs=1e-14)
    assert gradient == pytest.approx([0.0, -1.5], abs=1e-14)
    assert high == [True, False]


def test_a_ratio_beyond_all_floats_leaves_no_nan(one_row):
    # exp(800) is inf; with A = 0 or a bound in reach the product or its gradient would be NaN
    logp = leaf(-1.0, -1.0, -1.0)
    scored = one_row(logp, old=[-801.0, -801.0, 800.0], advantage=[0.0, 1.0, -1.0])
    value, gradient, *_ = evaluate("clipped_ratio", logp, scored)
    assert value == [0.0, 1.2, -0.8]
    assert gradient == [0.0, 0.0, 0.0]


def test_detached_ratio_has_the_value_of_the_credit_and_its_gradient(one_row):
    # exp(logp - sg[logp]) = 1: value w A, gradient w A, whatever logp and old are
    logp = leaf(-0.3, -5.0)
    scored = one_row(logp, old=[-9.0, 0.0], advantage=[2.0, -3.0], weight=[1.0, 0.5])
    value, gradient, low, high = evaluate("detached_ratio", logp, scored)
    assert value == [2.0, -1.5]
    assert gradient == [2.0, -1.5]
    assert not any(low + high)


def test_probability_is_neither_a_log_nor_a_ratio(one_row):
    # pi w A with pi = 1/4 and 1/2; d pi / d logp = pi
    logp = leaf(log(0.25), log(0.5))
    scored = one_row(logp, old=[-9.0, -9.0], advantage=[2.0, -3.0], weight=[1.0, 2.0])
    value, gradient, low, high = evaluate("probability", logp, scored)
    assert value == pytest.approx([0.5, -3.0], abs=1e-15)
    assert gradient == pytest.approx([0.5, -3.0], abs=1e-15)
    assert not any(low + high)


def test_probability_of_an_impossible_token_is_small_not_nan(one_row):
    logp = leaf(-800.0, -50.0)
    value, *_ = evaluate("probability", logp, one_row(logp, advantage=[1.0, 1.0]))
    assert value == [0.0, exp(-50)]
    assert inf not in value


def test_a_trace_multiplies_earlier_ratios_into_the_tokens_own(one_row):
    # decay 1/2, log-ratios 0.2, -0.4, 0: exponents 0.2, 0.1 - 0.4, 0.05 - 0.2; clipped from 0.8 to 1.2
    logp = leaf(-0.8, -1.4, -1.0)
    scored = one_row(logp, old=[-1.0] * 3)
    value, gradient, low, high = evaluate("trace_ratio", logp, scored, lambda_=0.5)
    assert value == pytest.approx([1.2, exp(-0.3), exp(-0.15)])
    assert high == [True, False, False] and low == [False] * 3
    # d/dlogp_j = Σ_{t≥j} 2^(j-t) rho_t over the tokens that no clip binds
    late = exp(-0.15)
    assert gradient == pytest.approx([exp(-0.3) / 2 + late / 4, exp(-0.3) + late / 2, late])


def test_the_printed_clip_of_the_trace_bounds_failures_from_above(one_row):
    logp = leaf(log(1.5) - 1)
    scored = one_row(logp, old=[-1.0], advantage=[-1.0])
    assert evaluate("trace_ratio", logp, scored)[:2] == (pytest.approx([-1.5]), pytest.approx([-1.5]))
    value, gradient, low, high = evaluate("trace_ratio", logp, scored, clip_form="printed_algorithm")
    assert (value, gradient, low, high) == (pytest.approx([-1.2]), [0.0], [False], [True])


def test_both_traces_reach_back_to_the_first_tokens(one_row):
    # row 2 of tr: max(1/4, 1), max(1/2, 1/2), 1
    logp = leaf(-0.99, -0.98, -0.96)
    value, *_ = evaluate("trace_ratio", logp, one_row(logp, old=[-1.0] * 3), lambda_=0.5, trace="both")
    assert value == pytest.approx([exp(0.01), exp(0.01 + 0.02), exp(0.01 + 0.01 + 0.04)])


def test_an_exponent_out_of_bounds_is_held_and_reported(one_row):
    logp = leaf(-1.0, -1.0)
    terms = make("surrogate", "trace_ratio", clip_high=None)(one_row(logp, old=[-31.0, -1.0]))
    assert terms.bounded_BT.tolist() == [[True, True]]
    assert terms.objective_BT[0].tolist() == pytest.approx([exp(20)] * 2)


def test_a_trace_as_a_weight_sums_squashed_log_probs(one_row):
    def f(x):
        return 1 + 1 / (1 + exp(1 - x))

    logp = leaf(-1.0, -2.0)
    scored = one_row(logp, advantage=[2.0, 2.0])
    value, *_ = evaluate("trace_weight", logp, scored, lambda_=0.5)
    assert value == pytest.approx([2 * f(-1), 2 * (f(-1) / 2 + f(-2))])
    value, *_ = evaluate("trace_weight", logp, scored, lambda_=0.5, soft_clamp="tanh")
    assert value == pytest.approx([2 * (1 + tanh(-2)), (1 + tanh(-2)) + 2 * (1 + tanh(-3))])
    value, *_ = evaluate("trace_weight", logp, scored, lambda_=0.5, weight_form="row_sum")
    assert value == pytest.approx([2.0, 3.0])


def test_a_sequence_has_one_ratio_and_clips_as_a_whole(one_row):
    logp = leaf(-1.3, -0.4)  # log-ratios -0.3 and 0.6: their mean is 0.15
    scored = one_row(logp, old=[-1.0, -1.0])
    value, gradient, _, high = evaluate("sequence_ratio", logp, scored, clip_low=0.2, clip_high=0.2)
    assert value == pytest.approx([exp(0.15)] * 2)
    assert gradient == pytest.approx([exp(0.15)] * 2)  # two tokens' objectives, half of the exponent each
    assert high == [False, False]
    value, gradient, _, high = evaluate("sequence_ratio", logp, scored, clip_low=0.1, clip_high=0.1)
    assert (value, gradient, high) == (pytest.approx([1.1] * 2), [0.0, 0.0], [True, True])


def test_a_bounded_importance_weight_keeps_the_gradient(one_row):
    ratios = [0.5, 1.1, 1.5]
    logp = leaf(*(log(r) - 1 for r in ratios))
    scored = one_row(logp, old=[-1.0] * 3, advantage=[2.0, 2.0, -2.0])
    value, gradient, low, high = evaluate("clipped_importance", logp, scored)
    assert gradient == pytest.approx([1.6, 2.2, -2.4])
    assert value == pytest.approx([g * (log(r) - 1) for g, r in zip(gradient, ratios, strict=True)])
    assert (low, high) == ([True, False, False], [False, False, True])
    assert evaluate("clipped_importance", logp, scored, clip_low=None)[1] == pytest.approx([1.0, 2.2, -2.4])


def test_a_weight_inside_the_clip_can_silence_a_token_at_ratio_one(one_row):
    logp = leaf(-1.0, -1.0)
    scored = one_row(logp, weight=[1.4, 1.2])
    value, gradient, _, high = evaluate("weighted_ratio", logp, scored, clip_high=0.24)
    assert (value, gradient, high) == (pytest.approx([1.24, 1.2]), pytest.approx([0.0, 1.2]), [True, False])
