"""The in-process engine: samples with the trainer's own transformers model, so weights are never out of step."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tessera.core.errors import RunStopped
from tessera.core.types import Completion
from tessera.policy.adapters import unchanging
from tessera.policy.load import Policy
from tessera.policy.prefix import causal_lm
from tessera.policy.trunk import packs
from tessera.rollout.engine import Feed, Listed, Request, Sampling
from tessera.rollout.padded import Padded
from tessera.rollout.refill import Refill


class HFEngine:
    """Samples from `policy` with at most `max_rows` rows at a time."""

    apart = False

    def __init__(self, policy: Policy, max_rows: int = 128) -> None:
        self.policy = policy
        self.max_rows = max_rows

    @property
    def context_length(self) -> int | None:
        """That of the model."""
        return self.policy.context_length

    def sync(self) -> None:
        """Nothing to do: the engine holds the trainer's model itself."""

    def fingerprint(self) -> str:
        """See Engine."""
        return self.policy.fingerprint()

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """See Engine.

        A row whose values are not finite ends in an error of its own; where all do, RunStopped says so.
        """
        if not requests:
            return []
        feed = Listed(requests, sampling)
        self.serve(feed, sampling)
        done = feed.completions()
        if all(completion.finish_reason == "error" for completion in done):
            raise RunStopped(
                "the model computes values that are not finite while sampling: try model.dtype float32 or bfloat16, "
                "and check the weights"
            )
        return done

    def serve(self, feed: Feed, sampling: Sampling) -> None:
        """See Engine. The model is in eval mode while it samples."""
        training = self.policy.model.training
        self.policy.model.eval()
        try:
            with torch.inference_mode(), unchanging(self.policy.model):
                if packs(causal_lm(self.policy.model)):
                    Refill(self.policy, feed, sampling, self.max_rows).run()
                else:
                    self._in_batches(feed, sampling)
        finally:
            self.policy.model.train(training)

    def _in_batches(self, feed: Feed, sampling: Sampling) -> None:
        while requests := feed.take(self.max_rows, wait=True):
            for request, done in zip(requests, Padded(self.policy, requests, sampling).run(), strict=True):
                feed.put(request, done)
