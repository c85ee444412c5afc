"""Prompts as ids: the template, the prefill, special tokens, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from tessera.core.errors import UserError
from tessera.core.types import Message, Problem
from tessera.policy.prompting import check_fits, read_template, render, template_variables
from tiny import CHARACTERS, tiny_policy, tiny_tokenizer

BOS, IM_START, IM_END = 1, 3, 4
TOKENIZER = tiny_tokenizer()


def _ids(text: str) -> list[int]:
    """Characters are numbered from 6 in the order of CHARACTERS."""
    return [6 + CHARACTERS.index(character) for character in text]


def _chat(*turns: tuple[str, str], prefill: str = "") -> Problem:
    return Problem("p1", tuple(Message(*turn) for turn in turns), answer=None, prefill=prefill)


def test_messages_go_through_the_template_with_an_open_assistant_turn() -> None:
    expected = [
        *[IM_START, *_ids("system\nbe brief"), IM_END, *_ids("\n")],
        *[IM_START, *_ids("user\n1+1?"), IM_END, *_ids("\n")],
        *[IM_START, *_ids("assistant\n")],
    ]
    assert render(TOKENIZER, _chat(("system", "be brief"), ("user", "1+1?"))) == expected


def test_the_prefill_continues_the_open_turn() -> None:
    bare, prefilled = _chat(("user", "q")), _chat(("user", "q"), prefill="Let me see: ")
    assert render(TOKENIZER, prefilled) == render(TOKENIZER, bare) + _ids("Let me see: ")


def test_plain_text_gets_the_tokenizers_own_start_and_no_end() -> None:
    problem = Problem("p", "2+3=", answer=5, prefill=" ")
    assert render(TOKENIZER, problem) == [BOS, *_ids("2+3= ")]


def test_an_end_token_behind_plain_text_is_left_out() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    assert tokenizer("ab")["input_ids"] == [1, *_ids("ab"), 2]
    assert render(tokenizer, Problem("p", "ab", None)) == [BOS, *_ids("ab")]


def test_a_policy_renders_with_its_tokenizer() -> None:
    policy = tiny_policy(lora=None, layers=1)
    problem = _chat(("user", "hi"), prefill="x")
    assert render(policy, problem) == render(policy.tokenizer, problem)


@given(st.text(alphabet=CHARACTERS, max_size=40), st.text(alphabet=CHARACTERS, max_size=10))
def test_every_character_of_a_prompt_arrives(text: str, prefill: str) -> None:
    ids = render(TOKENIZER, Problem("p", text, None, prefill=prefill))
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == text + prefill


def test_a_variable_that_the_template_reads_is_passed_on() -> None:
    problem = _chat(("user", "q"))
    off = render(TOKENIZER, problem, {"thinking": False})
    assert off == render(TOKENIZER, problem) + _ids("[no thinking]")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"thinkin": False}, r"no variable 'thinkin' \(did you mean 'thinking'\?\)"),
        ({"messages": []}, "may not set 'messages'"),
        ({"add_generation_prompt": False}, "may not set 'add_generation_prompt'"),
    ],
)
def test_a_variable_that_would_be_ignored_is_refused(kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        render(TOKENIZER, _chat(("user", "q")), kwargs)


def test_template_variables_mean_nothing_to_plain_text() -> None:
    with pytest.raises(UserError, match="plain text"):
        render(TOKENIZER, Problem("p", "text", None), {"thinking": False})


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", {"messages"}),
        ("{% if not thinking is defined %}{% set thinking = true %}{% endif %}{{ thinking }}", {"thinking"}),
        ("{% for m in messages %}{%- generation -%}{{ m.x }}{% endgeneration %}{% break %}{% endfor %}", {"messages"}),
        ("{% set local = 1 %}{{ local }}{{ bos_token }}", {"bos_token"}),
    ],
)
def test_the_variables_of_a_template_are_found(template: str, expected: set[str]) -> None:
    assert template_variables(template) == expected


def test_messages_without_a_template_are_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(UserError, match=r"'p1' has messages.*prompt.style to plain, or model.chat_template"):
        render(tokenizer, _chat(("user", "q")))


def test_a_template_that_refuses_says_why_and_for_which_problem() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('no system turn, please') }}"
    with pytest.raises(UserError, match="refuses problem 'p1': no system turn, please"):
        render(tokenizer, _chat(("system", "s")))


def test_a_template_file_is_read_and_checked(tmp_path: Path) -> None:
    file = tmp_path / "chat.jinja"
    file.write_text("{{ messages[0].content }} é", encoding="utf-8")
    assert read_template(file) == "{{ messages[0].content }} é"
    file.write_text("line one\n{% if %}", encoding="utf-8")
    with pytest.raises(UserError, match=r"not valid jinja: .*\(line 2\)"):
        read_template(file)
    with pytest.raises(UserError, match="cannot be read"):
        read_template(tmp_path / "absent.jinja")


def test_a_prompt_that_leaves_too_little_room_is_named_and_not_cut() -> None:
    check_fits([7] * 90, 10, 100, "fits")  # 90 + 10 = 100, the last that fits
    check_fits([7] * 90, 10_000, None, "no stated limit")
    with pytest.raises(UserError, match=r"'p7' does not fit: 91 prompt tokens .* 10 new tokens exceed the model's 100"):
        check_fits([7] * 91, 10, 100, "p7")


def test_the_boundary_is_encoded_as_one_text() -> None:
    """A tokenizer that has a token for two newlines uses it across the seam of template and prefill."""
    from tokenizers import Tokenizer, models

    vocab = {"<unk>": 0, "a": 1, "\n": 2, "\n\n": 3}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE(vocab=vocab, merges=[("\n", "\n")], unk_token="<unk>")), unk_token="<unk>"
    )
    tokenizer.chat_template = "{{ messages[0].content }}\n"
    tokenizer.chat_template = "{{ messages[0].content + '\n' }}"
    assert render(tokenizer, _chat(("user", "a"), prefill="\na")) == [1, 3, 1]


def test_a_tokenizer_that_rewrites_plain_text_is_refused() -> None:
    class Rewriting:
        def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
            return {"input_ids": [1, 9, 9] if add_special_tokens else [7, 8]}

    with pytest.raises(UserError, match="changes a text when it adds special tokens"):
        render(Rewriting(), Problem("p", "ab", None))
