"""Groups as plain data, for a checkpoint, and back: equal in every number, without what an engine kept of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ConfigDict, TypeAdapter

from tessera.core.types import Group, Problem, Rollout

_ROLLOUTS = TypeAdapter(tuple[Rollout, ...], config=ConfigDict(ser_json_inf_nan="constants"))


def to_plain(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """What JSON can hold of `groups`; of a problem its id."""
    return [
        {
            "problem_id": group.problem.id,
            "prompt_ids": list(group.prompt_ids),
            "prefix_sampled": list(group.prefix_sampled),
            "rollouts": _ROLLOUTS.dump_python(group.rollouts, mode="json", exclude={"__all__": {"trunk"}}),
        }
        for group in groups
    ]


def from_plain(data: Sequence[Mapping[str, Any]], problems: Mapping[str, Problem]) -> list[Group]:
    """The groups again, their problems looked up by id."""
    return [
        Group(
            problems[told["problem_id"]],
            tuple(told["prompt_ids"]),
            _ROLLOUTS.validate_python(told["rollouts"]),
            tuple(told["prefix_sampled"]),
        )
        for told in data
    ]
