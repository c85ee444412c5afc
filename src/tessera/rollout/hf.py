"""The in-process engine: samples with the trainer's own transformers model, so weights are never out of step."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tessera.core.errors import RunStopped
from tessera.core.types import Completion
from tessera.policy.load import Policy
from tessera.policy.prefix import causal_lm
from tessera.policy.trunk import packs
from tessera.rollout.engine import Request, Sampling
from tessera.rollout.padded import Padded
from tessera.rollout.refill import Refill


class HFEngine:
    """Samples from `policy` with at most `max_rows` rows at a time."""

    def __init__(self, policy: Policy, max_rows: int = 128) -> None:
        self.policy = policy
        self.max_rows = max_rows

    def sync(self) -> None:
        """Nothing to do: the engine holds the trainer's model itself."""

    def fingerprint(self) -> str:
        """See Engine."""
        return self.policy.fingerprint()

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """See Engine. The model is in eval mode while it samples.

        A row whose values are not finite ends in an error of its own; where all do, RunStopped says so.
        """
        if not requests:
            return []
        training = self.policy.model.training
        self.policy.model.eval()
        try:
            with torch.inference_mode():
                done = self._sampled(requests, sampling)
        finally:
            self.policy.model.train(training)
        if all(completion.finish_reason == "error" for completion in done):
            raise RunStopped(
                "the model computes values that are not finite while sampling: try model.dtype float32 or bfloat16, "
                "and check the weights"
            )
        return done

    def _sampled(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        if packs(causal_lm(self.policy.model)):
            return Refill(self.policy, requests, sampling, self.max_rows).run()
        order = sorted(range(len(requests)), key=lambda i: (len(requests[i].prompt_ids), requests[i].prompt_ids))
        done: dict[int, Completion] = {}
        for start in range(0, len(order), self.max_rows):
            rows = order[start : start + self.max_rows]
            done.update(zip(rows, Padded(self.policy, [requests[i] for i in rows], sampling).run(), strict=True))
        return [done[i] for i in range(len(requests))]
