import json
from pathlib import Path
from typing import Any

import pytest

from tessera.core.types import Message
from tessera.tasks.base import Reward
from tessera.tasks.data import read_jsonl
from tessera.tasks.registry import grade, load_task
from tessera.tasks.validate import validate_task

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "gsm8k"

ROW = {
    "id": "gsm8k-test-0",
    "question": "A hen lays 16 eggs. Ann eats 3 and sells the rest at $2 each. How many dollars does she make?",
    "answer": "26",
    "rationale": "She sells 16 - 3 = <<16-3=13>>13 eggs.\nShe makes 13 * 2 = $<<13*2=26>>26.",
}


@pytest.fixture
def train(tmp_path: Path) -> str:
    rows = [{**ROW, "id": f"gsm8k-train-{i}", "question": f"{i}? {ROW['question']}"} for i in range(102)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / "train.jsonl")


def test_a_chat_that_asks_for_a_marked_answer(train: str) -> None:
    loaded = load_task({"name": "gsm8k", "train": train})
    assert (len(loaded.train), len(loaded.validation), loaded.test) == (2, 100, ())
    (message,) = loaded.train[1].prompt
    assert isinstance(message, Message) and message.role == "user"
    assert message.content.startswith("1? A hen lays") and "The answer is" in message.content
    assert loaded.train[1].answer == "26"


def test_the_gold_text_is_the_rationale_without_the_calculator(train: str) -> None:
    loaded = load_task({"name": "gsm8k", "train": train})
    task: Any = loaded.task
    solution = "She sells 16 - 3 = 13 eggs.\nShe makes 13 * 2 = $26."
    assert task.gold(loaded.train[0]) == f"{solution}\nThe answer is 26."


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        ("She sells 13. The answer is 26.", True),
        ("The answer is $26.00 per day, for 13 eggs", True),
        ("So #### 26", True),
        ("So \\boxed{26} from 13", True),
        ("So \\boxed{26 \\text{ dollars}}.", True),
        ("26", True),
        ("13 * 2 = 26 dollars", True),
        ("The answer is 26,000", False),
        ("The answer is 126", False),
        ("The answer is 26.5", False),
        ("The answer is 25 or 26", False),
        ("The answer is 26. No, the answer is 27.", False),
        ("26 eggs, so 27", False),
        (ROW["question"], False),  # the question echoed
        ("The answer is ٢٦", False),
        ("match by substring", False),
        ("", False),
    ],
)
def test_one_row_and_one_completion(completion: str, right: bool) -> None:
    assert grade("gsm8k", ROW, completion) == Reward(float(right), {}, right)


def test_a_layout_is_paid_apart() -> None:
    options: dict[str, Any] = {"wording": "think", "reward": {"number": 1.0, "format_think": 0.5}}
    text = "<think>13 * 2</think><answer>\\boxed{26}</answer>"
    assert grade("gsm8k", ROW, text, **options) == Reward(1.5, {"number": 1.0, "format_think": 1.0}, True)
    assert grade("gsm8k", ROW, "26", **options) == Reward(1.0, {"number": 1.0, "format_think": 0.0}, True)


@pytest.mark.parametrize("wording", ["marked", "boxed", "think"])
def test_the_real_rows(wording: str) -> None:
    if not DATA.is_dir():
        pytest.skip(f"GSM8K is not in {DATA}")
    files = {"train": str(DATA / "train.jsonl"), "test": str(DATA / "test.jsonl")}
    loaded = load_task({"name": "gsm8k", "wording": wording, **files})
    assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (7373, 100, 659)
    report = validate_task(loaded, sample=10_000, size=1_000_000)
    assert report.ok, str(report)


def test_what_follows_the_marks_of_the_original_is_read() -> None:
    if not DATA.is_dir():
        pytest.skip(f"GSM8K is not in {DATA}")
    for row in read_jsonl(str(DATA / "test.jsonl")):
        original = f"{row.column('rationale')}\n#### {int(row.column('answer')):,}"
        assert grade("gsm8k", row.values, original).correct


def test_equal_numbers_are_equal_answers(train: str) -> None:
    task: Any = load_task({"name": "gsm8k", "train": train}).task
    (problem, *_) = task.problems("train")
    texts = ["The answer is 26.", "so 1 + 25 = 26.0", "26 dollars\n#### 52/2", "The answer is 2.5", "none"]
    assert [task.answer_of(problem, text) for text in texts] == ["26", "26", "26", "5/2", None]
