"""Folders appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tessera.core.errors import UserError
from tessera.policy.folders import refuse_taken, whole_folder


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_folder_appears_only_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "model"
    with whole_folder(target, replace=False) as aside:
        (aside / "a").write_text("1")
        assert not target.exists()
    assert (target / "a").read_text() == "1"
    assert _names(target.parent) == ["model"]


@pytest.mark.parametrize("replace", [True, False])
def test_an_error_leaves_what_was_there(tmp_path: Path, replace: bool) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").write_text("kept")
    with pytest.raises(KeyboardInterrupt), whole_folder(target, replace=replace) as aside:
        (aside / "half").write_text("")
        raise KeyboardInterrupt
    assert _names(tmp_path) == ["model"]
    assert _names(target) == ["old"]


def test_replace_drops_every_file_of_the_older_folder(tmp_path: Path) -> None:
    target = tmp_path / "model"
    for name in ("first", "second"):
        with whole_folder(target, replace=True) as aside:
            (aside / name).write_text(name)
    assert _names(target) == ["second"]
    assert _names(tmp_path) == ["model"]


def test_without_replace_the_first_of_two_writers_wins(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with whole_folder(target, replace=False) as late:
        (late / "late").write_text("")
        with whole_folder(target, replace=False) as early:
            (early / "early").write_text("")
    assert _names(target) == ["early"]
    assert _names(tmp_path) == ["model"]


def test_a_rename_that_fails_for_another_reason_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="disk full"), whole_folder(tmp_path / "model", replace=False):
        pass
    assert _names(tmp_path) == []


def test_a_folder_that_appears_at_the_last_moment_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "model"
    rename = Path.rename

    def overtaken(self: Path, other: Path) -> Path:
        target.mkdir()
        (target / "theirs").write_text("")
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", overtaken)
    with whole_folder(target, replace=False) as aside:
        (aside / "ours").write_text("")
    assert _names(target) == ["theirs"]
    assert _names(tmp_path) == ["model"]


def test_a_folder_is_taken_unless_a_model_may_be_replaced(tmp_path: Path) -> None:
    target = tmp_path / "model"
    refuse_taken(target, force=False)
    target.mkdir()
    with pytest.raises(UserError, match="is there already"):
        refuse_taken(target, force=False)
    with pytest.raises(UserError, match="replaces the folder of a model or an adapter"):
        refuse_taken(target, force=True)
    (target / "adapter_config.json").touch()
    refuse_taken(target, force=True)
