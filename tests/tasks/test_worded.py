import json
from pathlib import Path
from typing import Any

import pytest

from tessera.core.errors import UserError
from tessera.core.types import Message
from tessera.tasks.registry import load_task
from tessera.tasks.worded import WORDINGS

ROW = {"id": "one", "question": "2 + 3?", "answer": 5, "rationale": "2 + 3 = 5"}


@pytest.fixture
def train(tmp_path: Path) -> str:
    (tmp_path / "train.jsonl").write_text(json.dumps(ROW) + "\n")
    return str(tmp_path / "train.jsonl")


def load(train: str, **options: Any) -> Any:
    return load_task({"name": "gsm8k", "train": train, "validation_size": 0, **options})


def test_the_wordings_of_the_papers(train: str) -> None:
    boxed = load(train, wording="boxed").train[0]
    assert boxed.prompt == "2 + 3? Let's think step by step and output the final answer within \\boxed{}."
    system, user = load(train, wording="think").train[0].prompt
    assert system.content.startswith("A conversation between User and Assistant.")
    assert user == Message("user", "2 + 3?")


def test_single_keys_of_the_prompt_change_the_wording(train: str) -> None:
    problem = load(train, wording="boxed", prompt={"style": "chat", "prefill": "Well,"}).train[0]
    assert problem.prompt == (Message("user", WORDINGS["boxed"].template.replace("{question}", "2 + 3?")),)
    assert problem.prefill == "Well,"


@pytest.mark.parametrize(
    ("wording", "prefill", "expected"),
    [
        ("marked", "", "2 + 3 = 5\nThe answer is 5."),
        ("boxed", "", "2 + 3 = 5\nThe answer is $\\boxed{5}$."),
        ("think", "", "<think>\n2 + 3 = 5\n</think>\n<answer>\n$\\boxed{5}$\n</answer>"),
        ("think", "<think>\n", "2 + 3 = 5\n</think>\n<answer>\n$\\boxed{5}$\n</answer>"),
    ],
)
def test_gold_texts_are_laid_out_as_asked(train: str, wording: str, prefill: str, expected: str) -> None:
    loaded = load(train, wording=wording, prompt={"prefill": prefill})
    assert loaded.task.gold(loaded.train[0]) == expected


def test_what_cannot_be_read(train: str) -> None:
    with pytest.raises(UserError, match=r"task gsm8k: wording = 'box'"):
        load(train, wording="box")
    with pytest.raises(UserError, match=r"prompt.styl"):
        load(train, prompt={"styl": "chat"})
    with pytest.raises(UserError, match=r"unknown reward 'numer'"):
        load(train, reward="numer")
