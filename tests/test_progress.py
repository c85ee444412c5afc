from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Task

from tessera import progress
from tessera.progress import ConsoleObserver

EVALUATION = {
    "kind": "eval", "step": 0, "label": "base", "split": "test", "seconds": 3.4,
    "accuracy/value": 0.25, "accuracy/ci_low": 0.1, "accuracy/ci_high": 0.4, "accuracy/n": 40,
}  # fmt: skip


def rl_row(step: int, reward: float | None = 0.5) -> dict[str, Any]:
    return {"kind": "rl", "step": step, "seconds": 2.0 * step, "reward/mean": reward,
            "tokens/contributing_per_example": 83.4}  # fmt: skip


def observed(terminal: bool) -> tuple[ConsoleObserver, StringIO]:
    out = StringIO()
    return ConsoleObserver(Console(file=out, force_terminal=terminal, width=120)), out


def test_without_a_terminal_there_are_plain_lines_every_tenth_step_and_at_the_end() -> None:
    observer, out = observed(terminal=False)
    with observer:
        observer.message("stage [b]rl[/b]: rl, up to 12 steps")
        observer.row(EVALUATION)
        for step in range(1, 13):
            observer.row(rl_row(step))
            observer.progress("rl", step, 12)
    assert out.getvalue().splitlines() == [
        "stage [b]rl[/b]: rl, up to 12 steps",  # text is text, not markup
        "base: test accuracy 25.0% (10.0% to 40.0%, n = 40) at 3 s",
        "rl 10/12: reward 0.500, 83 tokens an example at 20 s",
        "rl 12/12: reward 0.500, 83 tokens an example at 24 s",
    ]


def test_a_validation_in_the_middle_is_named_by_its_step() -> None:
    observer, out = observed(terminal=False)
    observer.row({**EVALUATION, "label": None, "split": "validation", "step": 7})
    assert out.getvalue() == "step 7: validation accuracy 25.0% (10.0% to 40.0%, n = 40) at 3 s\n"


def test_a_step_whose_rewards_all_failed_has_no_reward() -> None:
    observer, out = observed(terminal=False)
    observer.row(rl_row(1, reward=None))
    observer.progress("rl", 1, 1)
    assert "reward -, 83 tokens an example" in out.getvalue()


def test_a_supervised_step_shows_its_loss() -> None:
    observer, out = observed(terminal=False)
    observer.row({"kind": "sft", "step": 1, "seconds": 1.0, "loss": 0.12345})
    observer.progress("sft", 1, 1)
    assert out.getvalue() == "sft 1/1: loss 0.123 at 1 s\n"


def test_on_a_terminal_a_bar_shows_where_the_stage_is(monkeypatch: pytest.MonkeyPatch) -> None:
    observer, out = observed(terminal=True)
    assert observer.bar is not None
    clock = iter(range(0, 1000, 4))  # every look at the clock is four seconds later
    monkeypatch.setattr(observer.bar, "get_time", lambda: float(next(clock)))
    with observer:
        for step in range(1, 4):
            observer.row(rl_row(step))
            observer.progress("rl", step, 8)
        observer.bar.refresh()
    shown = out.getvalue()
    assert "3/8" in shown
    assert "reward 0.500, 83 tokens an example" in shown
    assert "s/step" in shown
    assert shown.endswith("\x1b[2K")  # the last thing it does is to wipe its line


def test_the_next_stage_takes_the_bar_over() -> None:
    observer, _ = observed(terminal=True)
    assert observer.bar is not None
    observer.progress("sft", 5, 5)
    observer.progress("rl", 1, 9)
    assert [(task.description, task.completed, task.total) for task in observer.bar.tasks] == [("rl", 1, 9)]


@pytest.mark.parametrize(
    ("speed", "shown"), [(None, ""), (0.0, ""), (2.25, "2.2 steps/s"), (0.25, "4.0 s/step"), (1.0, "1.0 steps/s")]
)
def test_the_rate_is_in_the_unit_that_reads_best(speed: float | None, shown: str) -> None:
    class At(Task):
        speed = property(lambda self: given)  # type: ignore[assignment]

    given = speed
    task = At(id=0, description="", total=2, completed=1, _get_time=lambda: 0.0)  # type: ignore[arg-type]
    assert progress._Rate().render(task).plain == shown
