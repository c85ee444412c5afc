"""When a row of sampled tokens ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tessera.core.types import FinishReason
from tessera.policy.load import Policy

# A token writes one character at least, but for bytes that only together make one: four at most.
TOKENS_BESIDE = 4


class Stops:
    """The ends of `policy`'s texts, and `texts` that end one too."""

    def __init__(self, policy: Policy, texts: Sequence[str] = ()) -> None:
        self.tokenizer: Any = policy.tokenizer
        self.eos_ids = policy.eos_ids
        self.texts = tuple(texts)
        self.tail = max(map(len, self.texts), default=0) + TOKENS_BESIDE

    def reason(self, ids: Sequence[int], logps: Sequence[float], limit: int) -> FinishReason | None:
        """Why a row with these tokens and log-probs is done; None when it goes on."""
        if math.isnan(logps[-1]):
            return "error"
        if ids[-1] in self.eos_ids or self._said(ids):
            return "stop"
        return "length" if len(ids) >= limit else None

    def _said(self, ids: Sequence[int]) -> bool:
        if not self.texts:
            return False
        text = self.tokenizer.decode(list(ids[-self.tail :]))
        return any(stop in text for stop in self.texts)
