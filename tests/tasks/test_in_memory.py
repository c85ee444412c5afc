from typing import Any

import pytest

from tessera.core.errors import UserError
from tessera.core.types import Message, Problem
from tessera.tasks.base import LoadedTask, Reward
from tessera.tasks.in_memory import InMemoryTask
from tessera.tasks.prompts import PromptFormat

ROWS = [{"prompt": f"{n}?", "answer": n, "level": n % 2} for n in range(4)]


def level(problem: Problem, text: str) -> dict[str, float]:
    return {"right": float(text == str(problem.answer)), "level": float(problem.metadata["level"])}


def test_rows_and_a_function() -> None:
    task = InMemoryTask(ROWS, reward_fn=level, validation_size=1, test=[{"prompt": "9?"}])
    loaded = LoadedTask.load("mine", task)
    assert [p.prompt for p in loaded.train] == ["0?", "1?", "2?"]
    assert [p.answer for p in loaded.validation] == [3]
    assert loaded.test[0] == Problem("test-0", "9?", None)  # an answer is optional with a function
    assert task.reward(loaded.train[1], "1") == {"right": 1.0, "level": 1.0}


def test_any_iterable_of_mappings() -> None:
    chat = ({"prompt": [{"role": "user", "content": f"{n}?"}], "gold": n} for n in range(2))
    task = InMemoryTask(chat, reward_fn="last_integer", answer_column="gold")
    assert [p.prompt for p in task.problems("train")] == [(Message("user", "0?"),), (Message("user", "1?"),)]
    assert task.reward(task.problems("train")[1], "so 1") == 1.0
    assert task.problems("validation") == task.problems("test") == ()


def test_the_prompt_format_applies() -> None:
    prompt = PromptFormat(style="chat", template="Q: {question}", prefill="A:")
    problem = InMemoryTask(ROWS, reward_fn=level, prompt=prompt, validation=ROWS[:1]).problems("train")[0]
    assert (problem.prompt, problem.prefill) == ((Message("user", "Q: 0?"),), "A:")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": ["0?"]}, "train row 0 is a str; a row is a mapping of columns"),
        ({"train": [*ROWS, {"question": "?"}]}, "train row 4 has no column 'prompt'; its columns are 'question'"),
        ({"validation": ROWS, "validation_size": 1}, "give either validation .rows. or validation_size"),
        ({"validation_size": 4}, "validation_size = 4 must be from 0 to 3: train has 4 rows"),
        ({"reward_fn": "last_interger"}, "unknown reward 'last_interger'"),
        ({"reward_fn": "last_integer", "test": [{"prompt": "?"}]}, "test row 0 has no column 'answer'"),
    ],
)
def test_what_does_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        InMemoryTask(**{"train": ROWS, "reward_fn": level, **options})


def test_the_splits_are_checked_like_any_other() -> None:
    with pytest.raises(UserError, match="train and test share 4 problems"):
        LoadedTask.load("mine", InMemoryTask(ROWS, test=ROWS, reward_fn=level))
    with pytest.raises(UserError, match="task mine has no train problems"):
        LoadedTask.load("mine", InMemoryTask([], reward_fn=level))


def test_rewards_by_name_and_weight() -> None:
    task = InMemoryTask(ROWS, reward_fn={"number": 1.0, "format_boxed": 0.5})
    assert task.full_marks == 1.5
    assert task.reward(task.problems("train")[3], "so \\boxed{3}") == Reward(
        1.5, {"number": 1.0, "format_boxed": 1.0}, True
    )
