import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from tessera.core.errors import UserError
from tessera.core.types import Problem
from tessera.tasks.base import LoadedTask
from tessera.tasks.in_memory import InMemoryTask
from tessera.tasks.registry import load_task
from tessera.tasks.validate import HOSTILE, Report, corrupted_text, gold_text, validate_task

ROWS = [{"prompt": f"{n}?", "answer": n} for n in range(1, 6)]
Reward = Callable[[Problem, str], Any]


def validate(
    reward: Reward, seconds: float = 5, rows: list[dict[str, Any]] = ROWS, task: type = InMemoryTask
) -> Report:
    loaded = LoadedTask.load("mine", task(rows, reward_fn=reward))
    return validate_task(loaded, sample=3, seconds=seconds, size=100_000)


def failed(report: Report) -> dict[str, str]:
    return {check.name: check.detail for check in report.checks if check.ok is False}


def test_a_sound_task_passes_every_check_at_full_size() -> None:
    loaded = load_task({"name": "multiplication", "train_size": 5, "validation_size": 0, "test_size": 0})
    report = validate_task(loaded, sample=50)
    assert report.ok and failed(report) == {}
    checks = {check.name: check for check in report.checks}
    # Train: gold, corrupted, empty, two tags, and the hostile texts; the other two splits are empty.
    assert len(checks) == 4 + len(HOSTILE) + 2
    assert checks["train: gold answers earn full marks"].detail.startswith("5 scored")
    assert checks["train: NUL bytes (10,000,000 characters) does not"].detail.startswith("5 scored")
    assert (checks["test"].ok, checks["test"].detail) == (None, "no problems")


def test_hostile_texts_have_their_size() -> None:
    assert {name: len(make(80)) for name, make in HOSTILE.items()} == {
        "long text": 80,
        "a long number": 80,
        "many numbers": 72,  # 8 numbers of 9 characters
        "many spaces": 80,
        "nested brackets": 80,
        "nested boxes": 80,
        "NUL bytes": 80,
        "a tower of powers in <answer>": 105,  # 8 powers of 10 characters, 8 digits, and the tags' 17
        "nested brackets in <answer>": 105,  # 80, 8 digits, and the tags' 17
    }


def test_a_reward_that_pays_nothing_fails_on_gold() -> None:
    report = failed(validate(lambda p, t: 0.0))
    assert list(report) == ["train: gold answers earn full marks"]
    found = re.fullmatch(
        r"problem 'train-(\d)': '(\d)' earned 0 and counts as wrong; full marks are 1", *report.values()
    )
    assert found is not None and int(found[2]) == int(found[1]) + 1  # row n asks for n + 1


def test_a_reward_that_always_pays_fails_on_everything_else() -> None:
    report = validate(lambda p, t: 1.0)
    assert len(failed(report)) == 3 + len(HOSTILE)
    assert "train: an empty text does not" in failed(report)
    assert not report.ok


def test_a_substring_reward_fails_on_the_empty_text_only() -> None:
    assert list(failed(validate(lambda p, t: float(t in str(p.answer))))) == ["train: an empty text does not"]


def test_a_reward_that_raises_is_reported_with_what_it_raised() -> None:
    report = failed(validate(lambda p, t: float(int(t) == p.answer)))
    assert "raised ValueError: invalid literal for int()" in report["train: an empty text does not"]
    assert "train: corrupted answers do not" not in report


def test_a_reward_that_is_not_finite_is_reported() -> None:
    report = failed(validate(lambda p, t: 1.0 if t == str(p.answer) else float("nan")))
    assert "raised UserError: the reward is nan; it must be finite" in report["train: corrupted answers do not"]


def test_a_slow_reward_is_found_at_a_small_size() -> None:
    lengths: list[int] = []

    def slow(problem: Problem, text: str) -> float:
        lengths.append(len(text))
        time.sleep(len(text) / 20_000 if text.startswith("((") else 0)  # 0.05 s for 1000 brackets, 0.5 s for 10,000
        return float(text == str(problem.answer))

    report = failed(validate(slow, seconds=0.3))
    (name,) = report
    assert name == "train: nested brackets (100,000 characters) does not"
    assert re.search(r"took \d\.\d s, over the limit of 0\.3 s, on 10,000 characters", report[name])
    # 100,000 brackets were never tried, the other hostile texts were.
    assert sum(length > 90_000 for length in lengths) == len(HOSTILE) - 1


class OwnTexts(InMemoryTask):
    full_marks = 2.0

    def gold(self, problem: Problem) -> str:
        return f"<answer>{problem.answer}</answer>"

    def corrupted(self, problem: Problem) -> str:
        return "<answer>0</answer>"


def test_a_task_may_say_what_gold_and_full_marks_are() -> None:
    def tagged(problem: Problem, text: str) -> dict[str, float]:
        right = text.strip() == f"<answer>{problem.answer}</answer>"
        return {"right": float(right), "format": float(text.count("<answer>") == 1)}

    assert validate(tagged, task=OwnTexts).ok
    wrong = failed(validate(lambda p, t: 1.0 + ("<answer>0" in t), task=OwnTexts))
    assert list(wrong) == [
        "train: gold answers earn full marks",
        "train: corrupted answers do not",
        "train: <answer> twice does not",
    ]


def test_without_answers_there_is_nothing_to_compare() -> None:
    report = validate(lambda p, t: 0.0, rows=[{"prompt": "write a poem"}])
    states = {check.name: check.ok for check in report.checks}
    assert states["train: gold answers earn full marks"] is None
    assert states["train: an empty text does not"] is True
    assert report.ok


@pytest.mark.parametrize(
    ("answer", "wrong"), [(41, "42"), (-1, "0"), ("1,234", "1235"), ("Paris", "PariA"), ("A", "B"), ("", "A")]
)
def test_default_texts(answer: object, wrong: str) -> None:
    task, problem = InMemoryTask(ROWS, reward_fn="last_integer"), Problem("p", "?", answer)
    assert gold_text(task, problem) == str(answer)
    assert corrupted_text(task, problem) == wrong


def test_the_text_that_is_scored_begins_with_the_prefill() -> None:
    seen: list[str] = []

    class Prefilled(InMemoryTask):
        def problems(self, split: Any) -> tuple[Problem, ...]:
            return (Problem("p", "?", 5, prefill="So:"),) if split == "train" else ()

    validate(lambda p, t: seen.append(t) or float(t.endswith("5")), task=Prefilled)
    assert seen[:3] == ["So:\n5", "So:\n6", "So:\n"]


def test_the_report_prints_a_line_a_check() -> None:
    lines = str(validate(lambda p, t: 0.0)).splitlines()
    assert lines[0].startswith("FAIL  train: gold answers earn full marks: problem")
    assert lines[1].startswith("ok    train: corrupted answers do not: 3 scored")
    assert lines[-1] == "-     test: no problems"


def test_a_sample_of_none_is_refused() -> None:
    loaded = LoadedTask.load("mine", InMemoryTask(ROWS, reward_fn="last_integer"))
    with pytest.raises(UserError, match="sample = 0 must be at least 1"):
        validate_task(loaded, sample=0)
