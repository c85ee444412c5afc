"""What the stages of a run say of one another, settled before it starts: names, files, and what would do nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tessera.core.errors import UserError, unknown
from tessera.policy.adapters import CONFIG_FILE
from tessera.policy.reference import KINDS
from tessera.tasks.data import locate
from tessera.training.settings import EvalStage, HarvestSettings, RLStage, SFTStage, Stage


def settle(stages: Sequence[Stage], folder: Path | None) -> tuple[Stage, ...]:
    """`stages` with their files found, in the working directory or in `folder`, and their harvests' stages named.

    Raises UserError for a file that is not there, a harvest from no RL stage before, or an optimiser that has nothing
    to carry on with.
    """
    found = []
    for index, stage in enumerate(stages):
        before = [s for s in stages[:index] if not isinstance(s, EvalStage)]
        if isinstance(stage, SFTStage | RLStage) and stage.optimizer.carry:
            _check_carried(stage, before[-1] if before else None)
        found.append(_settled(stage, before, folder))
    return tuple(found)


def harvests(stages: Iterable[Stage]) -> dict[str, list[HarvestSettings]]:
    """By the name of an RL stage, what settled `stages` harvest from it."""
    found: dict[str, list[HarvestSettings]] = {}
    for stage in stages:
        if isinstance(stage, SFTStage) and stage.harvest is not None:
            found.setdefault(str(stage.harvest.stage), []).append(stage.harvest)
    return found


def last_trained(stages: Sequence[Stage]) -> int:
    """The index of the last stage that trains."""
    return max(index for index, stage in enumerate(stages) if not isinstance(stage, EvalStage))


def _settled(stage: Stage, before: Sequence[Stage], folder: Path | None) -> Stage:
    changes: dict[str, object] = {}
    if isinstance(stage, SFTStage):
        if stage.data is not None:
            changes["data"] = locate(stage.data, folder)
        if stage.harvest is not None:
            changes["harvest"] = stage.harvest.model_copy(update={"stage": _source(stage, stage.harvest, before)})
    if isinstance(stage, RLStage) and stage.reference not in KINDS:
        changes["reference"] = _adapter(stage, folder)
    return stage.model_copy(update=changes)


def _source(stage: SFTStage, harvest: HarvestSettings, before: Sequence[Stage]) -> str:
    names = [s.name for s in before if isinstance(s, RLStage)]
    if not names:
        raise UserError(f"stage {stage.name} harvests, and no rl stage comes before it")
    if harvest.stage is not None and harvest.stage not in names:
        raise unknown(f"rl stage in harvest.stage of {stage.name}", harvest.stage, names)
    return harvest.stage or names[-1]


def _adapter(stage: RLStage, folder: Path | None) -> str:
    places = [Path(stage.reference).expanduser(), *([] if folder is None else [folder / stage.reference])]
    found = next((place for place in places if (place / CONFIG_FILE).is_file()), None)
    if found is None:
        raise UserError(
            f"stage {stage.name}: reference {stage.reference!r} is neither {' nor '.join(KINDS)} nor the folder of a "
            "saved adapter"
        )
    return str(found)


def _check_carried(stage: SFTStage | RLStage, last: Stage | None) -> None:
    if not isinstance(last, SFTStage | RLStage):
        raise UserError(f"stage {stage.name}: optimizer.carry needs a stage before it that trains")
    if last.optimizer.kind != stage.optimizer.kind:
        raise UserError(
            f"stage {stage.name}: optimizer.carry cannot take the moments of {last.optimizer.kind} into "
            f"{stage.optimizer.kind}"
        )
