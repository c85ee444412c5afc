"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tessera.core.errors import UserError


@contextmanager
def whole_folder(target: Path, *, replace: bool) -> Iterator[Path]:
    """Yield an empty folder beside `target` and rename it to `target` when the block ends without an error.

    With `replace`, an older `target` gives way; without it, an older one stays and the new one is dropped (two
    processes that build the same thing at once: the first to finish wins). On an error nothing is left behind.
    """
    aside = _sibling(target)
    aside.mkdir(parents=True)
    try:
        yield aside
        if replace and target.exists():
            _exchange(aside, target)
        elif not target.exists():
            _rename_unless_taken(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def refuse_taken(target: Path, force: bool) -> None:
    """Raise UserError when `target` is there and `force` is not, or when it is no model's or adapter's folder."""
    if not target.exists():
        return
    if not force:
        raise UserError(f"{target} is there already: give another --out, or --force to replace it")
    if not any((target / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise UserError(f"--force replaces the folder of a model or an adapter, and {target} is none")


def _sibling(target: Path) -> Path:
    return target.with_name(f".{target.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}")


def _exchange(new: Path, target: Path) -> None:
    old = _sibling(target)
    target.rename(old)
    new.rename(target)
    shutil.rmtree(old)


def _rename_unless_taken(new: Path, target: Path) -> None:
    try:
        new.rename(target)
    except OSError:
        if not target.exists():  # a real failure, not another process that was faster
            raise
