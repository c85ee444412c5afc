"""The commands for what a run has trained, through the real entry point."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest

from command import tessera, write_recipe


def test_merge_is_one_line_either_way(tiny_folder: Path, tmp_path: Path) -> None:
    found = tessera("merge", tiny_folder, "--out", tmp_path / "merged")
    assert (found.code, found.out, found.err.count("\n")) == (2, "", 1)
    assert "has no adapter to merge" in found.err
    assert tessera("merge", tiny_folder).code == 2  # no --out


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_a_recipe_in_few_bits_trains_and_its_adapter_stays_beside_them(
    tiny_folder: Path, tmp_path: Path, bits: str
) -> None:
    pytest.importorskip("bitsandbytes")
    recipe, run = write_recipe(tmp_path / "sums.yaml", tiny_folder), tmp_path / "run"
    assert "weights" in tessera("check", recipe, f"model.quantize={bits}").out
    found = tessera("train", recipe, f"model.quantize={bits}", f"run.dir={run}")
    assert found.code == 0, found.err
    refused = tessera("merge", run, "--out", tmp_path / "merged")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "are quantised" in refused.err and "model.quantize=null" in refused.err
    assert not (tmp_path / "merged").exists()
    merged = tessera("merge", run, "--out", tmp_path / "merged", "model.quantize=null")
    assert merged.code == 0, merged.err
    assert (tmp_path / "merged" / "model.safetensors").is_file()


def test_export_and_chat_from_the_command_line(tiny_folder: Path, tmp_path: Path) -> None:
    recipe, run = write_recipe(tmp_path / "sums.yaml", tiny_folder), tmp_path / "run"
    assert tessera("train", recipe, f"run.dir={run}").code == 0
    found = tessera("export", run, "--out", tmp_path / "out")
    assert (found.code, found.out.strip()) == (0, f"export: {tmp_path / 'out'}")
    assert "| final |" in (tmp_path / "out" / "README.md").read_text()
    refused = tessera("export", run, "--out", tmp_path / "two", "--public")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", StringIO("1 + 1 =\n/system\n/quit\nnever\n"))
        said = tessera("chat", run, "--system", "be brief", "--max-new-tokens", "5", "--seed", "2")
    assert (said.code, said.err) == (0, "")
    lines = said.out.splitlines()
    assert lines[0] == "(system message set)" and lines[-1] == "(no system message)" and len(lines) >= 3


def test_a_chat_says_that_it_calls_no_tools(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", StringIO(""))
    said = tessera("chat", tiny_folder, "environment.tools.sql.database=x.db")
    assert said.code == 0 and "tools are neither introduced nor called" in said.err
