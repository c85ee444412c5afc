"""What every algorithm must hold. One suite over the registry: a new algorithm needs no new test."""

from dataclasses import replace

import pytest
import torch

from specs import SPECS
from tessera.algorithms import build

NAN = float("nan")
SEEDS = range(3)


def label(spec):
    return "-".join([spec["name"], *(key for key in spec if key != "name")])


@pytest.fixture(params=SPECS, ids=label)
def spec(request):
    return request.param


def without_bound(spec):
    """GRPO-lambda's bound on the value is credit of its own, also where rewards are equal."""
    return {**spec, "value_bound": False} if spec.get("value_bound") else spec


def spans_the_step(algorithm):
    """Whether a piece compares tokens of several groups."""
    return algorithm.weight.name == "covariance_clip" or any(
        piece.config.get("scope") == "step" for piece in algorithm.pieces.values()
    )


def same(a, b):
    """Bit for bit, loss and gradients; NaN never."""
    for x, y in zip(a, b, strict=True):
        assert torch.equal(x, y)


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_what_stands_on_masked_and_padded_positions_changes_nothing(contract, spec):
    for seed in SEEDS:
        case = contract.make_case(seed=seed)
        width = case.batch.tokens_BT.shape[1]
        loss, by_logp, by_theta = contract.score(spec, case)
        assert torch.isfinite(loss.value)
        assert torch.isfinite(by_theta).all()
        for more, fill in ((0, 1e30), (0, -torch.inf), (5, NAN), (1, 0.0)):
            other, other_by_logp, other_by_theta = contract.score(spec, case.padded(more, fill))
            # a function that torch vectorises, such as sigmoid, may round its last elements otherwise
            found = (other.value, other_by_theta, other_by_logp[:, :width])
            for mine, theirs in zip((loss.value, by_theta, by_logp), found, strict=True):
                close(mine, theirs, 1e-14)
            for part in ("per_token", "advantage", "weight"):
                close(getattr(loss, part), getattr(other, part)[:, :width], 1e-14)
            same([loss.selected], [other.selected[:, :width]])
            assert not other.per_token[:, width:].any()
            assert loss.metrics == pytest.approx(other.metrics, rel=1e-14)


def test_nothing_is_said_about_tokens_the_policy_did_not_write(contract, spec):
    for seed in SEEDS:
        case = contract.make_case(seed=seed)
        loss, by_logp, _ = contract.score(spec, case)
        outside = ~case.batch.mask_BT
        assert not loss.selected[outside].any()
        assert not loss.advantage[outside].any()
        assert not by_logp[outside].any()


def test_unselected_tokens_have_no_loss_no_weight_and_no_gradient(contract, spec):
    for seed in SEEDS:
        loss, by_logp, _ = contract.score(spec, contract.make_case(seed=seed))
        for x in (loss.per_token, loss.weight, by_logp):
            assert not x[~loss.selected].any()


def test_inactive_tokens_have_no_gradient(contract, spec):
    # what a plan does not call active is never scored: that must lose nothing
    case = contract.make_case((4, 3), rewards=[1, 0, 1, 1, 2, 2, 2])
    whole = contract.plan(spec, case)
    _, gradient = contract.learn(spec, case, whole, [list(range(7))])
    assert not gradient[~whole.active_BT].any()
    assert gradient[whole.active_BT].any()
    assert not (whole.active_BT & ~whole.selected_BT).any()


def test_the_order_of_completions_is_immaterial(contract, spec):
    seen = [contract.score(spec, contract.make_case((6,)), seed=seed)[0] for seed in SEEDS]
    for kind, instead in (("selected", {"selection": "all"}), ("weight", {"weight": "uniform"})):
        if any(not torch.equal(getattr(seen[0], kind), getattr(other, kind)) for other in seen):
            spec = {**spec, **instead}  # draws belong to rows: moved rows draw anew
    for seed in SEEDS:
        case = contract.make_case((6,), seed=seed)
        loss, _, by_theta = contract.score(spec, case)
        shuffled = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
        other, _, other_by_theta = contract.score(spec, case.rows(shuffled))
        close(loss.value, other.value)
        close(by_theta, other_by_theta)
        close(loss.advantage[shuffled], other.advantage)


def test_equal_rewards_teach_nothing(contract, spec):
    spec = without_bound(spec)
    if build(spec).regulariser.name == "weighted_kl":  # which at the reference vanishes where weights are 1 alone
        spec = {**spec, "regulariser": "scaled_kl"}
    for reward in (0.0, 0.1, -1e30):
        case = contract.make_case((6,), rewards=[reward] * 6).on_policy()
        loss, by_logp, _ = contract.score(spec, case)
        assert not loss.advantage.any()
        assert loss.value.item() == 0.0
        assert not by_logp.any()


def test_without_a_penalty_equal_rewards_teach_nothing_off_policy_either(contract, spec):
    case = contract.make_case((6,), rewards=[0.3] * 6)
    loss, by_logp, _ = contract.score({**without_bound(spec), "regulariser": "none"}, case)
    assert loss.value.item() == 0.0
    assert not by_logp.any()


def test_better_than_the_group_is_reinforced(contract, spec):
    # two completions that differ from their first token on, one better: its tokens become likelier, the other's not
    spec = {**spec, "selection": "all"} if "selection" in spec else spec  # which might leave the first tokens out
    case = contract.make_case((2,), width=6, tool=0.0, rewards=[1, 0], seed=3).on_policy()
    case.batch.tokens_BT[:] = torch.tensor([[7], [8]])
    assert (case.batch.lengths_B > 0).all()
    _, by_logp, _ = contract.score(spec, case)
    assert by_logp[0, 0] < 0 < by_logp[1, 0]
    assert (by_logp[0] <= 0).all()
    assert (by_logp[1] >= 0).all()


def test_the_gradient_equals_finite_differences(contract, spec, monkeypatch):
    case = contract.make_case((4,), width=5, seed=1)
    algorithm, whole = build(spec), contract.plan(spec, case)
    rows = [list(range(4))]
    stopped = contract.Stopped(monkeypatch)
    with stopped.recording():
        _, gradient = contract.learn(spec, case, whole, rows)
    assert gradient.any(), algorithm
    h = 1e-6
    for i, t in case.batch.mask_BT.nonzero().tolist():
        sides = []
        for sign in (1, -1):
            # a theta of its own for every token: the gradient is by token
            index_BT = torch.arange(case.index_BT.numel()).reshape(case.index_BT.shape)
            theta = case.theta[case.index_BT].flatten().clone()
            theta[index_BT[i, t]] += sign * h
            moved = replace(case, index_BT=index_BT, theta=theta)
            with stopped.replaying():
                sides.append(contract.learn(spec, moved, whole, rows)[0])
        assert (sides[0] - sides[1]) / (2 * h) == pytest.approx(gradient[i, t].item(), rel=1e-6, abs=1e-8)


def test_a_seed_is_a_result(contract, spec):
    case = contract.make_case(width=20)
    first, again = (contract.score(spec, case, seed=7) for _ in range(2))
    same((first[0].value, first[0].selected, *first[1:]), (again[0].value, again[0].selected, *again[1:]))
    torch.rand(3)  # the global generator has no say
    same([first[0].selected], [contract.score(spec, case, seed=7)[0].selected])


def test_half_precision_log_probs_give_finite_results(contract, spec):
    # and the same ones as the rounded numbers give in single precision
    for seed in SEEDS:
        case = contract.make_case(seed=seed)
        rounded = replace(case, theta=case.theta.bfloat16().double())
        half, by_logp, _ = contract.score(spec, case, dtype=torch.bfloat16)
        single, expected, _ = contract.score(spec, rounded, dtype=torch.float32)
        assert torch.isfinite(half.value)
        assert half.value == single.value
        assert by_logp.dtype == torch.bfloat16
        assert torch.equal(by_logp, expected.bfloat16())


CUTS = {
    "two": [[0, 1, 2, 3], [4, 5, 6, 7, 8]],
    "through a group": [[0, 5, 8], [7, 1], [2, 3, 4, 6]],
    "one by one": [[i] for i in range(9)],
    "one by one, backwards": [[i] for i in reversed(range(9))],
}


@pytest.mark.parametrize("parts", CUTS.values(), ids=CUTS.keys())
def test_any_cut_into_micro_batches_gives_the_same_loss_and_gradient(contract, spec, parts):
    case = contract.make_case((4, 3, 2), seed=5)
    whole = contract.plan(spec, case)
    value, gradient = contract.learn(spec, case, whole, [list(range(9))])
    other_value, other_gradient = contract.learn(spec, case, whole, parts)
    assert other_value == pytest.approx(value, rel=1e-12, abs=1e-12)
    close(other_gradient, gradient)
    assert gradient.any()


def test_one_group_planned_is_one_group_scored(contract, spec):
    # the trainer's two halves and score_group are one computation
    case = contract.make_case(width=20, seed=2)
    loss, by_logp, _ = contract.score(spec, case)
    value, gradient = contract.learn(spec, case, contract.plan(spec, case), [list(range(5))])
    assert value == pytest.approx(loss.value.item(), rel=1e-12, abs=1e-12)
    close(gradient, by_logp)


def test_several_groups_are_averaged_as_the_aggregation_says(contract, spec):
    case = contract.make_case((4, 3, 2), seed=5, width=12)
    members = [case.batch.group_B.eq(g).nonzero()[:, 0] for g in range(3)]
    algorithm = build(spec)
    together = contract.plan(spec, case)
    value, gradient = contract.learn(spec, case, together, [list(range(9))])
    if spans_the_step(algorithm):
        spec = {**spec, "weight": "uniform", "selection": "all"}
        algorithm, together = build(spec), contract.plan(spec, case)
        value, gradient = contract.learn(spec, case, together, [list(range(9))])
    plans = []
    for rows in members:  # each group alone, with what was drawn for it in the step
        batch, plan = case.rows(rows).batch, together.rows(rows.tolist())
        plans.append(
            replace(
                plan, advantage_BT=algorithm.advantage(batch), share_BT=algorithm.aggregation(batch, plan.selected_BT)
            )
        )
    alone = [contract.learn(spec, case.rows(r), p, [list(range(len(r)))]) for r, p in zip(members, plans, strict=True)]
    counts = [int(p.selected_BT.sum()) for p in plans]
    by_tokens = algorithm.aggregation.name == "batch_token_mean"
    weights = [n / sum(counts) if by_tokens else 1 / 3 for n in counts]
    assert value == pytest.approx(sum(w * v for w, (v, _) in zip(weights, alone, strict=True)), abs=1e-12)
    for w, (_, expected), rows in zip(weights, alone, members, strict=True):
        close(gradient[rows], w * expected)


def test_an_undecided_group_dilutes_but_does_not_disturb(contract, spec):
    # two groups, the second with equal rewards: the first keeps its advantages
    spec = without_bound(spec)
    case = contract.make_case((4, 3), rewards=[1, 0, 0, 1, 5, 5, 5])
    together = contract.plan(spec, case)
    alone = contract.plan(spec, case.rows(torch.arange(4)))
    same([together.advantage_BT[:4]], [alone.advantage_BT])
    assert not together.advantage_BT[4:].any()


def test_weights_over_the_step_see_every_group(contract):
    # the contract's cuts say nothing of a method whose statistics stop at the group
    for spec in (
        {"name": "cw_grpo", "scope": "step"},
        {"name": "clip_cov", "cov_low": 0.0, "cov_high": 9.0, "ratio": 0.5},
    ):
        case = contract.make_case((4, 3), seed=5, tool=0.0)
        whole = contract.plan(spec, case)
        _, gradient = contract.learn(spec, case, whole, [list(range(7))])
        batch = replace(case.batch, rewards_B=case.batch.rewards_B.clone())
        batch.rewards_B[4:] = torch.tensor([3.0, -7.0, 0.0])  # the second group earns something else
        other = replace(case, batch=batch)
        _, moved = contract.learn(spec, other, contract.plan(spec, other), [list(range(7))])
        assert not torch.equal(gradient[:4], moved[:4]), spec
