import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tessera.core.errors import UserError
from tessera.core.types import Message
from tessera.tasks.base import Reward, full_marks, grade_text
from tessera.tasks.registry import load_task


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return str(path)


def test_texts_and_a_numeric_reward(tmp_path: Path) -> None:
    train = write(tmp_path / "t.jsonl.gz", [{"prompt": f"{i} + 1 =", "answer": str(i + 1)} for i in range(5)])
    loaded = load_task({"name": "jsonl", "train": train, "reward": "last_integer", "validation_size": 2})
    assert [p.prompt for p in loaded.train] == ["0 + 1 =", "1 + 1 =", "2 + 1 ="]
    assert [(p.id, p.answer) for p in loaded.validation] == [("validation-0", 4), ("validation-1", 5)]
    assert loaded.test == ()
    assert loaded.task.reward(loaded.train[2], "that is 3") == 1.0
    assert loaded.task.reward(loaded.train[2], "that is 4") == 0.0


def test_without_a_validation_size_all_rows_are_trained_on(tmp_path: Path) -> None:
    train = write(tmp_path / "t.jsonl", [{"prompt": "1?", "answer": 1}, {"prompt": "2?", "answer": 2}])
    loaded = load_task({"name": "jsonl", "train": train, "reward": "last_integer"})
    assert (len(loaded.train), loaded.validation) == (2, ())


def test_messages_other_columns_and_exact_match(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Capital of France?"}]
    train = write(tmp_path / "t.jsonl", [{"chat": chat, "gold": "Paris", "key": 9}])
    test = write(tmp_path / "e.jsonl", [{"chat": "Capital of Peru?", "gold": "Lima", "key": 3}])
    columns = {"prompt_column": "chat", "answer_column": "gold", "id_column": "key"}
    loaded = load_task({"name": "jsonl", "train": train, "test": test, "reward": "exact_match", **columns})
    assert (loaded.train[0].prompt, loaded.train[0].id) == ((Message("user", "Capital of France?"),), "9")
    assert (loaded.test[0].prompt, loaded.test[0].answer) == ("Capital of Peru?", "Lima")
    assert loaded.task.reward(loaded.train[0], " Paris\n") == 1.0


def test_duplicate_ids_are_refused(tmp_path: Path) -> None:
    train = write(tmp_path / "t.jsonl", [{"prompt": p, "answer": 1, "n": 7} for p in "ab"])
    with pytest.raises(UserError, match="1 ids occur more than once in train, such as '7'"):
        load_task({"name": "jsonl", "train": train, "reward": "last_integer", "id_column": "n"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "task jsonl needs the option 'reward'"),
        ({"reward": "exact_mach"}, r"unknown reward 'exact_mach' \(did you mean 'exact_match'\?\)"),
        ({"reward_name": "exact_match"}, "unknown option of task jsonl 'reward_name'"),
        ({"reward": "last_integer"}, r"t\.jsonl, line 2: reward last_integer cannot grade the answer 'two'"),
        ({"reward": "exact_match", "answer_column": "a"}, r"t\.jsonl, line 1 has no column 'a'; its columns are"),
        ({"reward": "exact_match", "validation_size": -1}, "validation_size = -1: Input should be greater than"),
    ],
)
def test_wrong_options(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    train = write(tmp_path / "t.jsonl", [{"prompt": "1?", "answer": 1}, {"prompt": "2?", "answer": "two"}])
    with pytest.raises(UserError, match=message):
        load_task({"name": "jsonl", "train": train, **options})


def test_a_sum_of_rewards_and_its_full_marks(tmp_path: Path) -> None:
    train = write(tmp_path / "t.jsonl", [{"prompt": "2.5?", "answer": "2.5"}])
    loaded = load_task({"name": "jsonl", "train": train, "reward": {"number": 1.0, "format_answer": 1.0}})
    assert full_marks(loaded.task) == 2.0
    right = Reward(2.0, {"number": 1.0, "format_answer": 1.0}, True)
    assert grade_text(loaded.task, loaded.train[0], "<answer>2.50</answer>") == right
    with pytest.raises(UserError, match="the weight of reward number is 0"):
        load_task({"name": "jsonl", "train": train, "reward": {"number": 0}})
