"""Penalties added to the task's reward before training sees it."""

from __future__ import annotations

from dataclasses import replace

from tessera.core.types import Group, Rollout


def overlong(group: Group, start: int, limit: int, buffer: int, penalty: float) -> Group:
    """DAPO's soft overlong punishment (arXiv:2503.14476, Eq. 13), added to every reward as the component `overlong`.

    A completion of n tokens (`start` of them its replayed prefix) loses nothing up to limit - buffer, then linearly
    more, and `penalty` at the limit.
    """
    return replace(group, rollouts=tuple(_shaped(r, start, limit, buffer, penalty) for r in group.rollouts))


def _shaped(rollout: Rollout, start: int, limit: int, buffer: int, penalty: float) -> Rollout:
    if rollout.reward is None:
        return rollout
    beyond = start + rollout.written - (limit - buffer)
    lost = penalty * min(max(beyond / buffer, 0.0), 1.0)
    components = {**rollout.components, "overlong": -lost}
    return replace(rollout, reward=rollout.reward - lost, components=components, unshaped=rollout.reward)
