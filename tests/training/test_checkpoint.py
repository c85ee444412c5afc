"""Checkpoints: whole or not there, whatever happens to the disk and to the writer."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tessera.core.errors import RunStopped
from tessera.training import checkpoint
from tessera.training.checkpoint import Checkpoint, newest, save


def made(step: int, stage: int = 0, size: int = 4, **state: Any) -> Checkpoint:
    tensors = {"adapter": {"a": torch.arange(size) + 0.1 * step}, "best": {"a": torch.full((2,), 1 / 3)}}
    optimizer = {
        "state": {0: {"exp_avg": torch.full((3,), 0.1), "step": torch.tensor(2.0)}},
        "param_groups": [{"lr": 0.1}],
    }
    return Checkpoint({"step": step, "stage": stage, **state}, tensors, optimizer)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def name(step: int, stage: int = 0) -> str:
    return f"step-{step:08d}-stage-{stage:02d}"


def test_what_was_saved_is_read_bit_for_bit(tmp_path: Path) -> None:
    saved = made(3, stage=1, rewards=[0.1, 1 / 3], runner={"replay": [{"ids": (1, 2), "reward": 0.5}]})
    assert save(tmp_path, saved, keep=2) == tmp_path / name(3, 1)
    found = newest(tmp_path)
    assert found.state == json.loads(json.dumps(saved.state))
    assert found.state["rewards"] == [0.1, 1 / 3]
    assert found.tensors.keys() == {"adapter", "best"}
    for part, tensors in saved.tensors.items():
        assert all(torch.equal(found.tensors[part][key], tensor) for key, tensor in tensors.items())
    assert torch.equal(found.optimizer["state"][0]["exp_avg"], saved.optimizer["state"][0]["exp_avg"])
    assert found.optimizer["param_groups"] == [{"lr": 0.1}]


def test_a_checkpoint_of_another_device_is_read_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as there:
        there.setattr(torch.serialization, "location_tag", lambda storage: "cuda:7")  # what a machine of eight writes
        save(tmp_path, made(1), keep=1)
    moments = newest(tmp_path).optimizer["state"][0]["exp_avg"]
    assert moments.device.type == "cpu" and torch.equal(moments, torch.full((3,), 0.1))


def test_no_folder_and_an_empty_one_hold_none(tmp_path: Path) -> None:
    assert newest(tmp_path / "none") is None
    assert newest(tmp_path) is None


def test_the_newest_is_by_step_then_stage_and_only_some_are_kept(tmp_path: Path) -> None:
    for step, stage in ((2, 0), (9, 0), (10, 0), (10, 1)):
        save(tmp_path, made(step, stage), keep=2)
    assert names(tmp_path) == [name(10, 0), name(10, 1)]
    assert newest(tmp_path).state == {"step": 10, "stage": 1}


def test_a_tensor_that_is_a_view_is_saved(tmp_path: Path) -> None:
    view = torch.arange(12.0).reshape(3, 4).T[1:]
    save(tmp_path, Checkpoint({"step": 0, "stage": 0}, {"adapter": {"a": view}}), keep=1)
    assert torch.equal(newest(tmp_path).tensors["adapter"]["a"], view)


def break_file(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "torn":
        path.write_bytes(data[: len(data) // 2])
    elif how == "flipped":
        path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    else:
        path.write_bytes(data + b"\n")


@pytest.mark.parametrize("how", ["missing", "empty", "torn", "flipped", "longer"])
@pytest.mark.parametrize(
    "file", ["adapter.safetensors", "best.safetensors", "optimizer.pt", "state.json", "manifest.json"]
)
def test_a_damaged_one_is_named_and_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, file: str, how: str
) -> None:
    save(tmp_path, made(2), keep=2)
    save(tmp_path, made(4), keep=2)
    break_file(tmp_path / name(4) / file, how)
    if (file, how) == ("manifest.json", "longer"):  # a newline more is the same JSON
        assert newest(tmp_path).state["step"] == 4
        return
    with caplog.at_level(logging.WARNING, logger="tessera"):
        assert newest(tmp_path).state["step"] == 2
    (message,) = caplog.messages
    assert message.startswith(f"checkpoint {tmp_path / name(4)} is damaged (")
    assert message.endswith("trying an older one")
    assert how == "flipped" or file in message


@pytest.mark.parametrize("manifest", ["{}", "[]", "null", '{"state.json": 3}', '{"state.json": {"bytes": 1}}'])
def test_a_manifest_of_another_form_vouches_for_nothing(tmp_path: Path, manifest: str) -> None:
    save(tmp_path, made(4), keep=2)
    (tmp_path / name(4) / "manifest.json").write_text(manifest)
    assert newest(tmp_path) is None


@given(
    st.sampled_from(["adapter.safetensors", "optimizer.pt", "state.json", "manifest.json"]),
    st.integers(0, 10**6),
    st.integers(1, 255),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_changed_byte_goes_unnoticed(tmp_path: Path, file: str, position: int, change: int) -> None:
    path = tmp_path / name(4) / file
    if not path.exists():
        save(tmp_path, made(4, note="x"), keep=2)
    data = path.read_bytes()
    at = position % len(data)
    path.write_bytes(data[:at] + bytes([data[at] ^ change]) + data[at + 1 :])
    found = newest(tmp_path)
    path.write_bytes(data)
    # A manifest whose white space changed still says the same.
    assert found is None or (file == "manifest.json" and found.state == {"step": 4, "stage": 0, "note": "x"})


def test_what_was_left_aside_by_a_killed_writer_goes_with_the_next_save(tmp_path: Path) -> None:
    save(tmp_path, made(2), keep=2)
    aside = tmp_path / f".{name(4)}.123-abcd"
    aside.mkdir()
    (aside / "adapter.safetensors").write_bytes(b"half")
    assert newest(tmp_path).state["step"] == 2
    save(tmp_path, made(4), keep=2)
    assert names(tmp_path) == [name(2), name(4)]


@pytest.mark.parametrize("keep", [1, 2])
def test_a_damaged_one_ahead_does_not_cost_the_run_its_newest(tmp_path: Path, keep: int) -> None:
    """After a restart from further back, the damaged newer ones are not counted among those to keep."""
    for step in (2, 4, 6):
        save(tmp_path, made(step), keep=3)
    for step in (4, 6):
        (tmp_path / name(step) / "state.json").unlink()
    assert newest(tmp_path).state["step"] == 2
    save(tmp_path, made(3), keep=keep)
    assert names(tmp_path) == [name(2), name(3)][-keep:]
    save(tmp_path, made(4), keep=keep)
    assert newest(tmp_path).state["step"] == 4


def test_a_whole_one_of_the_same_step_is_not_touched_and_a_damaged_one_is_replaced(tmp_path: Path) -> None:
    save(tmp_path, made(4, note="first"), keep=2)
    before = (tmp_path / name(4)).stat().st_ino
    save(tmp_path, made(4, note="again"), keep=2)
    assert (tmp_path / name(4)).stat().st_ino == before
    assert newest(tmp_path).state["note"] == "first"
    (tmp_path / name(4) / "state.json").unlink()
    save(tmp_path, made(4, note="again"), keep=2)
    assert newest(tmp_path).state["note"] == "again"


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "step-notes").mkdir()
    for step in (1, 2):
        save(tmp_path, made(step), keep=1)
    assert names(tmp_path) == [name(2), "step-notes"]


LIMITED = """
import resource, sys
from pathlib import Path
import torch
from tessera.core.errors import RunStopped
from tessera.training.checkpoint import Checkpoint, save
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
for tensor, optimizer, text in ((20_000, 1, 1), (1, 20_000, 1), (1, 1, 80_000)):
    state, tensors = {"step": 4, "stage": 0, "text": "x" * text}, {"adapter": {"a": torch.zeros(tensor)}}
    try:
        save(Path(sys.argv[1]), Checkpoint(state, tensors, {"a": torch.zeros(optimizer)}), keep=1)
    except RunStopped as error:
        print(error)
    print(sorted(path.name for path in Path(sys.argv[1]).iterdir()))
"""


def test_a_write_that_fails_leaves_the_older_one_and_nothing_else(tmp_path: Path) -> None:
    """A limit on the size of files makes the system refuse the rest of a write, as a full disk does: of a tensor file,
    of the optimiser's, and of the state's."""
    save(tmp_path, made(2), keep=1)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[1::2] == [str([name(2)])] * 3
    assert len(lines[::2]) == 3
    for line in lines[::2]:
        assert line.startswith(f"could not save {tmp_path / name(4)}: ")
        assert line.endswith("; checkpoints are intact, go on with --resume")
    assert newest(tmp_path).state["step"] == 2


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunStopped, match=r"could not save .*: (Not a directory|File exists); checkpoints are intact"):
        save(tmp_path / "file" / "checkpoints", made(1), keep=1)


def test_files_are_on_disk_before_the_folder_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    sync = checkpoint._sync

    def watch(path: Path) -> None:
        synced.append(path.name if path.is_file() else "folder")
        assert (tmp_path / name(4)).exists() == (path == tmp_path)
        sync(path)

    monkeypatch.setattr(checkpoint, "_sync", watch)
    save(tmp_path, made(4), keep=1)
    files = ["adapter.safetensors", "best.safetensors", "manifest.json", "optimizer.pt", "state.json"]
    assert sorted(synced[:-2]) == files
    assert synced[-2:] == ["folder", "folder"]  # the new one, then the one that holds its name
