"""From a problem to the ids of its prompt, once: what the model samples from is what is trained on.

The whole prompt is one text, the assistant's prefill at its end, and is encoded in one piece: a token may span the
seam between template and prefill, as it would in any text the model has read. Ids that a model samples are never
decoded and encoded again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import jinja2.meta

from tessera.core.errors import UserError, nearest
from tessera.core.types import Message, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tessera.policy.load import Policy

_SET_HERE = {"messages", "add_generation_prompt"}
_GENERATION_TAGS = re.compile(r"{%-?\s*(?:end)?generation\s*-?%}")


def render(
    policy: Policy | PreTrainedTokenizerBase,
    problem: Problem,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> list[int]:
    """The ids of `problem`'s prompt, prefill included.

    Messages go through the tokenizer's chat template with an open assistant turn; the template writes the special
    tokens. Plain text is encoded with the special tokens that the tokenizer puts in front of a text, and none behind.

    Raises UserError when messages meet a tokenizer without chat template, the template refuses them, or
    `chat_template_kwargs` names a variable that the template does not read (or that means nothing to plain text).
    """
    tokenizer: Any = getattr(policy, "tokenizer", policy)
    kwargs = dict(chat_template_kwargs or {})
    if isinstance(problem.prompt, str):
        if kwargs:
            raise UserError(f"chat_template_kwargs {sorted(kwargs)} given, but problem {problem.id!r} is plain text")
        return _encode_plain(tokenizer, problem.prompt + problem.prefill)
    text = _chat_text(tokenizer, problem, problem.prompt, kwargs) + problem.prefill
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def check_fits(prompt_ids: Sequence[int], max_new_tokens: int, context_length: int | None, problem_id: str) -> None:
    """UserError when the prompt and the longest completion exceed the model's context. Prompts are never cut."""
    if context_length is not None and len(prompt_ids) + max_new_tokens > context_length:
        raise UserError(
            f"problem {problem_id!r} does not fit: {len(prompt_ids)} prompt tokens + {max_new_tokens} new tokens"
            f" exceed the model's {context_length}; lower max_new_tokens or drop the problem"
        )


def read_template(file: str | Path) -> str:
    """The text of a chat template file; UserError when it is not there or is not valid jinja."""
    try:
        template = Path(file).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"chat template {str(file)!r} cannot be read: {error}") from error
    template_variables(template)
    return template


@lru_cache(maxsize=32)
def template_variables(template: str) -> frozenset[str]:
    """The names that a chat template reads from outside; UserError when it is not valid jinja."""
    # transformers' own pair of tags, which plain jinja does not know; what they enclose stays.
    plain = _GENERATION_TAGS.sub("", template)
    environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"], autoescape=False)
    try:
        return frozenset(jinja2.meta.find_undeclared_variables(environment.parse(plain)))
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"the chat template is not valid jinja: {error.message} (line {error.lineno})") from error


def _chat_text(
    tokenizer: PreTrainedTokenizerBase, problem: Problem, messages: Sequence[Message], kwargs: dict[str, Any]
) -> str:
    if not tokenizer.chat_template:
        raise UserError(
            f"problem {problem.id!r} has messages, but the tokenizer has no chat template:"
            " set prompt.style to plain, or model.chat_template to a jinja file"
        )
    _check_kwargs(tokenizer.get_chat_template(), kwargs)
    turns = [{"role": m.role, "content": m.content} for m in messages]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **kwargs)
    except jinja2.TemplateError as error:
        raise UserError(f"the chat template refuses problem {problem.id!r}: {error}") from error
    return str(text)


def _check_kwargs(template: str, kwargs: Mapping[str, Any]) -> None:
    known = template_variables(template) - _SET_HERE
    for name in kwargs:
        if name in _SET_HERE:
            raise UserError(f"chat_template_kwargs may not set {name!r}: it comes from the problem")
        if name not in known:
            raise UserError(f"the chat template reads no variable {name!r}{nearest(name, known)}")


def _encode_plain(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    bare = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    full = list(tokenizer(text)["input_ids"])
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return full[: start + len(bare)]  # an end token behind the text would tell the model to stop
    raise UserError("the tokenizer changes a text when it adds special tokens; prompt.style chat may work")
