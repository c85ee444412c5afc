"""Checkpoints: everything a run needs to go on bit for bit, in a folder that appears whole or not at all.

A checkpoint is written aside, forced to disk and renamed. Its manifest holds size and SHA-256 of every file; a folder
whose files do not match is damaged and is passed over with a warning. One writer at a time: the run folder's lock.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
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

MANIFEST, STATE, OPTIMIZER = "manifest.json", "state.json", "optimizer.pt"
_NAME = re.compile(r"step-\d{8}-stage-\d{2}")


@dataclass
class Checkpoint:
    """`state` is JSON; `tensors` are flat dictionaries by name (adapter, reference, best); `optimizer` torch's own."""

    state: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]
    optimizer: dict[str, Any] = field(default_factory=dict)

    def release(self) -> None:
        """Let go of the tensors, where they have been taken over: with all weights they are several times the model."""
        self.tensors.clear()
        self.optimizer.clear()


def save(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write `folder/step-NNNNNNNN-stage-NN` and delete all but the newest `keep`.

    A whole one of that name stays: a run is at a step once, and replacing it would leave a moment without any. On a
    full disk: RunStopped, and older checkpoints are intact.
    """
    target = folder / f"step-{checkpoint.state['step']:08d}-stage-{checkpoint.state['stage']:02d}"
    with stops_run(target):
        folder.mkdir(parents=True, exist_ok=True)
        if _fault(target) is not None:
            with whole_folder(target, replace=True) as aside:
                _write(aside, checkpoint)
            _sync(folder)
        _tidy(folder, target, keep)
    return target


@contextmanager
def stops_run(target: Path) -> Iterator[None]:
    """Turn the error of a failed write of `target` into the one line of a RunStopped."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have their own for failed writes
        why = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise RunStopped(f"could not save {target}: {why}; checkpoints are intact, go on with --resume") from error


def newest(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint of `folder`, or None. Damaged ones are named in a warning and left alone."""
    for path in _steps(folder):
        fault = _fault(path)
        if fault is None:
            return _read(path)
        log.warning("checkpoint %s is damaged (%s): trying an older one", path, fault)
    return None


def _steps(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, reverse=True)


def _tidy(folder: Path, target: Path, keep: int) -> None:
    """Remove what writers that died left aside, damaged checkpoints that the run went back behind, and old ones."""
    steps = _steps(folder)
    ahead = [path for path in steps if path.name > target.name]
    for path in (*folder.glob(".step-*"), *ahead, *steps[len(ahead) :][keep:]):
        shutil.rmtree(path)


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    for name, tensors in checkpoint.tensors.items():
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / f"{name}.safetensors")
    torch.save(checkpoint.optimizer, folder / OPTIMIZER)
    (folder / STATE).write_text(json.dumps(checkpoint.state), encoding="utf-8")
    files = {path.name: _entry(path) for path in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps(files, indent=2), encoding="utf-8")
    for path in folder.iterdir():
        _sync(path)
    _sync(folder)


def _read(folder: Path) -> Checkpoint:
    return Checkpoint(
        state=json.loads((folder / STATE).read_text(encoding="utf-8")),
        tensors={path.stem: load_file(path) for path in sorted(folder.glob("*.safetensors"))},
        # On the CPU, whatever wrote it: each process moves its own to its own device, which may be of another kind.
        optimizer=torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True),
    )


def _fault(folder: Path) -> str | None:
    """What keeps `folder` from being a whole checkpoint, or None."""
    try:
        told = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if not isinstance(told, dict):
            return f"{MANIFEST} is no mapping"
        for name in sorted({*told, STATE, OPTIMIZER}):
            if told.get(name) != _entry(folder / name):
                return f"{name} is not what was written"
    except ValueError as error:
        return f"{MANIFEST} cannot be read: {' '.join(str(error).split())}"
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return None


def _entry(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
