"""What groups.jsonl holds: sampled groups, token by token, with what training made of each token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

from tessera.core.types import Group, Rollout
from tessera.training.planned import Planned, Seen
from tessera.training.settings import ReportSettings

DIGITS = 5  # significant ones of a number that is kept
LONGEST_CHARACTER = 4  # bytes, and so tokens at most, of one in UTF-8

Decode = Callable[[Sequence[int]], str]


def keeps(settings: ReportSettings, step: int, steps: int) -> bool:
    """Whether groups of `step` (from 1) of a stage of `steps` are kept: the first, the last, and evenly between."""
    if not settings.groups or not settings.steps:
        return False
    between = max(1, steps - 1)
    return step == 1 or (step - 1) * (settings.steps - 1) // between > (step - 2) * (settings.steps - 1) // between


def credit_rows(
    planned: Planned, groups: Sequence[Group], settings: ReportSettings, decode: Decode
) -> Iterator[dict[str, Any]]:
    """A row a kept group; docs/metrics.md explains its keys. `planned.seen` must not be None."""
    members: dict[int, list[int]] = {}
    for i, group in enumerate(planned.batch.group_B.tolist()):
        members.setdefault(group, []).append(i)
    place = {id(rollout): n for n, group in enumerate(groups) for rollout in group.rollouts}
    for rows in _chosen(planned, list(members.values()), settings):
        n = place[id(planned.rollouts[rows[0]])]
        yield {
            "group": n,
            "groups": len(groups),
            "problem_id": groups[n].problem.id,
            "prompt": decode(groups[n].prompt_ids),
            "rollouts": [_rollout(planned, i, decode) for i in rows],
        }


def token_texts(ids: Sequence[int], decode: Decode) -> list[str]:
    """What each token adds to the text of those before it; of tokens that share a character, the last has it.

    A token is decoded after its neighbour, since some tokenizers drop a space in front of a text.
    """
    texts: list[str] = []
    known: dict[tuple[int, ...], str] = {}

    def text_of(part: Sequence[int]) -> str:
        key = tuple(part)
        if key not in known:
            known[key] = decode(key)
        return known[key]

    before = begin = 0  # decoded are ids[before:], of which ids[begin:] have no text yet
    for end in range(1, len(ids) + 1):
        text = text_of(ids[before:end])[len(text_of(ids[before:begin])) :]
        whole = text and not text.endswith("\ufffd")
        if whole or end - begin >= LONGEST_CHARACTER or end == len(ids):
            before, begin = begin, end
        else:
            text = ""
        texts.append(text)
    return texts


def _chosen(planned: Planned, groups: Sequence[list[int]], settings: ReportSettings) -> list[list[int]]:
    """At most `settings.groups` groups of `settings.tokens` tokens in all, those that carry credit first."""
    credited = {i for i, on in enumerate(planned.plan.active_BT.any(dim=1).tolist()) if on}
    left = settings.tokens
    found: list[list[int]] = []
    for rows in sorted(groups, key=lambda rows: credited.isdisjoint(rows)):
        size = sum(len(planned.rollouts[i].ids) for i in rows)
        if size <= left and len(found) < settings.groups:
            found.append(rows)
            left -= size
    return sorted(found)


def _rollout(planned: Planned, i: int, decode: Decode) -> dict[str, Any]:
    rollout, plan, batch = planned.rollouts[i], planned.plan, planned.batch
    length = len(rollout.ids)
    at = plan.active_BT[i].nonzero().flatten().tolist()
    seen = (planned.seen or {}).get(i, Seen())
    kept = {name: _placed(values, at, length) for name, values in seen._asdict().items()}
    for name, values_BT in (("entropy", batch.entropy_BT), ("eos", batch.eos_logp_BT)):
        if values_BT is not None:  # of every token, where the method asked for them
            kept[name] = _rounded(values_BT[i, :length])
    return {
        **_told(rollout),
        "ids": list(rollout.ids),
        "texts": token_texts(rollout.ids, decode),
        "sampled": [int(on) for on in rollout.sampled],
        "sampler": [None if value is None else _round(value) for value in rollout.logprobs],
        "advantage": _rounded(plan.advantage_BT[i, :length]),
        "selected": plan.selected_BT[i, :length].int().tolist(),
        **kept,
    }


def _told(rollout: Rollout) -> dict[str, Any]:
    return {
        "reward": rollout.reward,
        "components": dict(rollout.components),
        "correct": rollout.correct,
        "finish_reason": rollout.finish_reason,
    }


def _placed(values_N: Tensor | None, at: Sequence[int], length: int) -> list[float | None]:
    """The values at positions `at`, None elsewhere."""
    line: list[float | None] = [None] * length
    if values_N is not None:
        for t, value in zip(at, _rounded(values_N), strict=True):
            line[t] = value
    return line


def _rounded(values: Tensor) -> list[float | None]:
    return [_round(value) for value in values.tolist()]


def _round(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
