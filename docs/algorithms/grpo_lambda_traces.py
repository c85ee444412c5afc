"""Draw how strongly GRPO-λ moves each token of a completion: python docs/algorithms/grpo_lambda_traces.py"""

from __future__ import annotations

from pathlib import Path

import torch
from tr_grpo_weights import Curve, Frame, plot

from tessera import score_group

LENGTH = 300
CURVES = (  # update, trace, colour, dashes, label, and its place
    ("trace", "both", "#d55e00", "", "ε-trace, both", (22, 275)),
    ("trace", "recent", "#2f8fd0", "", "ε-trace, recent", (118, 55)),
    ("weight", "both", "#d55e00", "7 5", "ε-weight, both", (150, 180)),
    ("weight", "recent", "#2f8fd0", "7 5", "ε-weight, recent", (215, 135)),
)


def slopes(name: str, **config: object) -> list[float]:
    """The gradient of the objective by each log-prob of a completion of advantage 1, on the first update."""
    logp = torch.full((2, LENGTH), 0.5, dtype=torch.float64).log().requires_grad_()
    tokens, lengths = torch.arange(2 * LENGTH).reshape(2, LENGTH), torch.tensor([LENGTH, LENGTH])
    loss = score_group(name, rewards=torch.tensor([1.0, 0.0]), tokens=tokens, logp=logp, lengths=lengths, config=config)
    (gradient,) = torch.autograd.grad(loss.value, logp)
    return (-gradient[0] / loss.advantage[0]).tolist()


def relative(update: str, trace: str) -> list[float]:
    """The slopes of GRPO-λ over those of GRPO."""
    plain = slopes("grpo")
    traced = slopes("grpo_lambda", update=update, trace=trace, beta=0.0)
    return [one / other for one, other in zip(traced, plain, strict=True)]


def drawing() -> str:
    """Both traces and both updates, with the default decay."""
    curves = [
        Curve(list(enumerate(relative(update, trace))), colour, dash, label, at)
        for update, trace, colour, dash, label, at in CURVES
    ]
    frame = Frame(
        (0, 50, 100, 150, 200, 250, 300),
        (0, 50, 100, 150, 200, 250, 300),
        "position of the token",
        "gradient, in multiples of GRPO's",
    )
    title = "GRPO-λ: gradient of each token's log-prob, in multiples of GRPO's, λ = 0.99, 300 tokens of π = 0.5"
    return plot(title, frame, curves)


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(drawing(), encoding="utf-8")
