import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tessera.core.errors import UserError
from tessera.tasks.base import Reward
from tessera.tasks.registry import TASKS, grade, list_tasks, load_task


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, r"task.name = None must be one of arithmetic, countdown, .*svamp.*, or path/to/file\.py:ClassName"),
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


SUM = {
    "id": "chal-1",
    "question": "There are 8 cups and 7 break. How many are left?",
    "answer": 1,
    "equation": "( 8.0 - 7.0 )",
}
RIGHT, WRONG = Reward(1.0, {}, True), Reward(0.0, {}, False)


@pytest.mark.parametrize(
    ("task", "row", "completion", "earned"),
    [
        ("svamp", SUM, " 8 - 7 = 1", RIGHT),
        ("svamp", SUM, " 8 - 7", WRONG),
        ("multiplication", {"a": 123, "b": 456}, " So it is 56,088.", RIGHT),
        ("multiplication", {"a": 123, "b": "456"}, "56087", WRONG),
        # The assistant's whole turn, prefill included, is no other answer than what follows the prefill.
        ("multiplication", {"a": 3, "b": 4}, "Let's break this problem down step by step. 12", RIGHT),
        ("arithmetic", {"a": 3, "b": 4}, " 7", RIGHT),
    ],
)
def test_one_row_and_one_completion_are_graded_without_a_file(
    task: str, row: dict[str, Any], completion: str, earned: Reward
) -> None:
    assert grade(task, row, completion) == earned


def test_a_recipes_keys_are_options_of_grading() -> None:
    assert grade("arithmetic", {"a": 3, "b": 4}, "12", operation="multiplication") == RIGHT
    row = {"q": "Capital of France?", "a": "Paris"}
    columns = {"prompt_column": "q", "answer_column": "a"}
    prefilled = {"reward": "exact_match", "prompt": {"prefill": "It is"}, **columns}
    assert grade("jsonl", row, " Paris", **prefilled) == RIGHT
    assert grade("jsonl", row, "It is Paris", **prefilled) == RIGHT
    assert grade("jsonl", row, " Paris.", **prefilled) == WRONG


@pytest.mark.parametrize(
    ("task", "row", "options", "message"),
    [
        ("svanp", SUM, {}, r"unknown task 'svanp' .did you mean 'svamp'"),
        ("svamp", {"answer": 3}, {}, "the row has no column 'question'"),
        ("svamp", SUM, {"promt": "x"}, r"unknown option of task svamp 'promt' .did you mean 'prompt'"),
        ("jsonl", SUM, {}, "task jsonl needs the option 'reward'"),
        ("multiplication", {"a": 2.5, "b": 3}, {}, "the row: a = 2.5 must be an integer"),
    ],
)
def test_what_cannot_be_graded(task: str, row: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        grade(task, row, "1", **options)


def test_a_users_task_is_graded_where_it_reads_rows(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    body = "class Mine:\n    def problems(self, split): return []\n    def reward(self, problem, text): return 0.5\n"
    file.write_text(body)
    with pytest.raises(UserError, match="has no method problem_of"):
        grade(f"{file}:Mine", {}, "")
    reads = "    def problem_of(self, row): return Problem(row.column('id'), 'q', None)\n"
    other = tmp_path / "other.py"
    other.write_text(f"from tessera.core.types import Problem\n{body}{reads}")
    assert grade(f"{other}:Mine", {}, "") == Reward(0.5, {}, False)
