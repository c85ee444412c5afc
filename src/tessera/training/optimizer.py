"""AdamW, in 32 or 8 bits, and its schedule, from settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tessera.core.errors import RunStopped, UserError
from tessera.policy.parts import gathered, in_parts, placed
from tessera.training.ranks import Ranks
from tessera.training.settings import OptimizerSettings


class Optimizer:
    """AdamW at the learning rate of the stage's step; one update at a time: sum over processes, clip, check, step."""

    def __init__(
        self, parameters: list[nn.Parameter], settings: OptimizerSettings, steps: int, ranks: Ranks | None = None
    ) -> None:
        self.parameters = parameters
        self.ranks = ranks or Ranks()
        # What AdamW moves: in half precision a step of the usual size is rounded away, so float32 copies take it.
        self.masters = [_wide(p) for p in parameters]
        self.settings = settings
        self.steps = steps
        self.adamw = _class(settings.kind, parameters)(
            self.masters,
            lr=settings.lr,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
        )

    def at_step(self, step: int) -> float:
        """Set the learning rate of step 1, 2, ... of the stage and return it."""
        rate = self.settings.lr * schedule_factor(self.settings, step, self.steps)
        for group in self.adamw.param_groups:
            group["lr"] = rate
        return rate

    def update(self, loss: float) -> float:
        """Apply the gathered gradients and clear them; return their norm before clipping.

        Gradients are summed over the processes first, whose shares are parts of one loss; `loss` is the whole one. A
        loss or gradient that is not finite raises RunStopped, and no parameter has moved.
        """
        limit = math.inf if self.settings.max_grad_norm is None else self.settings.max_grad_norm
        self._widen_gradients()
        if self.ranks.size > 1:
            self._sum_gradients()
        norm = float(gathered(nn.utils.clip_grad_norm_(self.masters, limit)))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self.clear()
            raise RunStopped(
                f"loss {loss} with gradient norm {norm}: nothing was updated; lower the learning rate, or look at the "
                "rewards and log-probs of the last steps in metrics.jsonl and completions.jsonl"
            )
        self.adamw.step()
        self.clear()
        with torch.no_grad():
            for own, master in self._narrow():
                own.copy_(master)
        return norm

    def clear(self) -> None:
        """Drop the gradients."""
        self.adamw.zero_grad()
        for own, _ in self._narrow():
            own.grad = None

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        state: dict[str, Any] = self.adamw.state_dict()
        masters = [master.detach() for _, master in self._narrow()]
        return {**state, "masters": masters} if masters else state

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned."""
        self._load({key: value for key, value in state.items() if key != "masters"})
        with torch.no_grad():
            for (_, master), saved in zip(self._narrow(), state.get("masters", ()), strict=True):
                master.copy_(placed(saved, like=master))

    def moments(self) -> dict[int, Any]:
        """What a later stage may carry on with."""
        found: dict[int, Any] = self.adamw.state_dict()["state"]
        return found

    def carry(self, moments: dict[int, Any]) -> None:
        """Begin with the `moments` of an earlier stage; rates, decay and the like are this one's own."""
        own = self.adamw.state_dict()
        self._load({"state": moments, "param_groups": own["param_groups"]})

    def _load(self, state: dict[str, Any]) -> None:
        moments = {i: _placed(of, self.masters[i]) for i, of in state["state"].items()}
        self.adamw.load_state_dict({**state, "state": moments})

    def _narrow(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """Parameters in half precision, each with its float32 copy."""
        both = zip(self.parameters, self.masters, strict=True)
        return [(own, master) for own, master in both if own is not master]

    def _widen_gradients(self) -> None:
        for own, master in self._narrow():
            master.grad = None if own.grad is None else own.grad.to(master.dtype)
            own.grad = None

    def _sum_gradients(self) -> None:
        """Over the processes; what no process has a gradient of stays without."""
        told = self.ranks.gather([master.grad is not None for master in self.masters])
        both = zip(self.masters, *told, strict=True)
        learnt = [master for master, *have in both if any(have) and not in_parts(master)]  # those are summed already
        self.ranks.sum([_gradient(master) for master in learnt])


def _wide(parameter: nn.Parameter) -> nn.Parameter:
    if parameter.dtype not in (torch.bfloat16, torch.float16):
        return parameter
    return nn.Parameter(parameter.detach().float())


def _placed(moments: dict[str, Tensor], parameter: nn.Parameter) -> dict[str, Tensor]:
    """Of a parameter, which are in parts as it is; a count of steps is of all."""
    shaped = {name for name, tensor in moments.items() if tensor.shape == parameter.shape}
    return {name: placed(tensor, parameter) if name in shaped else tensor for name, tensor in moments.items()}


def _gradient(parameter: nn.Parameter) -> Tensor:
    """The gradient, or zeros in a process that had nothing to learn from."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _class(kind: str, parameters: Sequence[nn.Parameter]) -> Any:
    if kind == "adamw":
        return torch.optim.AdamW
    device = parameters[0].device.type
    if in_parts(parameters[0]):
        raise UserError("optimizer.kind adamw_8bit does not know weights in parts: use adamw, or leave out model.shard")
    if device != "cuda":
        raise UserError(f"optimizer.kind adamw_8bit needs a CUDA device, and the policy is on {device}: use adamw")
    try:
        from bitsandbytes.optim import AdamW8bit  # type: ignore[attr-defined]
    except ImportError as error:
        raise UserError("optimizer.kind adamw_8bit needs bitsandbytes: pip install bitsandbytes") from error
    return AdamW8bit


def schedule_factor(settings: OptimizerSettings, step: int, steps: int) -> float:
    """What the learning rate is multiplied with in step 1..steps: a linear warm-up over `warmup_steps` that never
    starts at 0, then constant, or falling to just above 0 at the last step (linear or half a cosine)."""
    warmup = settings.warmup_steps
    if step <= warmup:
        return step / (warmup + 1)
    done = (step - warmup - 1) / max(1, steps - warmup)
    if settings.schedule == "linear":
        return 1 - done
    return 0.5 * (1 + math.cos(math.pi * done)) if settings.schedule == "cosine" else 1.0
