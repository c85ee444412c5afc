import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tessera.core.types import Message
from tessera.tasks.prompts import VERBATIM, PromptFormat


@given(st.text())
def test_the_verbatim_prompt_is_the_question(question: str) -> None:
    assert VERBATIM.render(question) == question


def test_plain_and_chat() -> None:
    template = "Q: {question}\nBox it: \\boxed{}"  # other braces stand as they are
    assert PromptFormat(template=template).render("1 {x}?") == "Q: 1 {x}?\nBox it: \\boxed{}"
    assert PromptFormat(style="chat", template="Q: {question}").render("1?") == (Message("user", "Q: 1?"),)
    assert PromptFormat(style="chat", system="Be brief.").render("1?") == (
        Message("system", "Be brief."),
        Message("user", "1?"),
    )


def test_a_question_that_holds_the_placeholder_is_put_in_once() -> None:
    assert PromptFormat(template="<{question}>").render("{question}") == "<{question}>"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"template": "no place"}, "exactly once, and holds it 0 times"),
        ({"template": "{question} {question}"}, "exactly once, and holds it 2 times"),
        ({"system": "Be brief."}, "a plain prompt has no system message"),
        ({"style": "poem"}, "'chat' or 'plain'"),
        ({"sytem": "x"}, "Extra inputs"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, str], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        PromptFormat.model_validate(options)
