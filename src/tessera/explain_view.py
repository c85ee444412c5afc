"""What `tessera explain` prints: legible by signs and marks where there is no colour."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tessera.explain import LIMIT, PROMPT, CompletionCredit, Explanation, TokenCredit

UNSELECTED = "·"
NOTICEABLE = 0.005  # of the strongest push: what is less is not coloured

# What a piece's needs (pieces/registry.py) mean, in words.
NEEDS = {
    "group": "two or more completions of a prompt",
    "ref_logp": "log-probs of a reference policy",
    "parameters": "the adapter's matrices: their penalty is part of a run's loss, and of nothing below",
    "statistics": "the log-probs of the whole step before its first weight; the group below is the step",
    "entropy": "the policy's entropy at every token, before the plan",
    "eos_logp": "the log-prob of ending at every token, before the plan",
    "truncated": "which completions were cut off at the length limit",
    "on_policy": "one update a rollout: no ratio corrects for more",
    "whole_rows": "a selection that leaves no gaps in a completion",
    "by_prefix": "an advantage that depends on the prefix alone",
    "positive_weight": "a weight that is never 0",
}


def render(found: Explanation) -> Group:
    """The explanation for a terminal or a pipe."""
    unit = _unit(found)
    parts: list[RenderableType] = [
        *_said(found),
        _composition(found),
        Text(
            f"An illustration, not a measurement: {len(found.completions)} completions of the prompt '{PROMPT}', of "
            f"{LIMIT} tokens at most, whose probabilities are made up so that clips bind."
        ),
        *(_completion(n, completion, unit, found) for n, completion in enumerate(found.completions, 1)),
    ]
    spaced = [line for part in parts for line in (part, "")]
    return Group(*spaced, *_notes(found, unit))


def _said(found: Explanation) -> list[Text]:
    """What the method's own page of code says of it."""
    method = found.method
    plain = [Text(part) for part in (method.source, method.equation, method.symbols) if part]
    heading = [Text(f"stage {found.stage}", "bold")] if found.stage else []
    return [*heading, Text(method.headline, "bold"), *plain]


def _composition(found: Explanation) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    for kind, piece in found.algorithm.pieces.items():
        exchanged = "  (exchanged)" if kind in found.exchanged else ""
        grid.add_row(Text(kind), Text(f"{piece}{exchanged}"))
        grid.add_row("", Text(piece.summary, "dim"))
    for n, need in enumerate(sorted(found.algorithm.needs)):
        grid.add_row(Text("" if n else "needs"), Text(f"{need}: {NEEDS[need]}"))
    return grid


def _completion(number: int, completion: CompletionCredit, unit: float, found: Explanation) -> Table:
    """A column a token, a row a quantity."""
    strongest = max(abs(token.push) for token in found.tokens)
    cut = ", cut off" if completion.truncated else ""
    table = Table(box=None, padding=(0, 0, 0, 1), pad_edge=False, header_style="")
    table.add_column(Text(f"{number}. reward {completion.reward:g}{cut}", "bold"), min_width=20, no_wrap=True)
    styles = [_style(token, strongest) for token in completion.tokens]
    for token, style in zip(completion.tokens, styles, strict=True):
        table.add_column(Text(token.text, style), justify="right", min_width=5, no_wrap=True)
    for label, cells in _rows(completion.tokens, unit, found).items():
        shown = styles if label == "push" else ["dim" if style == "dim" else "" for style in styles]
        table.add_row(Text(label), *map(Text, cells, shown))
    return table


def _rows(tokens: Sequence[TokenCredit], unit: float, found: Explanation) -> dict[str, list[str]]:
    rows = {"probability π": [f"{token.probability:.2f}" for token in tokens]}
    if _has_ratio(found):
        rows["ratio ρ"] = [f"{token.ratio:.2f}" for token in tokens]
    rows["advantage"] = [_signed(token.advantage, 2) for token in tokens]
    rows["weight"] = [f"{token.weight:.2f}" if token.selected else UNSELECTED for token in tokens]
    rows["push"] = [_signed(token.push / unit, 1) if token.selected else UNSELECTED for token in tokens]
    return rows


def _notes(found: Explanation, unit: float) -> list[Text]:
    tokens, algorithm = found.tokens, found.algorithm
    selected = [token for token in tokens if token.selected]
    lines = [
        f"loss {found.loss:+.4g}; of {len(tokens)} tokens {len(selected)} are selected, and "
        f"{sum(token.push != 0 for token in tokens)} carry gradient",
        f"push is -dLoss/dlogp in units of {unit:g}: above 0 (green) the token becomes likelier, below (red) less "
        "likely, bold where it is at least half of the strongest",
        f"0: advantage or weight is 0, or a clip binds; {UNSELECTED} (dim): not selected",
    ]
    if _has_ratio(found):
        lines.append("ρ is π over the π of the policy that sampled")
    if len(selected) == len(tokens) and algorithm.selection.config:
        lines.append(f"selection {algorithm.selection.name} leaves out nothing here: its settings are above")
    if algorithm.weight.config and all(token.weight == 1 for token in selected):
        lines.append(f"weight {algorithm.weight.name} is 1 everywhere here: its settings are above")
    return [Text(line) for line in lines]


def _has_ratio(found: Explanation) -> bool:
    return "on_policy" not in found.algorithm.needs


def _unit(found: Explanation) -> float:
    """A power of ten in which the strongest push has two digits before its point."""
    strongest = max(abs(token.push) for token in found.tokens)
    return 10.0 ** (math.floor(math.log10(strongest)) - 1) if strongest else 1.0


def _style(token: TokenCredit, strongest: float) -> str:
    if not token.selected:
        return "dim"
    if abs(token.push) < NOTICEABLE * strongest or not token.push:
        return ""
    colour = "green" if token.push > 0 else "red"
    return f"bold {colour}" if abs(token.push) >= strongest / 2 else colour


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}" if value else "0"
