"""From what a user names to a model and how it is evaluated."""

from __future__ import annotations

from pathlib import Path

import pytest

from command import write_recipe
from tessera.core.errors import UserError
from tessera.subject import read_subject


def test_a_plain_model_takes_the_keys_of_a_recipe(tiny_folder: Path) -> None:
    found = read_subject(
        str(tiny_folder), ["task.name=svamp", "model.dtype=bfloat16", "seed=3", "evaluation.success=2"]
    )
    assert (found.label, found.task, found.seed) == ("model", {"name": "svamp"}, 3)
    assert (found.model.name, found.model.dtype, found.model.lora) == (str(tiny_folder), "bfloat16", None)
    assert (found.evaluation.success, found.max_new_tokens, found.run) == (2, 512, None)


def test_a_recipe_is_its_model_without_a_fresh_adapter(tmp_path: Path, tiny_folder: Path) -> None:
    recipe = write_recipe(tmp_path / "sums.yaml", tiny_folder)
    found = read_subject(str(recipe), ["evaluation.max_new_tokens=null"])
    assert (found.label, found.seed, found.model.lora) == ("sums-base", 1, None)
    assert found.task is not None and found.task["digits"] == 1
    assert (found.max_new_tokens, found.folder) == (6, tmp_path)  # the tokens of its RL stage


def test_names_of_the_hub_are_not_taken_for_misspelt_recipes() -> None:
    assert read_subject("Qwen/Qwen2.5-0.5B", []).label == "Qwen2.5-0.5B"
    with pytest.raises(
        UserError, match=r"unknown recipe 'nano/grpo_svamp_smolm2' .did you mean 'nano/grpo_svamp_smollm2'"
    ):
        read_subject("nano/grpo_svamp_smolm2", [])


def test_local_weights_are_told_apart_by_their_content(tiny_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in tiny_folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    same = [read_subject(str(folder), []).weights() for folder in (tiny_folder, copy)]
    assert same[0] == same[1] is not None
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    assert read_subject(str(copy), []).weights() != same[0]
    assert read_subject("owner/name", []).weights() is None
