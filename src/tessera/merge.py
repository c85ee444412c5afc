"""What `tessera merge` does: a run's adapter into the weights of its base, as a model folder of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tessera.core.errors import UserError
from tessera.policy.folders import refuse_taken, whole_folder
from tessera.policy.merging import load_merged, save_model
from tessera.subject import read_subject


def merge(source: str, overrides: Sequence[str], out: Path, *, force: bool = False) -> Path:
    """Write the model of the run `source` with its adapter in its weights into the folder `out`, and return it.

    `source` may also be a model with the override `model.adapter=FOLDER`. UserError where there is no adapter, where
    the base is quantised, and where `out` is there and `force` is not.
    """
    subject = read_subject(source, overrides, asks=False)
    if subject.model.adapter is None:
        if subject.run is not None:
            raise UserError(f"{source} has no adapter to merge: its whole weights are in {subject.model.name}")
        raise UserError(f"{source} has no adapter to merge: give the folder of a finished run, or model.adapter=FOLDER")
    refuse_taken(out, force)
    model, tokenizer = load_merged(subject.model)
    with whole_folder(out, replace=force) as aside:
        save_model(model, tokenizer, aside)
    return out
