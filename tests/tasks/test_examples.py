"""Every registered task can be tried on rows made up for it, and grades them as it should."""

from __future__ import annotations

from pathlib import Path

import pytest

from tessera.tasks import examples
from tessera.tasks.examples import COUNT, example, missing
from tessera.tasks.registry import TASKS, load_task
from tessera.tasks.validate import validate_task


@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_task_is_sound_on_its_example(tmp_path: Path, name: str) -> None:
    if missing(name):
        pytest.skip(f"needs {missing(name)}")
    loaded = load_task(example(name, tmp_path))
    report = validate_task(loaded, sample=5, size=10_000)
    assert report.ok, str(report)
    graded = {check.name for check in report.checks if check.ok}
    assert {f"{split}: {what}" for split in ("train", "test") for what in (
        "gold answers earn full marks", "corrupted answers do not")} <= graded  # fmt: skip
    if any(tmp_path.iterdir()):
        assert (len(loaded.train), len(loaded.test)) == (COUNT, COUNT)


def test_rows_by_hand(tmp_path: Path) -> None:
    first = load_task(example("gsm8k", tmp_path)).train[0]
    assert first.id == "made-2" and first.answer in (6, "6")  # 2 pens at 3 coins
    assert [p.answer for p in load_task(example("svamp", tmp_path)).test] == [11, 12, 13, 14, 15, 16]  # 8 + 3, ...


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "find_spec", lambda name: None)
    assert (missing("math"), missing("svamp")) == ("math_verify", None)
