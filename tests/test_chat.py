"""`tessera chat`: what the model is shown, how it answers, and that a wrong line or Ctrl-C ends no conversation."""

from __future__ import annotations

import builtins
from collections.abc import Iterator

import pytest
import torch

from tessera.chat import Chat, Manner, typed
from tessera.policy.load import Policy
from tessera.rollout.engine import Request, Sampling
from tessera.rollout.hf import HFEngine
from tiny import tiny_policy

GREEDY = Manner(temperature=0, max_new_tokens=12)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return tiny_policy(lora=None)


def _said(policy: Policy, lines: list[str], manner: Manner = GREEDY) -> tuple[str, Chat]:
    written: list[str] = []
    chat = Chat(policy, manner, written.append)
    chat.run(lines)
    return "".join(written), chat


def _by_engine(policy: Policy, prompt: str) -> str:
    """What the library's own sampler takes for the likeliest continuation, special tokens left out."""
    ids = tuple(policy.tokenizer(prompt, add_special_tokens=False)["input_ids"])
    found = HFEngine(policy).generate([Request(ids, 0)], Sampling(max_new_tokens=12, temperature=0))
    return policy.tokenizer.decode(list(found[0].ids), skip_special_tokens=True)


def test_an_answer_is_the_models_on_the_templated_conversation(policy: Policy) -> None:
    text, chat = _said(policy, ["hello"])
    first = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    assert text == _by_engine(policy, first) + "\n"
    assert chat.messages == [{"role": "user", "content": "hello"}, {"role": "assistant", "content": text[:-1]}]
    more, _ = _said(policy, ["hello", "and then"])
    second = f"{first}{text[:-1]}<|im_end|>\n<|im_start|>user\nand then<|im_end|>\n<|im_start|>assistant\n"
    assert more == text + _by_engine(policy, second) + "\n"


def test_commands(policy: Policy) -> None:
    text, chat = _said(policy, ["/system be brief", "hi", "/reset", "/what", "  ", "/quit", "never"])
    assert [m["role"] for m in chat.messages] == ["system"]
    assert chat.messages[0]["content"] == "be brief"
    shown = "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert text.splitlines()[0] == "(system message set)"
    assert _by_engine(policy, shown) in text
    assert "(a new conversation)\n/system TEXT sets" in text
    assert chat.turn == 1  # of "hi" alone
    assert _said(policy, ["/system be brief", "/system"])[1].messages == []


def test_the_seed_decides_and_the_global_generator_stays(policy: Policy) -> None:
    manner = Manner(temperature=1.0, max_new_tokens=12, seed=3)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = _said(policy, ["a", "b"], manner)[0]
    assert torch.equal(torch.rand(1), expected)
    assert _said(policy, ["a", "b"], manner)[0] == first
    assert _said(policy, ["a", "b"], Manner(temperature=1.0, max_new_tokens=12, seed=4))[0] != first
    assert _said(policy, ["a"] * 2, manner)[0] != "\n".join([_said(policy, ["a"], manner)[0]] * 2)


def test_an_interrupt_ends_the_answer_alone(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    def write(text: str) -> None:
        written.append(text)
        if len(written) == 3:
            raise KeyboardInterrupt

    chat = Chat(policy, GREEDY, write)
    chat.run(["hello", "/reset"])
    text = "".join(written)
    assert " (interrupted)\n" in text
    assert text.endswith("(a new conversation)\n")
    assert chat.turn == 1


def test_a_full_context_is_said_and_the_question_forgotten(policy: Policy) -> None:
    text, chat = _said(policy, ["x" * 600, "hi"])
    assert "model's context is full: /reset)\n" in text
    assert chat.messages[0]["content"] == "hi"


def test_without_a_template_text_is_continued(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy.tokenizer, "chat_template", None)
    text, chat = _said(policy, ["1 + 1 =", "/system x"])
    assert text.startswith(_by_engine(policy, "<bos>1 + 1 =") + "\n")
    assert "no chat template" in text
    assert chat.messages == []


def test_a_terminal_is_read_to_its_end_and_an_interrupt_drops_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    events: Iterator[object] = iter(["one", KeyboardInterrupt(), "two", EOFError()])

    def read(prompt: str) -> str:
        event = next(events)
        if isinstance(event, BaseException):
            raise event
        return str(event)

    monkeypatch.setattr(builtins, "input", read)
    assert list(typed()) == ["one", "two"]


def test_a_template_that_refuses_is_a_line_and_the_conversation_goes_on() -> None:
    policy = tiny_policy(lora=None)
    no_system = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system\nrole') }}{% endif %}"
    policy.tokenizer.chat_template = no_system + str(policy.tokenizer.chat_template)
    text, chat = _said(policy, ["/system be brief", "hello", "/system", "hello"])
    assert "(the model's chat template refuses this conversation: no system role)\n(no system message)\n" in text
    assert [m["role"] for m in chat.messages] == ["user", "assistant"]


def test_a_models_own_habits_of_generation_do_not_count() -> None:
    policy = tiny_policy(lora=None)
    expected = _said(policy, ["hello"])[0]
    policy.model.generation_config.repetition_penalty = 50.0  # type: ignore[union-attr]
    policy.model.generation_config.no_repeat_ngram_size = 1  # type: ignore[union-attr]
    assert _said(policy, ["hello"])[0] == expected
