from typing import Any

import pytest

from tessera.core.errors import UserError
from tessera.core.types import Message, Problem
from tessera.tasks.data import Row
from tessera.tasks.prompts import PromptFormat
from tessera.tasks.rewards import read_grader
from tessera.tasks.rows import RowFormat

USER = {"role": "user", "content": "2 + 3?"}


def read(values: dict[str, Any], **row_format: Any) -> Problem:
    (problem,) = RowFormat(**row_format).problems("train", [Row("f, line 7", values)])
    return problem


def test_text_is_worded_and_other_columns_become_metadata() -> None:
    problem = read(
        {"q": "2 + 3?", "a": "5", "name": 8, "level": 1},
        prompt_column="q",
        answer_column="a",
        id_column="name",
        prompt=PromptFormat(template="Q: {question}", prefill="A:"),
        grader=read_grader("last_integer"),
    )
    assert problem == Problem("8", "Q: 2 + 3?", 5, "A:", {"level": 1})


def test_messages_stand_as_they_are() -> None:
    system = {"role": "system", "content": "Be brief.", "tool_calls": None}
    problem = read({"prompt": [system, USER]}, prompt=PromptFormat(prefill="So"))
    assert problem.prompt == (Message("system", "Be brief."), Message("user", "2 + 3?"))
    assert (problem.id, problem.answer, problem.prefill) == ("train-0", None, "So")


def test_a_last_message_by_the_assistant_opens_its_turn() -> None:
    problem = read({"prompt": [USER, {"role": "assistant", "content": "It is"}]})
    assert problem.prompt == (Message("user", "2 + 3?"),)
    assert problem.prefill == "It is"


@pytest.mark.parametrize(
    ("values", "row_format", "message"),
    [
        ({}, {}, "f, line 7 has no column 'prompt'; its columns are none"),
        ({"prompt": 3}, {}, "prompt = 3 must be a text or a list of messages"),
        ({"prompt": " "}, {}, "prompt = ' ' must be a text"),
        ({"prompt": []}, {}, r"prompt = \[\] must be a text"),
        ({"prompt": ["hi"]}, {}, "holds 'hi'; a message is {role, content}, both text"),
        ({"prompt": [{"role": "user"}]}, {}, "a message is {role, content}"),
        ({"prompt": [{**USER, "content": 3}]}, {}, "a message is {role, content}"),
        ({"prompt": [{**USER, "name": "Ann"}]}, {}, "a message is {role, content}"),
        ({"prompt": [{**USER, "role": "usr"}]}, {}, "unknown role in f, line 7 'usr' .did you mean 'user'"),
        ({"prompt": [USER]}, {"prompt": PromptFormat(style="chat")}, "which take no prompt.style"),
        ({"prompt": [{**USER, "role": "assistant"}]}, {}, "needs a turn before it"),
        (
            {"prompt": [USER, {**USER, "role": "assistant"}]},
            {"prompt": PromptFormat(prefill="So")},
            "and no prompt.prefill",
        ),
        ({"prompt": "?"}, {"grader": read_grader("exact_match")}, "no column 'answer'"),
        (
            {"prompt": "?", "answer": 2.5},
            {"grader": read_grader("last_integer")},
            "f, line 7: reward last_integer cannot grade the answer 2.5: it needs an integer",
        ),
    ],
)
def test_a_row_that_does_not_fit_says_where(values: dict[str, Any], row_format: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(values, **row_format)
