"""Checkpoints: everything a run needs to go on bit for bit, in a folder that appears whole or not at all.

A checkpoint is written aside, forced to disk and renamed. Its manifest holds size and SHA-256 of every file; a folder
whose files do not match is torn and is passed over with a warning.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tessera.core.errors import RunStopped
from tessera.policy.folders import whole_folder

log = logging.getLogger("tessera")

MANIFEST = "manifest.json"
_NAME = re.compile(r"step-\d{8}-stage-\d{2}")


@dataclass
class Checkpoint:
    """`tensors` by name (adapter, reference, best), each a flat dictionary; `optimizer` as torch state; `state` JSON."""

    state: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]
    optimizer: dict[str, Any] = field(default_factory=dict)


def save(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write `folder/step-NNNNNNNN-stage-NN` and delete all but the newest `keep`.

    On a full disk: RunStopped, and older checkpoints are intact.
    """
    target = folder / f"step-{checkpoint.state['step']:08d}-stage-{checkpoint.state['stage']:02d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with whole_folder(target, replace=True) as aside:
            _write(aside, checkpoint)
        _sync(folder)
        for old in _steps(folder)[keep:]:
            shutil.rmtree(old)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have their own for failed writes
        why = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise RunStopped(f"could not save {target}: {why}; older checkpoints are intact, go on with --resume") from error
    return target


def newest(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint of `folder`, or None. Torn ones are named in a warning and left alone."""
    for path in _steps(folder):
        fault = _fault(path)
        if fault is None:
            return _read(path)
        log.warning("checkpoint %s is torn (%s): trying an older one", path, fault)
    return None


def _steps(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, reverse=True)


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    for name, tensors in checkpoint.tensors.items():
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / f"{name}.safetensors")
    torch.save(checkpoint.optimizer, folder / "optimizer.pt")
    (folder / "state.json").write_text(json.dumps(checkpoint.state), encoding="utf-8")
    files = {path.name: {"bytes": path.stat().st_size, "sha256": _digest(path)} for path in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps(files, indent=2), encoding="utf-8")
    for path in folder.iterdir():
        _sync(path)
    _sync(folder)


def _read(folder: Path) -> Checkpoint:
    return Checkpoint(
        state=json.loads((folder / "state.json").read_text(encoding="utf-8")),
        tensors={path.stem: load_file(path) for path in sorted(folder.glob("*.safetensors"))},
        optimizer=torch.load(folder / "optimizer.pt", weights_only=True),
    )


def _fault(folder: Path) -> str | None:
    try:
        files: Mapping[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"{MANIFEST}: {error}"
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != entry["bytes"] or _digest(path) != entry["sha256"]:
            return f"{name} is damaged"
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
