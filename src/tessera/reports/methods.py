"""What other algorithms make of rollouts that a run recorded: `tessera report RUN --algorithms a,b`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tessera.algorithms import registered, score_group
from tessera.core.batch import pad_rows
from tessera.core.errors import UserError, unknown
from tessera.reports.credit import Credit, Method, logps
from tessera.reports.summary import Row


def methods(names: Sequence[str]) -> dict[str, Method]:
    """By name, an algorithm with the keys of its paper, to be applied to a row of groups.jsonl."""
    for name in names:
        if name not in registered():
            raise unknown("algorithm", name, registered())
    if len(set(names)) < len(names):
        raise UserError(f"--algorithms names one twice: {','.join(names)}")
    return {name: _method(name) for name in names}


def _method(name: str) -> Method:
    return lambda row: _scored(name, row)


def _scored(name: str, row: Row) -> Credit:
    """`tessera.score_group` on the group alone, and minus the derivative of its loss by each log-prob.

    The policy is the last update's where it scored a token, else the one that sampled; a reference that the run did not
    score is the policy itself.
    """
    rollouts = row["rollouts"]
    current = [logps(rollout) for rollout in rollouts]
    mask = [
        [int(bool(on) and lp is not None) for on, lp in zip(rollout["sampled"], line, strict=True)]
        for rollout, line in zip(rollouts, current, strict=True)
    ]
    logp = _table(current).requires_grad_()
    loss = score_group(
        name,
        rewards=torch.tensor([rollout["reward"] for rollout in rollouts], dtype=torch.float64),
        tokens=pad_rows([rollout["ids"] for rollout in rollouts]),
        logp=logp,
        lengths=torch.tensor([len(rollout["ids"]) for rollout in rollouts]),
        mask=pad_rows(mask).bool(),
        old_logp=_table([_filled(rollout["old"], rollout["sampler"]) for rollout in rollouts]),
        ref_logp=_table([_filled(r["ref"], line) for r, line in zip(rollouts, current, strict=True)]),
        entropy=_whole(rollouts, mask, "entropy"),
        eos_logp=_whole(rollouts, mask, "eos"),
        truncated=torch.tensor([rollout["finish_reason"] == "length" for rollout in rollouts]),
    )
    push = torch.zeros_like(logp)
    if loss.value.requires_grad:  # no token is selected: nothing is learned
        push = -torch.autograd.grad(loss.value, logp, allow_unused=True)[0]
    lengths = [len(rollout["ids"]) for rollout in rollouts]
    tensors = (loss.advantage, loss.weight, loss.selected.int(), push)
    return Credit(*([line[:n] for line, n in zip(t.tolist(), lengths, strict=True)] for t in tensors))


def _filled(line: Sequence[Any], other: Sequence[Any]) -> list[Any]:
    return [there if value is None else value for value, there in zip(line, other, strict=True)]


def _whole(rollouts: Sequence[Mapping[str, Any]], mask: Sequence[Sequence[int]], name: str) -> Tensor | None:
    """A field that was recorded of every token of the policy, or None."""
    lines = [rollout.get(name) or [None] * len(rollout["ids"]) for rollout in rollouts]
    pairs = (pair for two in zip(lines, mask, strict=True) for pair in zip(*two, strict=True))
    return None if any(on and value is None for value, on in pairs) else _table(lines)


def _table(lines: Sequence[Sequence[float | None]]) -> Tensor:
    """Ragged lines as float64 [G,T]; what is not there is 0 and masked."""
    width = max(map(len, lines))
    rows = [[*(value or 0.0 for value in line), *[0.0] * (width - len(line))] for line in lines]
    return torch.tensor(rows, dtype=torch.float64)
