"""Drawing: inversion against exact fractions, truncation and log-probs by hand."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tessera.rollout.draw import SPAN, draw, invert, marked, truncated
from tessera.rollout.engine import Sampling

# Short ones, and ones whose weights lie in several spans.
WEIGHTS = st.one_of(
    st.lists(st.integers(0, 8), min_size=1, max_size=12),
    st.lists(st.integers(0, 3), min_size=3, max_size=3).map(lambda few: [w for f in few for w in (f, *[0] * SPAN)]),
).filter(any)
# Of probabilities 0.4, 0.3, 0.2, 0.1.
FOUR = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()


def one(logits_BV: Tensor, uniform: float, **sampling: object) -> tuple[int, float]:
    drawn = draw(
        *marked(torch.zeros(1, 1), logits_BV.clone()),
        torch.tensor([uniform], dtype=torch.float64),
        Sampling(**sampling),
    )
    return int(drawn.token_B), float(drawn.logp_B)


def test_a_draw_and_its_log_prob() -> None:
    """0.4 + 0.3 = 0.7 <= 0.75 < 0.9: the third."""
    token, logp = one(FOUR, 0.75)
    assert (token, logp) == (2, pytest.approx(math.log(0.2)))


def test_temperature_divides_the_logits() -> None:
    """At 0.5 probabilities are squared: 16, 9, 4, 1 of 30; 0.75 lies between 16/30 and 25/30."""
    token, logp = one(FOUR, 0.75, temperature=0.5)
    assert (token, logp) == (1, pytest.approx(math.log(9 / 30)))


def test_temperature_zero_takes_the_likeliest_with_its_plain_log_prob() -> None:
    drawn = draw(*marked(torch.zeros(1, 1), FOUR), None, Sampling(temperature=0))
    assert (int(drawn.token_B), float(drawn.logp_B)) == (0, pytest.approx(math.log(0.4)))


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        ({"top_k": 2}, 2),
        ({"top_k": 9}, 4),
        ({"top_p": 0.7}, 2),  # 0.4 + 0.3 is enough
        ({"top_p": 0.71}, 3),
        ({"top_p": 0.01}, 1),
        ({"min_p": 0.5}, 3),  # 0.2 is half of 0.4
        ({"min_p": 0.51}, 2),
        ({"top_k": 3, "top_p": 0.75}, 2),  # of 0.9: 0.444, 0.777
    ],
)
def test_truncation_keeps_the_likeliest(sampling: dict[str, float], kept: int) -> None:
    """The weights are powers of a half away from every bound that rounding could move."""
    shuffled = FOUR[:, [2, 0, 3, 1]]
    bound = 1e-6 if "top_p" in sampling else 0.0
    asks = {**sampling, **({"top_p": sampling["top_p"] - bound} if bound else {})}
    found = truncated(shuffled * (1 + (1e-9 if "min_p" not in sampling else 0)), Sampling(**asks, temperature=1.0))
    alive = found.isfinite()[0][[1, 3, 0, 2]]
    assert alive.tolist() == [True] * kept + [False] * (4 - kept)


def test_log_probs_are_of_what_truncation_left() -> None:
    """Of 0.4 and 0.3 alone: 4/7 and 3/7."""
    assert one(FOUR, 0.56, top_k=2) == (0, pytest.approx(math.log(4 / 7)))
    assert one(FOUR, 0.58, top_k=2) == (1, pytest.approx(math.log(3 / 7)))


def test_a_row_that_is_not_finite_is_marked_and_its_neighbours_are_not() -> None:
    hidden_BH = torch.tensor([[0.0], [torch.nan]])
    logits_BV = torch.cat([FOUR, torch.full_like(FOUR, torch.nan)])
    drawn = draw(*marked(hidden_BH, logits_BV), torch.tensor([0.75, 0.75], dtype=torch.float64), Sampling())
    assert int(drawn.token_B[0]) == 2
    assert drawn.logp_B.isnan().tolist() == [False, True]


def slow_draw(probabilities: list[Fraction], uniform: Fraction) -> int:
    total = Fraction(0)
    for token, p in enumerate(probabilities):
        total += p
        if total > uniform * sum(probabilities):
            return token
    raise AssertionError("no token")


@given(WEIGHTS, st.integers(0, 999))
@settings(deadline=None)
def test_inversion_is_the_definition(weights: list[int], thousandths: int) -> None:
    """Numbers that fall on a boundary between tokens are left out: floats may round to either side there."""
    uniform = Fraction(thousandths, 1000) + Fraction(1, 3000)
    expected = slow_draw([Fraction(w) for w in weights], uniform)
    mass_BV = torch.tensor([weights], dtype=torch.float64)
    token_B, total_B = invert(mass_BV, torch.tensor([float(uniform)], dtype=torch.float64))
    assert token_B.tolist() == [expected]
    assert total_B.tolist() == [sum(weights)]


@given(WEIGHTS, st.sampled_from([0.0, 0.5, 1 - 2**-53]))
@settings(deadline=None)
def test_inversion_never_draws_what_has_no_probability(weights: list[int], uniform: float) -> None:
    mass_BV = torch.tensor([weights], dtype=torch.float32)
    (token,) = invert(mass_BV, torch.tensor([uniform], dtype=torch.float64))[0].tolist()
    assert weights[token] > 0
    likely = [v for v, w in enumerate(weights) if w]
    if uniform == 0:
        assert token == likely[0]
    if uniform > 0.9:
        assert token == likely[-1]


def test_inversion_takes_each_row_with_its_own_number() -> None:
    mass_BV = torch.tensor([[0.25, 0.25, 0.5], [0.5, 0.5, 0.0], [0.0, 1.0, 0.0]])
    uniform_B = torch.tensor([0.6, 0.2, 0.999], dtype=torch.float64)
    assert invert(mass_BV, uniform_B)[0].tolist() == [2, 0, 1]


def test_a_number_that_rounding_made_one_still_draws() -> None:
    """As in float32, where the largest number below 1 may not survive."""
    assert invert(torch.tensor([[0.25, 0.75, 0.0]]), torch.ones(1))[0].tolist() == [1]


def test_a_tail_of_many_unlikely_tokens_is_told_apart() -> None:
    """A hundred thousand tokens of 1e-8 each behind one of nearly 1: in float32 sums move by six of them at a time."""
    n, tail = 100_000, 1e-8
    mass_1V = torch.full((1, n + 1), tail, dtype=torch.float32)
    mass_1V[0, 0] = 1 - n * tail
    for share in torch.linspace(0.05, 0.95, 50, dtype=torch.float64).tolist():
        uniform_B = torch.tensor([1 - n * tail * (1 - share)], dtype=torch.float64)
        assert abs(int(invert(mass_1V, uniform_B)[0]) - 1 - share * n) <= 1.5
