import subprocess
import sys
from typing import Any

import pytest

from tessera.core.errors import UserError
from tessera.tasks.registry import TASKS, list_tasks, load_task


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "task.name = None must be one of arithmetic, jsonl, multiplication, svamp, or path/to/file.py:ClassName"),
        ({"name": 3}, "task.name = 3 must be one of"),
        ({"name": "svanp"}, r"unknown task 'svanp' \(did you mean 'svamp'\?\)"),
        ({"name": "mine.py"}, "task 'mine.py' names no class"),
        ({"name": "svamp"}, "task svamp needs the option 'train'"),
    ],
)
def test_what_a_recipe_can_get_wrong(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_task(spec)


def test_listing_names_every_task_and_option() -> None:
    listed = {info.name: info for info in list_tasks()}
    assert list(listed) == sorted(TASKS)
    assert all(info.summary and all(o.description for o in info.options) for info in listed.values())
    jsonl = {option.name: option.default for option in listed["jsonl"].options}
    assert jsonl["reward"] is None and jsonl["train"] is None  # these have to be given
    assert (jsonl["prompt_column"], jsonl["test"]) == ("prompt", "null")


def test_loading_the_tasks_loads_no_torch() -> None:
    script = "import sys, tessera.tasks; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
