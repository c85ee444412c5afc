"""What an algorithm does to each token, on a small group of completions: `tessera explain`.

The group is an illustration: its texts and log-probs are made up, its arithmetic is `score_group`'s.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table
from rich.text import Text
from torch import Tensor

from tessera.algorithms import Algorithm, build, registered, score_group
from tessera.core.batch import Loss, pad_rows
from tessera.core.errors import UserError

PROMPT = "17 + 25 ="
COMPLETIONS = (
    ("7", "+5", "=12", "carry", "1", "so", "42", "<end>"),
    ("7", "+5", "=12", "so", "32", "<end>"),
    ("7", "+5", "=13", "so", "43", "<end>"),
    ("42", "<end>"),
    ("7", "+5", "=12", "carry", "1", "so", "42", "because", "1", "+1", "+2", "=4"),
    ("about", "40", "<end>"),
)
REWARDS = (1.0, 0.0, 0.0, 1.0, 1.0, 0.0)


@dataclass(frozen=True)
class Explained:
    """A composition, the tokens of each completion, the rewards, the Loss, and its gradient by every log-prob [G,T]."""

    algorithm: Algorithm
    completions: tuple[tuple[str, ...], ...]
    rewards: tuple[float, ...]
    loss: Loss
    gradient: Tensor


def explain(spec: str | Mapping[str, Any], rewards: Sequence[float] = REWARDS, seed: int = 0) -> Explained:
    """Score the built-in group, with as many completions as there are `rewards` (2 to 6), as `spec` says."""
    if not 2 <= len(rewards) <= len(COMPLETIONS):
        raise UserError(f"--rewards takes 2 to {len(COMPLETIONS)} numbers, one a completion, got {len(rewards)}")
    algorithm = build(spec)
    completions = COMPLETIONS[: len(rewards)]
    words = {word: n for n, word in enumerate(dict.fromkeys(w for line in completions for w in line))}
    tokens = pad_rows([[words[w] for w in line] for line in completions])
    known = _numbers(tokens.shape)
    logp = known.pop("logp").requires_grad_()
    loss = score_group(
        algorithm.name,
        config={} if isinstance(spec, str) else dict(spec),
        rewards=torch.tensor(rewards, dtype=torch.float64),
        tokens=tokens,
        logp=logp,
        lengths=torch.tensor([len(line) for line in completions]),
        truncated=torch.tensor([line[-1] != "<end>" for line in completions]),
        seed=seed,
        **known,
    )
    loss.value.backward()  # type: ignore[no-untyped-call]
    gradient = torch.zeros_like(logp) if logp.grad is None else logp.grad
    return Explained(algorithm, completions, tuple(rewards), loss, gradient)


def render(explained: Explained) -> list[str | Table]:
    """What is printed: the paper's words, the composition, and a table a completion."""
    algorithm = explained.algorithm
    needs = ", ".join(sorted(algorithm.needs)) or "nothing"
    shown: list[str | Table] = [
        inspect.getdoc(sys.modules[registered()[algorithm.name].compose.__module__]) or "",
        f"\ncomposition\n{algorithm.describe()}\nneeds        {needs}\n",
        f"an illustration: {len(explained.completions)} completions of {PROMPT!r}. gradient > 0 makes a token likelier;"
        " - is not selected\n",
    ]
    return shown + [_table(explained, i) for i in range(len(explained.completions))]


def _table(explained: Explained, i: int) -> Table:
    line, loss = explained.completions[i], explained.loss
    table = Table(f"reward {explained.rewards[i]:g}", *line, box=None, title=None, padding=(0, 1))
    per_share = -explained.gradient[i]
    for label, values in (("advantage", loss.advantage[i]), ("weight", loss.weight[i]), ("gradient", per_share)):
        table.add_row(label, *(_cell(float(values[t]), bool(loss.selected[i, t]), label) for t in range(len(line))))
    return table


def _cell(value: float, selected: bool, label: str) -> Text:
    if not selected:
        return Text("-", style="dim")
    signed = label != "weight"
    style = "" if not signed or value == 0 else "green" if value > 0 else "red"
    return Text(f"{value:+.3f}" if signed else f"{value:.2f}", style=style)


def _numbers(shape: torch.Size) -> dict[str, Tensor]:
    """Log-probs of the policy and of those that it is compared with, entropies and log-probs of ending, all [G,T]."""
    draws = torch.Generator().manual_seed(17)
    logp, old, ref, entropy, end = torch.rand(5, *shape, generator=draws, dtype=torch.float64)
    policy = -2.5 * logp.square() - 0.01
    return {
        "logp": policy,
        "old_logp": policy + 0.6 * (old - 0.5),
        "ref_logp": policy + 0.6 * (ref - 0.5),
        "entropy": 2 * entropy,
        "eos_logp": -1 - 3 * end,
    }
