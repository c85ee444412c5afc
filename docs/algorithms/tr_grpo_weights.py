"""Draw TR-GRPO's weight against a token's probability: python docs/algorithms/tr_grpo_weights.py"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from tessera.core.batch import Scored
from tessera.pieces import make
from tessera.pieces.weight import token_regulated

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 250, 50, 14, 30, 44
INK = "#7a7a7a"  # as legible on white as on a dark page; so are the colours of the curves


class Curve(NamedTuple):
    """Points to join; `dash` as in SVG; the label stands at the data point `at`."""

    points: Sequence[tuple[float, float]]
    colour: str
    dash: str
    label: str
    at: tuple[float, float]


class Level(NamedTuple):
    """A dotted horizontal line, its label above it from `x` on."""

    y: float
    label: str
    x: float


class Frame(NamedTuple):
    """What the axes show: ticks, whose ends are those of the drawing, and their names."""

    x_ticks: Sequence[float]
    y_ticks: Sequence[float]
    x_label: str
    y_label: str

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Data to drawing units."""
        across = (x - self.x_ticks[0]) / (self.x_ticks[-1] - self.x_ticks[0])
        up = (y - self.y_ticks[0]) / (self.y_ticks[-1] - self.y_ticks[0])
        return LEFT + WIDTH * across, TOP + HEIGHT * (1 - up)


def plot(title: str, frame: Frame, curves: Sequence[Curve], levels: Sequence[Level] = ()) -> str:
    """An SVG without style sheets, since pages show it as an image."""
    parts = [f"<title>{title}</title>"]
    for value in frame.y_ticks:
        x, y = frame.place(frame.x_ticks[0], value)
        parts.append(f'<path d="M{x:.1f} {y:.1f}h{WIDTH}" stroke="{INK}" stroke-opacity="0.3"/>')
        parts.append(_text(x - 6, y + 4, f"{value:g}", "end"))
    for value in frame.x_ticks:
        x, y = frame.place(value, frame.y_ticks[0])
        parts.append(_text(x, y + 16, f"{value:g}", "middle"))
    parts.append(_text(LEFT + WIDTH / 2, TOP + HEIGHT + 36, frame.x_label, "middle"))
    parts.append(_text(4, 14, frame.y_label, "start"))
    for level in levels:
        x, y = frame.place(level.x, level.y)
        parts.append(f'<path d="M{LEFT} {y:.1f}h{WIDTH}" stroke="{INK}" stroke-dasharray="2 3"/>')
        parts.append(_text(x, y - 4, level.label, "start"))
    for curve in curves:
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (frame.place(*point) for point in curve.points))
        dash = f' stroke-dasharray="{curve.dash}"' if curve.dash else ""
        parts.append(f'<polyline points="{line}" fill="none" stroke="{curve.colour}" stroke-width="2"{dash}/>')
        parts.append(_text(*frame.place(*curve.at), curve.label, "start", curve.colour))
    size = (LEFT + WIDTH + RIGHT, TOP + HEIGHT + BOTTOM)
    style = f'width="{size[0]}" height="{size[1]}" font-family="sans-serif" font-size="12"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" {style}>'
    return head + "\n" + "\n".join(parts) + "\n</svg>\n"


def _text(x: float, y: float, words: str, anchor: str, colour: str = INK) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{words}</text>'


def weights(probability_T: Tensor, scale: str, tau: float) -> Tensor:
    """The piece's own weights at these probabilities."""
    row_BT = probability_T.log()[None]
    zeros_BT = torch.zeros_like(row_BT)
    every_BT, one_B = torch.ones_like(row_BT, dtype=torch.bool), torch.zeros(1, dtype=torch.long)
    tokens = Scored(row_BT, row_BT, row_BT, zeros_BT, every_BT, zeros_BT + 1, zeros_BT, one_B, 1)
    config = make("weight", "token_regulated", scale=scale, tau=tau).config
    return token_regulated(tokens, **config)[0]


def drawing() -> str:
    """The weights of both readings of Eq. 12, at the best and at the smallest tau of Table 7."""
    probability_T = torch.linspace(1e-4, 1, 201, dtype=torch.float64)

    def points(scale: str, tau: float) -> list[tuple[float, float]]:
        return list(zip(probability_T.tolist(), weights(probability_T, scale, tau).tolist(), strict=True))

    curves = (
        Curve(points("multiply", 9.0), "#2f8fd0", "", "s = τπ, τ = 9 (default)", (0.36, 1.415)),
        Curve(points("divide", 0.5), "#d55e00", "", "s = π/τ, τ = 0.5", (0.74, 1.075)),
        Curve(points("multiply", 0.5), "#009e73", "", "s = τπ, τ = 0.5: GRPO", (0.02, 0.965)),
        Curve(points("divide", 9.0), "#cc79a7", "7 7", "s = π/τ, τ = 9 (as printed): GRPO", (0.44, 0.965)),
    )
    levels = (Level(1.24, "1 + ε_hi: above it A &gt; 0 has no gradient at ρ = 1", 0.29),)
    frame = Frame((0, 0.25, 0.5, 0.75, 1), (0.9, 1, 1.1, 1.2, 1.3, 1.4, 1.5), "probability π of the token", "weight w")
    return plot("TR-GRPO: weight of a token against its probability, L = 1, U = 1.4", frame, curves, levels)


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(drawing(), encoding="utf-8")
