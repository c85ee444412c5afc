"""Whether an engine serves the trainer's weights: both score one fixed text, and what they say must agree.

Two things are asked of the engine's log-probs. They lie near the trainer's: within a tolerance, which has to allow for
another precision and other kernels. And they follow it: when the trainer's have moved, the engine's have moved with
them, as far as the engine's own noise lets that be seen. An engine that goes on serving what it served gives the very
same numbers, and is found after any update; one that serves something else, once the trainer has moved by more than the
noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tessera.core.errors import RunStopped, UserError
from tessera.core.types import Problem
from tessera.policy.load import Policy
from tessera.policy.prompting import render
from tessera.policy.reference import evaluating

LENGTH = 128  # tokens
TEXT = (
    "A train leaves the station at nine in the morning and travels north at sixty kilometres an hour. Half an hour "
    "later a second train follows it on the same track at eighty. To find when they meet, write down how far each has "
    "come after some time, set the two distances equal, and solve: 60 t = 80 (t - 0.5), so t = 2 hours. The answer can "
    "be checked by adding it up, and a careful reader would do so, because a small slip in the first line changes "
    "everything below it. Rivers are easier: the water is always in front of you, whichever way the wind is blowing, "
    "and nobody asks at what time it arrives at the sea."
)
# What two computations of the same number may differ by, in float32.
ROUNDING = 1e-5
# A movement of so many times the noise of a token is seen in 128 of them: six standard deviations at least.
NOISE = 1.5


class Seen(NamedTuple):
    """Log-probs of the text at one time, the engine's and the trainer's."""

    served_T: Tensor
    own_T: Tensor


class Probe:
    """The fixed text under `policy`, for comparison with what the engine called `name` says of it.

    `tolerance` is of the mean difference between the log-probs of a token; the engine has `room` for so many.
    """

    def __init__(self, policy: Policy, tolerance: float, name: str, room: int = LENGTH + 1) -> None:
        self.policy = policy
        self.tolerance = tolerance
        self.name = name
        self.ids = tuple(render(policy, Problem("the fixed text", TEXT, None)))[: min(LENGTH, room - 1)]
        self._last: Seen | None = None
        self._mark: Seen | None = None  # when the engine was last seen to follow

    def base(self, served: Sequence[float]) -> None:
        """`served` are the engine's log-probs without an adapter: UserError when they are not those of this model."""
        with self.policy.model.disable_adapter():  # type: ignore[operator]
            own_T = self.score()
        served_T = self._tensor(served)
        if not (gap := _mean_gap(served_T, own_T)) <= self.tolerance:
            raise UserError(
                f"{self.name} serves another model than {self.policy.name}, or one in another precision: log-probs of "
                f"a fixed text differ by {gap:.3g} in the mean (engine.tolerance {self.tolerance})"
            )
        self._mark = Seen(served_T, own_T)

    def adapter(self, served: Sequence[float]) -> None:
        """`served` are the engine's log-probs after a sync: RunStopped when they are not those of these weights."""
        served_T, own_T = self._tensor(served), self.score()
        if not (gap := _mean_gap(served_T, own_T)) <= self.tolerance:
            raise RunStopped(
                f"{self.name} does not sample from the trainer's weights: log-probs of a fixed text differ by "
                f"{gap:.3g} in the mean (engine.tolerance {self.tolerance})"
            )
        for before in (self._last, self._mark):
            if before is not None and self._follows(served_T, own_T, before) is False:
                raise RunStopped(
                    f"{self.name} samples from an earlier adapter, or another run's: the trainer's log-probs of a "
                    f"fixed text have moved by {_size(own_T - before.own_T):.3g}, and its own, by "
                    f"{_size(served_T - before.served_T):.3g}, not with them"
                )
        self._last = Seen(served_T, own_T)
        if self._mark is None or self._follows(served_T, own_T, self._mark):
            self._mark = self._last

    @staticmethod
    def _follows(served_T: Tensor, own_T: Tensor, before: Seen) -> bool | None:
        """Whether the engine has moved as the trainer has; None where that is too little to be seen in its noise."""
        engine_T, trainer_T = served_T - before.served_T, own_T - before.own_T
        still, apart = _size(engine_T), _size(engine_T - trainer_T)
        noise = min(still, apart, _size(before.served_T - before.own_T))
        if _size(trainer_T) <= max(NOISE * noise, ROUNDING):
            return None
        return apart <= still

    def awake(self, served: Sequence[float]) -> None:
        """`served` are the engine's log-probs after a sleep: RunStopped when they are not what they were before."""
        before = self._last
        if before is not None and not (gap := _mean_gap(self._tensor(served), before.served_T)) <= self.tolerance:
            raise RunStopped(
                f"{self.name} has lost weights in its sleep: log-probs of a fixed text have changed by {gap:.3g} in "
                f"the mean (engine.tolerance {self.tolerance})"
            )

    def score(self, ids: Sequence[int] | None = None, temperature: float = 1.0) -> Tensor:
        """The trainer's log-probs of `ids` (the fixed text) after the first, at `temperature`."""
        model: Any = self.policy.model
        ids_1T = torch.tensor([list(ids or self.ids)], device=self.policy.device)
        with torch.inference_mode(), evaluating(model):
            logp_TV = (model(input_ids=ids_1T).logits[0, :-1].float() / temperature).log_softmax(-1)
        own_T: Tensor = logp_TV.gather(1, ids_1T[0, 1:, None])[:, 0].cpu()
        return own_T

    def _tensor(self, served: Sequence[float]) -> Tensor:
        if len(served) != len(self.ids) - 1:
            raise RunStopped(f"{self.name} gave {len(served)} log-probs of a text of {len(self.ids)} tokens")
        return torch.tensor(list(served))


def _mean_gap(a_T: Tensor, b_T: Tensor) -> float:
    return float((a_T - b_T).abs().mean())


def _size(a_T: Tensor) -> float:
    return float(a_T.square().mean().sqrt())
