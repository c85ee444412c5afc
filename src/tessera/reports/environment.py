"""What a run ran on."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from typing import Any

DISTRIBUTIONS = {"tessera": "tessera-rl", "torch": "torch", "transformers": "transformers", "peft": "peft"}


def environment() -> dict[str, Any]:
    """Versions (null: not installed), platform, CPU cores, and the git commit of the working directory."""
    return {
        "python": platform.python_version(),
        **{name: _version(distribution) for name, distribution in DISTRIBUTIONS.items()},
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "git": git_state(),
    }


def git_state() -> dict[str, Any] | None:
    """Commit, and whether a tracked file differs from it; None outside a repository."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "dirty": bool(_git("status", "--porcelain", "--untracked-files=no"))}


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
