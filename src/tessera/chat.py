"""What `tessera chat` does: a conversation in the terminal with a model, or with what a run has made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jinja2
import torch
from transformers import TextStreamer

from tessera.core.errors import UserError
from tessera.core.seeding import forked
from tessera.policy.adapters import unchanging
from tessera.policy.load import Policy

HELP = "/system TEXT sets the system message, /reset begins anew, /quit ends; Ctrl-C ends an answer"


@dataclass(frozen=True)
class Manner:
    """How answers are sampled. `temperature` 0 takes the likeliest token."""

    temperature: float = 0.7
    max_new_tokens: int = 512
    seed: int = 0


@dataclass
class Chat:
    """A conversation with `policy`; answers go to `write` as they grow.

    Without a chat template what is typed is continued as it is, and nothing is remembered.
    """

    policy: Policy
    manner: Manner
    write: Callable[[str], None]
    variables: Mapping[str, Any] = field(default_factory=dict)
    messages: list[dict[str, str]] = field(default_factory=list)
    turn: int = 0

    @property
    def templated(self) -> bool:
        """Whether the model has a chat template."""
        return self.policy.tokenizer.chat_template is not None

    def run(self, lines: Iterable[str]) -> None:
        """Answer every line, until /quit or the end of `lines`. What a line does wrong is a line of its own."""
        for line in lines:
            text = line.strip()
            if text == "/quit":
                return
            if text.startswith("/"):
                self.write(self._command(text) + "\n")
            elif text:
                self._answer(text)

    def reset(self) -> None:
        """Forget all but the system message."""
        self.messages = [m for m in self.messages if m["role"] == "system"]

    def _command(self, text: str) -> str:
        name, _, rest = text.partition(" ")
        if name == "/reset":
            self.reset()
            return "(a new conversation)"
        if name == "/system" and self.templated:
            own = [{"role": "system", "content": rest.strip()}] if rest.strip() else []
            self.messages = [*own, *(m for m in self.messages if m["role"] != "system")]
            return "(system message set)" if own else "(no system message)"
        if name == "/system":
            return "(the model has no chat template, so there is no system message)"
        return HELP

    def _answer(self, text: str) -> None:
        """Sample an answer. Ctrl-C keeps what there is of it; an answer that does not fit forgets the question."""
        self.messages.append({"role": "user", "content": text})
        stream: Any = _Stream(self.policy.tokenizer, self.write)
        try:
            self._generate(self._prompt(text), stream)
        except UserError as error:
            self.messages.pop()
            self.write(f"({error})\n")
            return
        except KeyboardInterrupt:
            stream.end()
            self.write(" (interrupted)")
        self.write("\n")
        if self.templated:
            self.messages.append({"role": "assistant", "content": stream.text})
        else:
            self.messages.clear()
        self.turn += 1

    def _prompt(self, text: str) -> list[int]:
        tokenizer: Any = self.policy.tokenizer
        if not self.templated:
            return list(tokenizer(text)["input_ids"])
        try:
            ids = tokenizer.apply_chat_template(
                self.messages, add_generation_prompt=True, tokenize=True, return_dict=True, **self.variables
            )
        except jinja2.TemplateError as error:  # some know no system message, or want turns by turns
            why = " ".join(str(error).split())
            raise UserError(f"the model's chat template refuses this conversation: {why}") from None
        return list(ids["input_ids"])

    def _generate(self, ids: list[int], stream: TextStreamer) -> None:
        manner, policy = self.manner, self.policy
        room = (policy.context_length or len(ids) + manner.max_new_tokens) - len(ids)
        if room < 1:
            raise UserError(f"the conversation has {len(ids)} tokens and the model's context is full: /reset")
        drawn = {"do_sample": True, "temperature": manner.temperature, "top_k": 0, "top_p": 1.0}
        prompt = torch.tensor([ids], device=policy.device)
        model: Any = policy.model
        with forked(policy.device), torch.inference_mode(), unchanging(model):
            torch.manual_seed(manner.seed + self.turn)
            model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                streamer=stream,
                max_new_tokens=min(room, manner.max_new_tokens),
                eos_token_id=sorted(policy.eos_ids),
                pad_token_id=policy.pad_id,
                repetition_penalty=1.0,  # in place of what a model may bring
                no_repeat_ngram_size=0,
                **(drawn if manner.temperature > 0 else {"do_sample": False}),
            )


def typed(prompt: str = "> ") -> Iterator[str]:
    """Lines typed at a terminal until its end (Ctrl-D); Ctrl-C drops the line."""
    while True:
        try:
            line = input(prompt)
        except EOFError:
            return
        except KeyboardInterrupt:
            print()
            continue
        yield line


class _Stream(TextStreamer):
    """Passes on the text of an answer as it grows, and keeps it."""

    def __init__(self, tokenizer: Any, write: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.write = write
        self.text = ""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Called by transformers with what is certain of the text."""
        self.text += text
        self.write(text)
