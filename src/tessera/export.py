"""What `tessera export` does: a run's model in a folder with its card, to keep or to give away."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tessera import hub
from tessera.core.errors import UserError
from tessera.policy.adapters import CONFIG_FILE, WEIGHTS_FILE
from tessera.policy.embedded import EMBEDDED
from tessera.policy.folders import refuse_taken, whole_folder
from tessera.policy.gguf_export import write_gguf
from tessera.policy.load import ModelConfig
from tessera.policy.merging import load_merged, save_model
from tessera.policy.prompting import read_template
from tessera.policy.sources import load_tokenizer, locate
from tessera.reports.card import Base, render
from tessera.reports.run import RunFolder
from tessera.subject import Subject, read_subject


@dataclass(frozen=True)
class Wanted:
    """What to export of the run `source` into the folder `out`.

    The adapter alone, or with `merged` the whole weights; with `gguf` a GGUF file of these as well. `push` names a
    model repository of the hub, `public` makes it a public one when it is new.
    """

    source: str
    overrides: Sequence[str]
    out: Path
    merged: bool = False
    gguf: bool = False
    push: str | None = None
    public: bool = False
    force: bool = False


def export(wanted: Wanted) -> str | None:
    """Write the folder, and upload it when asked; returns its address on the hub, None where it was not.

    Raises UserError for a source that is no finished run, for what cannot be merged or written, and for an upload
    without a login, the latter before anything is written.
    """
    subject = read_subject(wanted.source, wanted.overrides, asks=False)
    if subject.run is None:
        raise UserError(f"{wanted.source} is no run: export takes the folder of a finished run")
    refuse_taken(wanted.out, wanted.force)
    if wanted.push is not None:
        hub.logged_in()
    with whole_folder(wanted.out, replace=wanted.force) as aside:
        files = _weights(subject, wanted, aside)
        _papers(subject, wanted, aside, files)
    return None if wanted.push is None else hub.push(wanted.out, wanted.push, private=not wanted.public)


def _weights(subject: Subject, wanted: Wanted, folder: Path) -> list[str]:
    """Write what was trained, and return the names of files beside it."""
    whole = _is_whole(subject, wanted)
    if not whole:
        _adapter(subject.model, folder)
    if not (whole or wanted.gguf):
        return []
    model, tokenizer = load_merged(subject.model)
    if whole:
        save_model(model, tokenizer, folder)
    if not wanted.gguf:
        return []
    # In a folder of its own: beside an adapter, transformers would look for it with the adapter's base.
    name = f"gguf/{subject.label}.gguf"
    (folder / "gguf").mkdir()
    write_gguf(model, tokenizer, folder / name, subject.label)
    return [name]


def _is_whole(subject: Subject, wanted: Wanted) -> bool:
    """Whether whole weights are written: asked for, or all there is of a run without adapter."""
    return wanted.merged or subject.model.adapter is None


def _adapter(model: ModelConfig, folder: Path) -> None:
    """Copy the adapter, with the base's name in place of where it lay on this machine; and write its tokenizer."""
    saved = Path(str(model.adapter))
    shutil.copyfile(saved / WEIGHTS_FILE, folder / WEIGHTS_FILE)
    config = json.loads((saved / CONFIG_FILE).read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = _base(model).hub or model.name
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tokenizer = load_tokenizer(model.name, revision=model.revision, trust_remote_code=model.trust_remote_code)
    if model.chat_template is not None:
        tokenizer.chat_template = read_template(model.chat_template)
    tokenizer.save_pretrained(folder)


def _papers(subject: Subject, wanted: Wanted, folder: Path, files: Sequence[str]) -> None:
    run = RunFolder.open(Path(wanted.source))
    summary = run.summary()
    if summary is not None:
        shutil.copyfile(run.path / "summary.json", folder / "summary.json")
    recipe: dict[str, Any] = yaml.safe_load(run.recipe_text())
    card = render(
        subject.label,
        _base(ModelConfig.model_validate(recipe["model"])),  # for a run without adapter the subject is the result
        recipe,
        summary,
        run.environment(),
        merged=_is_whole(subject, wanted),
        files=files,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _base(model: ModelConfig) -> Base:
    """What is known of a base without a network."""
    if model.name in EMBEDDED:
        embedded = EMBEDDED[model.name]
        return Base(model.name, embedded.hub, embedded.licence)
    place = locate(model.name, model.revision)
    if place is None:
        card = hub.cached_card(model.name, model.revision)
        return Base(model.name, model.name, None if card is None else hub.licence_of(card))
    return Base(place.name, None, hub.licence_of(place / "README.md"))
