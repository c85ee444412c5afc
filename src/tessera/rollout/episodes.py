"""Episodes with tools on any engine: while tools work on some rows, the others are sampled."""

from __future__ import annotations

import math
import queue
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from tessera.core.errors import UserError
from tessera.core.seeding import derive
from tessera.core.types import Completion, Message, Problem
from tessera.environments.episode import Episode, Limits, Words, longest
from tessera.environments.settings import EnvironmentSettings, tools_of
from tessera.environments.syntax import Result, Syntax, Tags, Template
from tessera.environments.tool import Call, Tool
from tessera.policy.load import Policy
from tessera.rollout.engine import Engine, Request, Sampling
from tessera.rollout.toolbox import Toolbox
from tessera.tasks.data import locate

Ended = Callable[[int, Episode], None]


def _nothing(i: int, episode: Episode) -> None:
    """Nobody waits for an episode to end."""


class Opening(NamedTuple):
    """How an episode begins: its prompt, the tokens of an earlier one that it goes on from, the seed of its streams."""

    prompt_ids: tuple[int, ...]
    prefix_ids: tuple[int, ...]
    prefix_sampled: tuple[bool, ...]
    seed: int


class Tooled:
    """What turns sampling into episodes: a way to call tools, the tools, and limits. `variables` are those that the
    chat template is told in prompts, and so between turns too."""

    def __init__(
        self,
        policy: Policy,
        settings: EnvironmentSettings,
        tools: Sequence[Tool],
        variables: Mapping[str, Any] | None = None,
    ) -> None:
        self.words = words_of(policy)
        syntax: Tags | Template = Tags(tools)
        if settings.syntax == "template":
            tokenizer: Any = policy.tokenizer
            syntax = Template(tools, tokenizer, tokenizer.convert_ids_to_tokens(sorted(policy.eos_ids)), variables)
        _check_readable(syntax.marks, self.words)
        self.syntax: Syntax = syntax
        self.toolbox = Toolbox(tools, settings.seconds, settings.at_once)
        self.turns, self.result_tokens = settings.turns, settings.result_tokens
        self.introduces, self.seconds = settings.introduce, settings.episode_seconds or math.inf

    def introduced(self, problem: Problem) -> Problem:
        """`problem` with a word on the tools at the head of its prompt."""
        if not self.introduces:
            return problem
        said = self.syntax.introduction()
        if isinstance(problem.prompt, str):
            return replace(problem, prompt=f"{said}\n\n{problem.prompt}")
        first, rest = problem.prompt[0], problem.prompt[1:]
        if first.role == "system":
            return replace(problem, prompt=(Message("system", f"{first.content}\n\n{said}"), *rest))
        return replace(problem, prompt=(Message("system", said), first, *rest))

    def length(self, tokens: int) -> int:
        """Tokens that an episode has at most behind its prompt, of which the model writes `tokens`."""
        return longest(self.syntax, self.words, self._limits(tokens))

    def run(
        self, engine: Engine, openings: Sequence[Opening], sampling: Sampling, tokens: int, ended: Ended = _nothing
    ) -> list[Episode]:
        """An episode for each opening, in their order, in which the model writes at most `tokens` tokens.

        `ended(i, episode)` is called when the i-th is over, while others go on.
        """
        limits = self._limits(tokens)
        episodes = [
            Episode(self.syntax, self.words, limits, list(o.prefix_ids), list(o.prefix_sampled)) for o in openings
        ]
        length = max(len(o.prompt_ids) for o in openings) + self.length(tokens)
        cut = sampling.model_copy(update={"stop": (*sampling.stop, *self.syntax.stops), "keep_trunk": False})
        running = _Running(episodes, openings, self.toolbox, length, seconds=self.seconds, ended=ended)
        engine.serve(running, cut)
        return episodes

    def _limits(self, tokens: int) -> Limits:
        return Limits(self.turns, tokens, self.result_tokens)


@contextmanager
def open_tools(
    policy: Policy,
    settings: EnvironmentSettings | None,
    folder: Path | None,
    variables: Mapping[str, Any] | None = None,
) -> Iterator[Tooled | None]:
    """The tools of a recipe, closed at the end; None where it names none. Files are looked up in the working
    directory, then in `folder`. `variables` are the chat template's."""
    if settings is None:
        yield None
        return
    tools = tools_of(settings.tools, lambda path: locate(path, folder))
    tooled = Tooled(policy, settings, tools, variables)
    try:
        yield tooled
    finally:
        tooled.toolbox.close()


class _Running:
    """The feed of episodes: see Feed. Tools answer through a queue, which is read where rows are taken."""

    def __init__(
        self,
        episodes: Sequence[Episode],
        openings: Sequence[Opening],
        toolbox: Toolbox,
        length: int,
        *,
        seconds: float,
        ended: Ended,
    ) -> None:
        self.size, self.length, self.ended = len(episodes), length, ended
        self.until = [math.inf] * len(episodes)
        self.seconds = seconds
        self.episodes, self.openings, self.toolbox = episodes, openings, toolbox
        self.answered: queue.SimpleQueue[tuple[int, Sequence[Call], list[Result]]] = queue.SimpleQueue()
        self.working = 0
        order = sorted(range(len(openings)), key=lambda i: (len(openings[i].prompt_ids), openings[i].prompt_ids))
        self.ready = deque(self._request(i) for i in order)

    def take(self, most: int, wait: bool) -> list[Request]:
        while self.working and (not self.answered.empty() or (wait and not self.ready)):
            key, calls, results = self.answered.get()
            self.working -= 1
            self.episodes[key].put(calls, results)
            self.ready.append(self._request(key))
        taken = [self.ready.popleft() for _ in range(min(most, len(self.ready)))]
        for request in taken:
            self.until[request.key] = min(self.until[request.key], time.monotonic() + self.seconds)
        return taken

    def put(self, request: Request, completion: Completion) -> None:
        key = request.key
        episode = self.episodes[key]
        calls = episode.add(completion)
        if calls and time.monotonic() > self.until[key]:
            episode.finish_reason, calls = "length", []
        if calls:
            self.working += 1
            self.toolbox.submit(calls, lambda results: self.answered.put((key, calls, results)))
        else:
            self.ended(key, episode)

    def _request(self, key: int) -> Request:
        episode, opening = self.episodes[key], self.openings[key]
        turns = len(episode.turns)
        seed = derive(opening.seed, "turn", turns) if turns else opening.seed
        return Request(opening.prompt_ids + tuple(episode.ids), seed, key, episode.left)


def _check_readable(marks: Sequence[str], words: Words) -> None:
    """UserError for a mark of a call that a tokenizer leaves out of the text, as it does special tokens: no call would
    ever be seen."""
    for mark in marks:
        if mark not in words.decode(words.encode(mark, True)):
            raise UserError(f"the tokenizer leaves {mark} out of the text of a turn, so no call can be read: is it one "
                            "of its special tokens? use another environment.syntax")  # fmt: skip


def words_of(policy: Policy) -> Words:
    """The tokenizer of a policy as an episode uses it."""
    tokenizer: Any = policy.tokenizer

    def encode(text: str, special: bool) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False, split_special_tokens=not special)["input_ids"])

    def decode(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=True))

    return Words(encode, decode, frozenset(policy.eos_ids))
