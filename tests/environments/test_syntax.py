"""Calls read out of turns, and what is put around results."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripted import Echo
from tessera.core.errors import UserError
from tessera.environments.syntax import Frame, Tags, Template, template_frame
from tessera.environments.tool import Call
from tiny import tiny_tokenizer

TOOLS = [Echo("search"), Echo("python")]


def test_a_tag_of_a_tool_is_a_call() -> None:
    tags = Tags(TOOLS)
    assert tags.stops == ("</search>", "</python>", "</answer>")
    assert tags.calls("I look it up. <search> who was it </search>") == [Call("search", {"text": "who was it"})]
    assert tags.calls("<python>1 < 2</python>\n") == [Call("python", {"text": "1 < 2"})]
    assert tags.calls("<search>a <search>b</search>") == [Call("search", {"text": "b"})]


def test_an_answer_or_nothing_is_no_call() -> None:
    tags = Tags(TOOLS)
    for text in ("", "Paris", "<answer>Paris</answer>", "<search>cut of", "<answer>a</answer> <search>b</search>"):
        assert tags.calls(text) == []


def test_a_closing_tag_alone_is_a_call_without_arguments() -> None:
    assert Tags(TOOLS).calls("who was it</search>") == [Call("search", {})]


@given(st.text(max_size=80), st.text(alphabet="</search>answer \n", max_size=80))
def test_any_text_is_read(text: str, tags: str) -> None:
    for said in (text, tags, text + tags):
        assert all(call.tool in ("search", "python") for call in Tags(TOOLS).calls(said))
        template().calls(said)


def template() -> Template:
    return Template(TOOLS, tiny_tokenizer(), ["<eos>", "<|im_end|>"])


def test_calls_of_the_template_are_json() -> None:
    calls = template().calls(
        'First <tool_call>\n{"name": "search", "arguments": {"text": "a"}}\n</tool_call>'
        '<tool_call>{"name": "python", "arguments": [1]}</tool_call><tool_call>{name}</tool_call>'
        '<tool_call>{"name": "x"'
    )
    assert calls == [Call("search", {"text": "a"}), Call("python", {}), Call("tool_call", {})]
    assert template().calls("[" * 100_000) == []
    assert template().calls("<tool_call>" + "[" * 100_000 + "</tool_call>") == [Call("tool_call", {})]


def test_the_frame_is_what_the_template_writes_between_two_turns() -> None:
    end, start = "<|im_end|>", "<|im_start|>"
    around = f"{end}\n{start}tool\n"
    assert template_frame(tiny_tokenizer()) == Frame(around, around, f"{end}\n{start}assistant\n")
    assert template().frame(ended=False).before == around
    assert template().frame(ended=True).before == around.removeprefix(end)  # the model has written it


def test_a_template_without_tools_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] if m['role'] != 'tool' }}{% endfor %}"
    with pytest.raises(UserError, match="syntax tags"):
        template_frame(tokenizer)
    tokenizer.chat_template = "{{ raise_exception('no tools') }}"
    with pytest.raises(UserError, match=r"no tools.*syntax tags"):
        template_frame(tokenizer)


def test_the_introduction_names_every_tool_and_how_to_call_it() -> None:
    for syntax, form in ((Tags(TOOLS), "<search>text</search>"), (template(), '"name": "search"')):
        said = syntax.introduction()
        assert form in said and "says it again" in said and "python" in said and "<answer>" in said


def test_a_call_that_is_nested_without_end_is_none_that_can_be_read() -> None:
    """It could be read, but not be written to a file again, which recurses too."""
    deep, flat = '{"a":' * 45 + "1" + "}" * 45, '{"a":' * 60 + "1" + "}" * 60
    one, other = template().calls(
        "".join(f'<tool_call>{{"name": "search", "arguments": {j}}}</tool_call>' for j in (deep, flat))
    )
    assert one.tool == "search" and one.arguments["a"] and other == Call("tool_call", {})


def test_a_tool_that_takes_nothing_is_called_with_nothing() -> None:
    clock = Echo("clock")
    clock.main = ""
    assert Tags([clock]).calls("<clock></clock>") == [Call("clock", {})]


def test_a_tool_called_answer_is_refused() -> None:
    with pytest.raises(UserError, match="'answer' cannot be told from an answer"):
        Tags([Echo("answer")])
