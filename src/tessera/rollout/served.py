"""The engine over a server of its own weights: syncs the adapter alone, checks what is served, checks every row.

The adapter is saved to a folder named after its fingerprint and loaded under a name never used before, so that nothing
that the server has cached under an old name is met again. It is never merged into the base. What a server then says it
serves is looked up, and what it does serve is tried (tessera.rollout.probe).
"""

from __future__ import annotations

import logging
import math
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from shutil import rmtree
from typing import Any, Literal, NamedTuple, Protocol

import torch

from tessera.core.errors import RunStopped, UserError
from tessera.core.types import Completion
from tessera.policy.adapters import save_adapter
from tessera.policy.load import Policy
from tessera.rollout.engine import Feed, Listed, Request, Sampling
from tessera.rollout.probe import ROUNDING, Probe

log = logging.getLogger("tessera")

SleepLevel = Literal[1, 2]
TRIAL = Sampling(max_new_tokens=16, temperature=2.0)


class Sampled(NamedTuple):
    """A row as a server returned it: `stop` is the text or token that ended it, `failure` why there is none."""

    prompt_ids: Sequence[int] = ()
    ids: Sequence[int] = ()
    logprobs: Sequence[float] = ()
    finish_reason: str | None = None
    stop: str | int | None = None
    text: str = ""
    failure: str | None = None


Put = Callable[[Request, Sampled], None]


class Backend(Protocol):
    """What is asked of a server; its errors are RunStopped, in one line.

    `name` names it in errors. `context_length` is in tokens. `apart` is whether it can work while the trainer does.
    """

    name: str
    context_length: int
    apart: bool

    def load(self, name: str, folder: Path) -> None:
        """Serve the adapter in `folder` as `name`."""

    def unload(self, name: str) -> None:
        """Serve `name` no longer. None is no error."""

    def adapters(self) -> Mapping[str, str]:
        """By name, the folders of the adapters that it says it serves."""

    def score(self, name: str | None, ids: Sequence[int]) -> list[float]:
        """Log-probs, at temperature 1, of `ids` after the first under adapter `name`, or without one."""

    def serve(self, name: str, feed: Feed, sampling: Sampling, end_ids: Sequence[int], put: Put) -> None:
        """Answer what `feed` asks for, as it asks; a row ends with any of `end_ids`. A row that failed says why."""

    def sleep(self, level: SleepLevel) -> None:
        """Free the device; at level 2 the weights are gone."""

    def wake(self, level: SleepLevel) -> None:
        """Be ready again, with the base model's weights; after level 2 without any adapter's."""

    def close(self) -> None:
        """Let go of what is held."""


class ServedEngine:
    """Samples through `backend`. With `sleep` it sleeps whenever it is not asked for anything.

    `folder` is where adapters are written, and has to be the same path for the server; None is a temporary folder. The
    engine is a context manager: it takes its adapter from the server at the end.
    """

    def __init__(
        self,
        policy: Policy,
        backend: Backend,
        *,
        tolerance: float,
        folder: Path | None = None,
        sleep: SleepLevel | None = None,
    ) -> None:
        self.policy = policy
        self.backend = backend
        self.context_length = min(backend.context_length, policy.context_length or backend.context_length)
        self.probe = Probe(policy, tolerance, backend.name, self.context_length)
        self._prefix = f"tessera-{uuid.uuid4().hex[:12]}"
        self._syncs = 0
        self._name: str | None = None
        self._fingerprint: str | None = None
        self._sleep = sleep
        self._asleep = sleep is not None  # an earlier run may have left it so
        self._text_told = False
        self._own = Path(tempfile.mkdtemp(prefix="tessera-adapters-", dir=folder)).resolve()

    @property
    def apart(self) -> bool:
        """See Engine: one that has to sleep shares the trainer's device."""
        return self.backend.apart and self._sleep is None

    def __enter__(self) -> ServedEngine:
        try:
            self._try_out()
        except RunStopped as error:  # nothing has begun that could be stopped
            self.close()
            raise UserError(str(error)) from error
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the adapter from the server and the folder from the disk."""
        try:
            if self._name is not None:
                self.backend.unload(self._name)
        except RunStopped as error:
            log.warning("%s", error)
        finally:
            self.backend.close()
            rmtree(self._own, ignore_errors=True)

    def sync(self) -> None:
        """Serve the trainer's present adapter, and see that it is served. RunStopped when it is not."""
        self._wake()
        fingerprint = self.policy.fingerprint()
        if fingerprint != self._fingerprint or self._name not in self.backend.adapters():
            self._serve(fingerprint)
        self.probe.adapter(self.backend.score(self._name, self.probe.ids))

    def fingerprint(self) -> str:
        """The fingerprint in the path of the adapter that the server says it serves."""
        self._wake()
        return Path(self.backend.adapters().get(self._name or "", "none")).name

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """See Engine."""
        if not requests:
            return []
        feed = Listed(requests, sampling)
        self.serve(feed, sampling)
        return feed.completions()

    def serve(self, feed: Feed, sampling: Sampling) -> None:
        """See Engine. A row that failed ends in an error of its own; where all do, RunStopped says so."""
        self._wake()
        errors: list[str | None] = []

        def put(request: Request, row: Sampled) -> None:
            completion = self._completion(row, request, sampling)
            errors.append(completion.error)
            feed.put(request, completion)

        self.backend.serve(self._served_name(), feed, sampling, sorted(self.policy.eos_ids), put)
        self._rest()
        failed = [error for error in errors if error is not None]
        if failed and len(failed) == len(errors):
            raise RunStopped(f"every completion failed; the first error of {self.backend.name}: {failed[0]}")
        if failed:
            log.warning("%d of %d completions failed; the first: %s", len(failed), len(errors), failed[0])

    def _try_out(self) -> None:
        """Everything that can be wrong with a server is said before a run begins."""
        self._wake()
        self.probe.base(self.backend.score(None, self.probe.ids))
        self.sync()
        (trial,) = self.generate([Request(self.probe.ids[:32], 0)], TRIAL)
        own_T = self.probe.score((*self.probe.ids[:32], *trial.ids), TRIAL.temperature)[-len(trial.ids) :]
        gap = float((torch.tensor(trial.logprobs) - own_T).abs().mean())
        if not gap <= self.probe.tolerance:
            raise UserError(
                f"{self.backend.name} does not give log-probs at the sampling temperature (they are off by {gap:.3g} "
                f"at temperature {TRIAL.temperature:g}): start it with --logprobs-mode processed_logprobs"
            )

    def _served_name(self) -> str:
        if self._name is None:
            raise RunStopped(f"{self.backend.name} was asked for completions before its first sync")
        return self._name

    def _serve(self, fingerprint: str) -> None:
        old, self._syncs = self._name, self._syncs + 1
        if old is not None:
            self.backend.unload(old)
        self._name, self._fingerprint = f"{self._prefix}-{self._syncs}", fingerprint
        folder = self._own / str(self._syncs) / fingerprint
        save_adapter(self.policy.model, folder)  # type: ignore[arg-type]
        self.backend.load(self._name, folder)
        rmtree(self._own / str(self._syncs - 1), ignore_errors=True)

    def _wake(self) -> None:
        if not self._asleep or self._sleep is None:
            return
        self.backend.wake(self._sleep)
        self._asleep = False
        if self._name is None:
            return
        if self._sleep == 2:
            self._reload()
        self.probe.awake(self.backend.score(self._name, self.probe.ids))

    def _reload(self) -> None:
        """The adapter that was served before, under a new name: the trainer's may be another by now."""
        folder = self._own / str(self._syncs) / str(self._fingerprint)
        self.backend.unload(self._served_name())
        self._syncs += 1
        self._name = f"{self._prefix}-{self._syncs}"
        moved = self._own / str(self._syncs) / folder.name
        moved.parent.mkdir()
        folder.rename(moved)
        self.backend.load(self._name, moved)

    def _rest(self) -> None:
        if self._sleep is not None:
            self.backend.sleep(self._sleep)
            self._asleep = True

    def _completion(self, row: Sampled, request: Request, sampling: Sampling) -> Completion:
        error = row.failure or _wrong(row, request, sampling) or self._bad_end(row, sampling)
        if error is not None:
            return Completion((), (), "error", error=error)
        self._compare_text(row)
        reason: Literal["stop", "length"] = "stop" if row.finish_reason == "stop" else "length"
        return Completion(tuple(row.ids), tuple(row.logprobs), reason)

    def _bad_end(self, row: Sampled, sampling: Sampling) -> str | None:
        if row.finish_reason == "length":
            return None
        if row.finish_reason == "stop" and (row.ids[-1] in self.policy.eos_ids or row.stop in sampling.stop):
            return None
        return f"a completion ended for the reason {row.finish_reason!r} with token {row.ids[-1]}, which ends none here"

    def _compare_text(self, row: Sampled) -> None:
        """The ids are what counts; a server that reads them otherwise has another tokenizer, which is said once."""
        tokenizer: Any = self.policy.tokenizer
        ids = [i for i in row.ids if i not in self.policy.eos_ids]
        own = str(tokenizer.decode(ids, skip_special_tokens=True)).rstrip("\ufffd")
        theirs = row.text.rstrip("\ufffd")
        cut = isinstance(row.stop, str) and own.startswith(theirs)  # servers leave out the text that ended a row
        if own != theirs and not cut and not self._text_told:
            self._text_told = True
            log.warning(
                "%s writes the ids of a completion as %r, this tokenizer as %r: the ids count, but is it the same one?",
                self.backend.name,
                theirs[:40],
                own[:40],
            )


def _wrong(row: Sampled, request: Request, sampling: Sampling) -> str | None:
    """What is wrong with a row, whatever the model."""
    if tuple(row.prompt_ids) != request.prompt_ids:
        return f"the prompt was changed: {len(request.prompt_ids)} tokens were sent, {len(row.prompt_ids)} were read"
    if not row.ids:
        return "a completion is empty"
    if len(row.ids) > (limit := request.max_new_tokens or sampling.max_new_tokens):
        return f"a completion has {len(row.ids)} tokens, {limit} were asked for"
    if len(row.logprobs) != len(row.ids):
        return f"a completion of {len(row.ids)} tokens has {len(row.logprobs)} log-probs"
    if not all(math.isfinite(logp) and logp < ROUNDING for logp in row.logprobs):
        return "log-probs are not finite, or above 0"
    return None
