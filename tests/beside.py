"""An engine with weights of its own, as one in another process has: it samples by what was synced last."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

from tessera.core.types import Completion
from tessera.policy.adapters import adapter_state, set_adapter_state
from tessera.policy.load import Policy
from tessera.rollout.engine import Request, Sampling
from tessera.rollout.hf import HFEngine


class Beside(HFEngine):
    """Samples from a copy of `trainer`. `sampled` are the fingerprints that each call sampled by; `before` is called
    at the beginning of each. With `holes` every fourth log-prob is not known."""

    apart = True

    def __init__(self, trainer: Policy, before: Callable[[], object] = lambda: None, holes: bool = True) -> None:
        super().__init__(copy.deepcopy(trainer))
        self.trainer, self.before, self.holes = trainer, before, holes
        self.sampled: list[str] = []
        self.synced: list[str] = []

    def sync(self) -> None:
        set_adapter_state(self.policy.model, adapter_state(self.trainer.model))
        self.synced.append(self.fingerprint())

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        self.before()
        self.sampled.append(self.fingerprint())
        found = super().generate(requests, sampling)
        if not self.holes:
            return found
        return [Completion(c.ids, _holed(c.logprobs), c.finish_reason) for c in found]


def _holed(logprobs: Sequence[float]) -> tuple[float, ...]:
    return tuple(math.nan if t % 4 == 3 else logp for t, logp in enumerate(logprobs))
