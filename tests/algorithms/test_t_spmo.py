"""T-SPMO, by hand."""

import pytest
import torch

from tessera import score_group
from tessera.algorithms import build


def evaluate(tokens, rewards, probabilities, mask=None, **config):
    lengths = torch.tensor([len(row) for row in tokens])
    width = int(lengths.max())

    def padded(rows, fill):
        return [[*row, *[fill] * (width - len(row))] for row in rows]

    chances = torch.tensor(padded(probabilities, float("nan")), dtype=torch.float64)
    logp = chances.log().requires_grad_()
    loss = score_group(
        "t_spmo",
        config=config,
        rewards=torch.tensor(rewards, dtype=torch.float64),
        tokens=torch.tensor(padded(tokens, 1)),
        logp=logp,
        lengths=lengths,
        mask=None if mask is None else torch.tensor(padded(mask, True)),
    )
    (gradient,) = torch.autograd.grad(loss.value, logp)
    return loss, gradient.tolist()


# 1 (p = .5) is shared by three completions, then 2 (p = .25) by two of them, 3 (p = .75); 4 (p = .5) ends one
TOKENS, REWARDS = [[1, 2], [1, 3], [1, 2, 4], [5]], [1, 0, 0, 1]
CHANCES = [[0.5, 0.25], [0.5, 0.75], [0.5, 0.25, 0.5], [0.5]]


def test_a_group_by_hand():
    # U: (,1) A = -1/6, (1,2) A = 1/6, (1,3) A = -1/3, (12,4) A = -1/2, (,5) A = 1/2: five pairs, pi A summed
    loss, gradient = evaluate(TOKENS, REWARDS, CHANCES)
    pi_a = [0.5 * -1 / 6, 0.25 / 6, 0.75 * -1 / 3, 0.5 * -1 / 2, 0.5 / 2]
    assert loss.value.item() == pytest.approx(-sum(pi_a) / 5, abs=1e-15)
    # d pi / d logp = pi, on the first completion that wrote the pair
    expected = [[-pi_a[0] / 5, -pi_a[1] / 5, 0], [0, -pi_a[2] / 5, 0], [0, 0, -pi_a[3] / 5], [-pi_a[4] / 5, 0, 0]]
    assert gradient == [pytest.approx(row, abs=1e-15) for row in expected]
    assert loss.metrics["tokens/contributing"] == 5.0


def test_pairs_that_change_nothing_are_left_out_or_divide():
    # root 1/2; after 1 nothing is decided (A = 0); 2 and 3 decide (+-1/2); the tails 7 and 8 follow from them (A = 0)
    tokens, chances = [[1, 2, 7], [1, 3, 8]], [[0.5, 0.5, 0.5], [0.5, 0.25, 0.5]]
    informative, gradient = evaluate(tokens, [1, 0], chances)
    assert informative.value.item() == pytest.approx(-(0.5 * 0.5 - 0.25 * 0.5) / 2, abs=1e-15)
    assert gradient == [[0, -0.125, 0], [0, 0.0625, 0]]
    every, gradient = evaluate(tokens, [1, 0], chances, pairs="all")
    assert every.value.item() == pytest.approx(-(0.5 * 0.5 - 0.25 * 0.5) / 5, abs=1e-15)
    assert gradient[0] == pytest.approx([0, -0.05, 0], abs=1e-16)
    assert every.selected.sum() == 5


def test_tool_output_is_prefix_but_never_a_pair():
    # the tool answers 8 to both; then 2 and 3 earn +-1/2 at p = .5 and .25
    mask = [[True, False, True], [True, False, True]]
    chances = [[0.5, float("nan"), 0.5], [0.5, float("nan"), 0.25]]
    loss, gradient = evaluate([[1, 8, 2], [1, 8, 3]], [1, 0], chances, mask)
    assert loss.value.item() == pytest.approx(-(0.5 * 0.5 - 0.25 * 0.5) / 2, abs=1e-15)
    assert gradient == [[0, 0, -0.125], [0, 0, 0.0625]]


def test_a_group_that_agrees_teaches_nothing():
    loss, gradient = evaluate(TOKENS, [0.1] * 4, CHANCES)
    assert loss.value.item() == 0.0
    assert gradient == [[0.0] * 3] * 4
    assert loss.metrics == {"tokens/contributing": 0.0}


def test_the_defaults_and_every_key():
    assert [str(p) for p in build("t_spmo").pieces.values()] == [
        "prefix_value()",
        "unique_pairs(pairs=informative)",
        "uniform()",
        "probability()",
        "l2(strength=0.01)",
        "token_mean()",
    ]
    built = build({"name": "t_spmo", "pairs": "all", "l2": 0.5})
    assert built.selection.config == {"pairs": "all"}
    assert built.regulariser.config == {"strength": 0.5}
    assert build({"name": "t_spmo", "l2": 0}).regulariser.name == "none"
