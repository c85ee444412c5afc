"""What a run remembers between steps, apart from tensors: plain data, saved in every checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class RunState:
    """Where a run stands.

    `step` counts the steps of all stages; `stage_step` those of stage `stage` (an index). `evaluated` holds, by label
    and in order, which test problems were solved. `best` is the best validation accuracy of the stage with its step.
    `rewards` are the stage's mean rewards so far, for the plateau rule. `files` are the sizes of the row files, so
    that rows written after the checkpoint can be dropped. `stopped` says why the stage ended early. `unjudged` is set
    between a step and what is looked at after it, such as validation. `records` say of every stage so far what it
    worked with: reference policy, what it learnt.
    """

    step: int = 0
    stage: int = 0
    stage_step: int = 0
    seconds: float = 0.0
    stopped: str | None = None
    unjudged: bool = False
    best: dict[str, float] | None = None
    rewards: list[float] = field(default_factory=list)
    evaluated: dict[str, list[bool]] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)

    def next_stage(self) -> None:
        """Forget what belongs to the stage that ended."""
        self.stage, self.stage_step = self.stage + 1, 0
        self.stopped, self.unjudged, self.best, self.rewards = None, False, None, []

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunState:
        """Take over what `to_json` returned."""
        return cls(**data)
