"""A composition: what it plans, what it learns from, and what it refuses."""

import pytest
import torch

from tessera.algorithms import build
from tessera.core.batch import Scored, make_batch
from tessera.core.errors import UserError
from tessera.core.seeding import generator
from tessera.pieces import make


@pytest.fixture
def batch():
    """Group 0 is decided (rewards 1 and 0), group 1 is not (both 1); the third row has tool output in the middle."""
    rows = [[1, 2], [3], [4, 5, 6], [7]]
    sampled = [[True, True], [True], [True, False, True], [True]]
    return make_batch(rows, sampled, [1.0, 0.0, 1.0, 1.0], [0, 0, 1, 1])


def scored(plan, logp_BT, **changes):
    fixed_BT = logp_BT.detach()
    parts = {
        "logp_BT": logp_BT,
        "old_BT": fixed_BT,
        "ref_BT": fixed_BT,
        "advantage_BT": plan.advantage_BT,
        "selected_BT": plan.selected_BT,
        "weight_BT": torch.ones_like(fixed_BT),
        "draw_BT": plan.draw_BT,
        "group_B": torch.tensor([0, 0, 1, 1]),
        "n_groups": 2,
    }
    return Scored(**{**parts, **changes})


def plan_of(spec, batch):
    return build(spec).plan(batch, generator(0))


def test_a_piece_of_the_wrong_kind_is_refused():
    with pytest.raises(UserError, match=r"^grpo: 'uniform' is no surrogate$"):
        build("grpo").exchange({"surrogate": make("weight", "uniform")})


def test_pieces_are_listed_in_the_order_they_act():
    assert list(build("grpo").pieces) == [
        "advantage",
        "selection",
        "weight",
        "surrogate",
        "regulariser",
        "aggregation",
    ]


def test_needs_are_those_of_all_pieces():
    assert build("grpo").needs == {"group"}
    assert build({"name": "grpo", "beta": 0.1}).needs == {"group", "ref_logp"}
    assert build("t_spmo").needs == {"group", "parameters", "by_prefix", "on_policy"}


def test_only_a_penalty_over_tokens_reaches_tokens_without_advantage():
    assert not build("grpo").penalises_tokens
    assert build("s_grpo").penalises_tokens
    assert not build("t_spmo").penalises_tokens


def test_exchange_leaves_the_original_alone():
    before = build("grpo")
    after = before.exchange({"surrogate": make("surrogate", "probability")})
    assert (before.surrogate.name, after.surrogate.name) == ("clipped_ratio", "probability")
    assert {k: p for k, p in after.pieces.items() if k != "surrogate"} == {
        k: p for k, p in before.pieces.items() if k != "surrogate"
    }


def test_a_group_of_one_is_refused_by_name():
    lonely = make_batch([[1], [2], [3]], [[True]] * 3, [1.0, 0.0, 1.0], [0, 0, 1])
    for name in ("grpo", "s_grpo", "t_spmo"):
        with pytest.raises(UserError, match=rf"^{name}'s advantage .* needs group size >= 2, got 1$"):
            plan_of(name, lonely)


def test_the_plan_by_hand(batch):
    # population std 1/2 of rewards 1, 0: A = +-1; the undecided group: 0
    plan = plan_of({"name": "grpo", "std": "population", "eps": 0.0}, batch)
    assert plan.advantage_BT.tolist() == [[1.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0] * 3, [0.0] * 3]
    assert plan.selected_BT.int().tolist() == [[1, 1, 0], [1, 0, 0], [1, 0, 1], [1, 0, 0]]
    # 2 groups, 2 rows each, tokens 2, 1, 2, 1: selected tokens count in the denominator whatever their advantage
    assert plan.share_BT.tolist() == [[1 / 8, 1 / 8, 0], [1 / 4, 0, 0], [1 / 8, 0, 1 / 8], [1 / 4, 0, 0]]


def test_tokens_without_advantage_are_not_scored_unless_a_penalty_needs_them(batch):
    assert plan_of("grpo", batch).active_BT.int().tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]]
    with_kl = plan_of({"name": "grpo", "beta": 0.1}, batch)
    assert torch.equal(with_kl.active_BT, with_kl.selected_BT)
    all_pairs = plan_of({"name": "t_spmo", "pairs": "all"}, batch)
    assert all_pairs.active_BT.int().tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert all_pairs.selected_BT.sum() == 6


def test_weights_see_no_gradient_and_stop_at_the_selection(batch):
    seen = []
    algorithm = build("grpo")
    plan = algorithm.plan(batch, generator(0))
    logp_BT = torch.full((4, 3), -1.0, dtype=torch.float64, requires_grad=True)
    rows = scored(plan, logp_BT, weight_BT=torch.full((4, 3), 7.0, dtype=torch.float64))

    def spy(given):
        seen.append(given)
        return given.logp_BT * 2

    object.__setattr__(algorithm, "weight", spy)
    weighed = algorithm.weigh(rows)
    assert not seen[0].logp_BT.requires_grad
    assert seen[0].weight_BT.tolist() == torch.ones(4, 3).tolist()
    assert weighed.logp_BT is logp_BT
    assert torch.equal(weighed.weight_BT, -2.0 * plan.selected_BT)


def test_token_loss_by_hand(batch):
    # A = +-1 and ratio 1, plus beta k3 with ref / pi = 2: 2 - log 2 - 1 everywhere selected
    algorithm = build({"name": "grpo", "std": "population", "eps": 0.0, "beta": 0.5})
    plan = algorithm.plan(batch, generator(0))
    logp_BT = torch.full((4, 3), -1.0, dtype=torch.float64)
    log2 = torch.log(torch.tensor(2.0, dtype=torch.float64))
    terms = algorithm.token_loss(scored(plan, logp_BT, ref_BT=logp_BT + log2))
    k = 0.5 * (1 - log2.item())
    expected = [[-1 + k, -1 + k, 0], [1 + k, 0, 0], [k, 0, k], [k, 0, 0]]
    assert terms.loss_BT.tolist() == [pytest.approx(row, abs=1e-15) for row in expected]


def test_clips_are_counted_at_selected_tokens_only(batch):
    algorithm = build("grpo")
    plan = algorithm.plan(batch, generator(0))
    logp_BT = torch.zeros(4, 3, dtype=torch.float64)
    # every ratio is e: binds where A > 0, which of the selected are the two tokens of row 0
    ratio_e = scored(plan, logp_BT, old_BT=logp_BT - 1, advantage_BT=plan.advantage_BT + 1e-9)
    terms = algorithm.token_loss(ratio_e)
    assert terms.clipped_high_BT.int().tolist() == [[1, 1, 0], [0, 0, 0], [1, 0, 1], [1, 0, 0]]
    assert not terms.clipped_low_BT.any()
    # every ratio is 1/e: binds where A < 0
    terms = algorithm.token_loss(scored(plan, logp_BT, old_BT=logp_BT + 1, advantage_BT=plan.advantage_BT - 1e-9))
    assert terms.clipped_low_BT.int().tolist() == [[0, 0, 0], [1, 0, 0], [1, 0, 1], [1, 0, 0]]
    assert not terms.clipped_high_BT.any()


def test_the_penalty_over_parameters_is_apart_from_the_tokens():
    # 0.01 * (9 + 16)
    matrices = [torch.tensor([[3.0]]), torch.tensor([[4.0]])]
    assert build("t_spmo").parameter_loss(matrices).item() == pytest.approx(0.25)
    assert build({"name": "t_spmo", "l2": 0.0}).parameter_loss(matrices) is None
    assert build("s_grpo").parameter_loss(matrices) is None


def test_describe_is_a_piece_a_line():
    lines = build("t_spmo").describe().splitlines()
    assert [line.split()[0] for line in lines] == list(build("t_spmo").pieces)
    assert lines[1] == "selection    unique_pairs(pairs=informative)"
