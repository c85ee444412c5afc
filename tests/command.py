"""Running the command line in tests: in this process (quick), or as a program of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tessera import cli

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "COLUMNS": "120"}


class Outcome(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


def tessera(*arguments: str | Path) -> Outcome:
    """`tessera ARGUMENTS` through the entry point of the real command."""
    out, err = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["tessera", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
    return Outcome(int(left.value.code or 0), out.getvalue(), err.getvalue())


def spawn(*arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    """The same as a program of its own, its output in pipes; an interrupt reaches it even if our shell ignores it."""
    return subprocess.Popen(
        [sys.executable, "-m", "tessera.cli", *map(str, arguments)],
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options},
        env={**os.environ, **ENVIRONMENT},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def write_recipe(path: Path, model: Path, **changes: Any) -> Path:
    """A recipe of seconds for the tiny model: one-digit sums, one RL stage of two steps. `changes` are top keys."""
    recipe: dict[str, Any] = {
        "seed": 1,
        "model": {"name": str(model), "device": "cpu", "lora": {"rank": 4, "alpha": 8, "last_fraction": "1/2"}},
        "task": {"name": "arithmetic", "digits": 1, "train_size": 8, "validation_size": 4, "test_size": 6},
        "stages": [rl_stage()],
        "evaluation": {"max_new_tokens": 4},
    }
    path.write_text(yaml.safe_dump({**recipe, **changes}, sort_keys=False), encoding="utf-8")
    return path


def rl_stage(**changes: Any) -> dict[str, Any]:
    """An RL stage of two steps with four completions of at most six tokens each."""
    stage = {"kind": "rl", "algorithm": "grpo", "steps": 2, "group_size": 4, "max_new_tokens": 6}
    return {**stage, "sentinels": {"truncation_rate": 1.0}, **changes}


# A user's own task, graded by the order of the calls, so that groups always differ in their rewards.
COUNTING = '''
from tessera.core.types import Problem


class Counting:
    """Every `fails`-th completion has no reward (0: all have one); the others earn 0, 1, 0, 1, ..."""

    def __init__(self, fails: int = 0, how: str = "raises", tests: int = 0) -> None:
        self.calls, self.fails, self.how, self.tests = 0, fails, how, tests

    def problems(self, split):
        count = {"train": 6, "validation": 0, "test": self.tests}[split]
        return [Problem(f"{split}-{i}", f"{split} {i} =", i) for i in range(count)]

    def reward(self, problem, text):
        self.calls += 1
        if self.fails and self.calls % self.fails == 0:
            if self.how == "raises":
                raise ValueError("the grader broke")
            return float("nan")
        return float(self.calls % 2)
'''


def files(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` with its content, locks left out; folders have none."""
    found = (path for path in sorted(folder.rglob("*")) if path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in found}
