"""Tools and an engine that do what a test says."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tessera.core.types import Completion
from tessera.environments.tool import ToolFailed, text_argument, text_parameters
from tessera.policy.load import Policy
from tessera.rollout.engine import Feed, Listed, Request, Sampling

EOS = 2


class Echo:
    """A tool that says back what it is told, or does what `does` says."""

    main = "text"
    description = "says it again"
    parameters: Mapping[str, Any] = text_parameters("text", "what to say")

    def __init__(self, name: str = "echo", does: Callable[[str], str] = str.upper) -> None:
        self.name, self.does = name, does
        self.closed = False

    def call(self, arguments: Mapping[str, Any], limit: float) -> str:
        return self.does(text_argument(arguments, "text"))

    def close(self) -> None:
        self.closed = True


def unreliable(seed: int, hang: float) -> Callable[[str], str]:
    """Fails in a fifth of its calls, hangs in a twentieth, by what it is told."""

    def does(text: str) -> str:
        luck = random.Random(f"{seed} {text}").random()
        if luck < 0.05:
            time.sleep(hang)
        if 0.05 <= luck < 0.15:
            raise RuntimeError("it broke")
        if 0.15 <= luck < 0.25:
            raise ToolFailed("unavailable", "not now")
        return f"heard {text}"

    return does


class Scripted:
    """An engine that writes what `script` says to a request, some rows at a time, in any order."""

    apart = True  # it needs no weights

    def __init__(self, policy: Policy, script: Callable[[Request, str], str], seed: int = 0, rows: int = 8) -> None:
        self.policy, self.script, self.rows = policy, script, rows
        self.source = random.Random(seed)
        self.context_length = policy.context_length
        self.asked: list[Request] = []
        self.threads: set[int] = set()

    def sync(self) -> None:
        """It says what it is told, whatever the weights."""

    def fingerprint(self) -> str:
        return self.policy.fingerprint()

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        feed = Listed(requests, sampling)
        self.serve(feed, sampling)
        return feed.completions()

    def serve(self, feed: Feed, sampling: Sampling) -> None:
        tokenizer: Any = self.policy.tokenizer
        live: list[Request] = []
        while live or (live := feed.take(self.rows, wait=True)):
            live += feed.take(self.rows - len(live), wait=False)
            request = live.pop(self.source.randrange(len(live)))
            self.asked.append(request)
            self.threads.add(threading.get_ident())
            said = self.script(request, tokenizer.decode(list(request.prompt_ids)))
            ids = tokenizer(said, add_special_tokens=False)["input_ids"]
            limit = request.max_new_tokens or sampling.max_new_tokens
            stopped = any(said.endswith(stop) for stop in sampling.stop)
            ids = ids if stopped else [*ids, EOS]
            reason = "stop" if len(ids) <= limit else "length"
            ids = ids[:limit]
            feed.put(request, Completion(tuple(ids), tuple(-0.01 * t for t in range(len(ids))), reason))
