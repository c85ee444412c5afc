"""Two processes that take turns: a side of a comparison runs alone, and answers one wish at a time over its pipes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MARK = "answer: "


def asked() -> Iterator[dict[str, Any]]:
    """In a side's process: the wishes, until there are no more."""
    for line in sys.stdin:
        yield json.loads(line)


def answer(what: Any) -> None:
    """In a side's process: the answer to the last wish."""
    print(MARK + json.dumps(what), flush=True)


class Side:
    """A script of this folder in a process of its own; it says "ready" when its model is loaded."""

    def __init__(self, script: str, *arguments: str) -> None:
        command = [sys.executable, str(Path(__file__).parent / script), *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()

    def ask(self, **wish: Any) -> Any:
        """Send a wish and wait for its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(wish) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(MARK):
                return json.loads(line.removeprefix(MARK))
        raise SystemExit(f"{' '.join(map(str, self.process.args))} ended without an answer")  # type: ignore[arg-type]
