"""What a person sees while a run goes on: a bar with rate and ETA on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tessera.training.context import Observer

EVERY = 10  # steps between lines where there is no terminal


class ConsoleObserver(Observer):
    """Prints evaluations and stage changes; shows a bar on a terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar: Progress | None = None
        self.task: Any = None
        self.stage = ""
        if console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )

    def __enter__(self) -> ConsoleObserver:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar off the screen."""
        if self.bar:
            self.bar.stop()

    def message(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, highlight=False, markup=False)

    def row(self, row: Mapping[str, Any]) -> None:
        """Print an evaluation; note the newest numbers of a step."""
        if row["kind"] == "eval":
            what = row.get("label") or f"step {row['step']}"
            low, high = row["accuracy/ci_low"], row["accuracy/ci_high"]
            accuracy = f"{row['accuracy/value']:.1%} ({low:.1%} to {high:.1%}, n = {row['accuracy/n']})"
            self.message(f"{what}: {row['split']} accuracy {accuracy} at {row['seconds']:.0f} s")
        elif self.bar is not None and self.task is not None:
            self.bar.update(self.task, note=_note(row))
        elif self.bar is None and row["step"] % EVERY == 0:
            self.message(f"step {row['step']} ({row['stage']}): {_note(row)} at {row['seconds']:.0f} s")

    def progress(self, what: str, done: int, total: int) -> None:
        """Move the stage's bar."""
        if self.bar is None:
            return
        if what != self.stage:
            if self.task is not None:
                self.bar.remove_task(self.task)
            self.stage, self.task = what, self.bar.add_task(what, total=total, note="")
        self.bar.update(self.task, completed=done)


def _note(row: Mapping[str, Any]) -> str:
    if row["kind"] == "sft":
        return f"loss {row['loss']:.3f}"
    reward = row["reward/mean"]
    tokens = row["tokens/contributing_per_example"]
    return f"reward {'-' if reward is None else f'{reward:.3f}'}, {tokens:.0f} contributing tokens an example"
