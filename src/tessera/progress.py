"""What a person sees while a run goes on: a bar with rate and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from tessera.training.context import Observer

EVERY = 10  # steps between lines where there is no terminal
RATE_SECONDS = 1800  # the rate is taken over the last half hour: a step may take minutes


class ConsoleObserver(Observer):
    """Prints evaluations and stage changes; shows a bar on a terminal, a line every few steps elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.note = ""
        self.seconds = 0.0
        self.bar = _bar(console) if console.is_terminal else None
        self.task = None if self.bar is None else self.bar.add_task("starting", total=None, note="")

    def __enter__(self) -> ConsoleObserver:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar off the screen."""
        if self.bar:
            self.bar.stop()

    def message(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def row(self, row: Mapping[str, Any]) -> None:
        """Print an evaluation; keep the newest numbers of a step."""
        self.seconds = row["seconds"]
        if row["kind"] == "eval":
            low, high = row["accuracy/ci_low"], row["accuracy/ci_high"]
            accuracy = f"{row['accuracy/value']:.1%} ({low:.1%} to {high:.1%}, n = {row['accuracy/n']})"
            what = row.get("label") or f"step {row['step']}"
            self.message(f"{what}: {row['split']} accuracy {accuracy} at {self.seconds:.0f} s")
        else:
            self.note = _note(row)

    def progress(self, what: str, done: int, total: int) -> None:
        """Move the stage's bar, or print a line now and then."""
        if self.bar is not None:
            self._move(self.bar, what, done, total)
        elif done % EVERY == 0 or done == total:
            self.message(f"{what} {done}/{total}: {self.note} at {self.seconds:.0f} s")

    def _move(self, bar: Progress, what: str, done: int, total: int) -> None:
        if self.task is not None and bar.tasks[-1].description != what:
            bar.remove_task(self.task)
            self.task = bar.add_task(what, total=total, completed=done, note=self.note)
        elif self.task is not None:
            bar.update(self.task, completed=done, note=self.note)


class _Rate(ProgressColumn):
    """Steps a second, or seconds a step."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.1f} steps/s" if speed >= 1 else f"{1 / speed:.1f} s/step")


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        expand=True,
        speed_estimate_period=RATE_SECONDS,
        redirect_stderr=sys.stderr.isatty(),
    )


def _note(row: Mapping[str, Any]) -> str:
    if row["kind"] == "sft":
        return f"loss {row['loss']:.3f}"
    reward = row["reward/mean"]
    tokens = row["tokens/contributing_per_example"]
    return f"reward {'-' if reward is None else f'{reward:.3f}'}, {tokens:.0f} tokens an example"
