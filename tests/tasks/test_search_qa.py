"""Questions from files, graded by exact match in the answer's tags."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tessera.core.errors import UserError
from tessera.tasks.registry import grade, load_task
from tessera.tasks.validate import validate_task

DATA = Path(__file__).parents[2].parent / "shared" / "data"
ROW = {"question": "Who wrote Emma?", "answers": ["Jane Austen", "Austen"]}


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("<answer>Jane Austen</answer>", 1.0),
        ("I think so. <answer> the austen. </answer>", 1.0),
        ("Jane Austen", -1.0),
        ("<answer>Jane</answer>", -1.0),
        ("<answer>Bronte</answer> <answer>Austen</answer>", -1.0),
        ("<answer></answer>", -1.0),
        ("<answer>Austen", -1.0),
        ("", -1.0),
    ],
)
def test_plus_one_or_minus_one(text: str, reward: float) -> None:
    """2511.00066, Eq. 15."""
    found = grade("search_qa", ROW, text)
    assert (found.value, found.correct) == (reward, reward > 0)


def test_a_row_without_an_answer_that_can_be_matched_is_refused(tmp_path: Path) -> None:
    for answers in ([], ["the"], [""], None):
        path = tmp_path / "train.jsonl"
        path.write_text(json.dumps({"id": "1", **ROW, "answers": answers}) + "\n")
        with pytest.raises(UserError, match=r"line 1.*answer"):
            load_task({"name": "search_qa", "train": str(path), "validation_size": 0})


@pytest.mark.parametrize("name", ["nq", "triviaqa", "popqa", "hotpotqa", "2wikimultihopqa", "musique", "bamboogle"])
def test_the_seven_data_sets(name: str) -> None:
    path = DATA / name / "test.jsonl"
    if not path.is_file():
        pytest.skip(f"no {path}")
    loaded = load_task({"name": "search_qa", "train": str(path), "validation_size": 20})
    assert len(loaded.train) > 50
    assert not [check for check in validate_task(loaded).checks if check.ok is False]
