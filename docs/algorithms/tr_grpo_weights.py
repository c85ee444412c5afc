"""Draw TR-GRPO's weight against a token's probability: python docs/algorithms/tr_grpo_weights.py"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from tessera.core.batch import Scored
from tessera.pieces import make

WIDTH, HEIGHT, LEFT, TOP = 420, 240, 48, 16
LOWEST, HIGHEST = 0.9, 1.5
CURVES = (  # scale, tau, colour, dashes, label, and the place of the label
    ("multiply", 9.0, "#0072b2", "", "multiply, τ = 9", (0.30, 1.425)),
    ("multiply", 2.0, "#d55e00", "", "multiply, τ = 2", (0.68, 1.03)),
    ("divide", 9.0, "#7f7f7f", "6 4", "divide (printed), τ = 9; multiply, τ = 0.5", (0.22, 0.955)),
)


def weights(probability_T: Tensor, scale: str, tau: float) -> Tensor:
    """The piece's own weights at these probabilities."""
    row_BT = probability_T.log()[None]
    zero_BT = torch.zeros_like(row_BT)
    every_BT = torch.ones_like(row_BT, dtype=torch.bool)
    one_B = torch.zeros(1, dtype=torch.long)
    tokens = Scored(row_BT, row_BT, row_BT, zero_BT, every_BT, zero_BT + 1, zero_BT, one_B, 1)
    result: Tensor = make("weight", "token_regulated", scale=scale, tau=tau)(tokens)
    return result[0]


def at(probability: float, weight: float) -> tuple[float, float]:
    """Where a point lies in the drawing."""
    return LEFT + WIDTH * probability, TOP + HEIGHT * (HIGHEST - weight) / (HIGHEST - LOWEST)


def text(x: float, y: float, words: str, more: str = "") -> str:
    """A label."""
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{words}</text>'


def drawing() -> str:
    """The SVG."""
    parts = []
    for weight in (0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5):
        x, y = at(0, weight)
        parts.append(f'<line x1="{x}" y1="{y:.1f}" x2="{x + WIDTH}" y2="{y:.1f}" stroke="#888" stroke-opacity="0.3"/>')
        parts.append(text(x - 6, y + 4, f"{weight:.1f}", 'text-anchor="end"'))
    for probability in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = at(probability, LOWEST)
        parts.append(text(x, y + 16, f"{probability:g}", 'text-anchor="middle"'))
    x, y = at(0.5, LOWEST)
    parts.append(text(x, y + 34, "probability π of the token", 'text-anchor="middle"'))
    x, y = at(1, 1.24)
    parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{x}" y2="{y:.1f}" stroke="#888" stroke-dasharray="2 3"/>')
    parts.append(text(x, y - 4, "1 + ε_hi: above, A &gt; 0 has no gradient", 'text-anchor="end"'))
    probability_T = torch.linspace(1e-4, 1, 201, dtype=torch.float64)
    for scale, tau, colour, dashes, label, place in CURVES:
        points = zip(probability_T.tolist(), weights(probability_T, scale, tau).tolist(), strict=True)
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in points))
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"{dashed}/>')
        parts.append(text(*at(*place), label, f'fill="{colour}"'))
    style = 'font-family="sans-serif" font-size="12" fill="#888"'
    size = f'width="{LEFT + WIDTH + 16}" height="{TOP + HEIGHT + 44}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n' + "\n".join(parts) + "\n</svg>\n"


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(drawing(), encoding="utf-8")
