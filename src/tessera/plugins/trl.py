"""Any algorithm of the registry inside TRL's GRPOTrainer (TRL >= 1.16).

TRL samples, asks the reward functions, scores and steps. The plan is made where the groups are whole, before TRL
shuffles its generation batch, and travels with the rows: what each token counts is known before the batch is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tessera.algorithms import build
from tessera.algorithms.base import TokenLoss
from tessera.core.batch import Plan, Scored, TokenBatch
from tessera.core.errors import UserError
from tessera.core.importance import Importance, summary
from tessera.core.masking import blank
from tessera.core.seeding import generator
from tessera.pieces.regulariser import kl_estimate
from tessera.plugins.planning import plan_rows, scored_rows
from tessera.plugins.trl_args import check_spec, settled
from tessera.policy.adapters import adapter_matrices

try:
    from trl import GRPOConfig, GRPOTrainer
    from trl.models.utils import disable_gradient_checkpointing
except ImportError as error:
    raise UserError("tessera.plugins.trl needs TRL 1.16 or newer: pip install 'tessera-rl[trl]'") from error

PLAN = ("advantages", "selected", "shares", "active", "draws")  # the plan's tensors among TRL's inputs
Rows = dict[str, Any]


class TesseraGRPOTrainer(GRPOTrainer):  # type: ignore[misc]
    """GRPOTrainer with the objective of `algorithm`: a name, or a mapping of its keys and pieces as in a recipe.

    The other arguments are GRPOTrainer's. Those of `args` that belong to TRL's objective must keep their defaults.
    """

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: GRPOConfig | None = None,
        *,
        algorithm: str | Mapping[str, Any],
        **rest: Any,
    ) -> None:
        check_spec(algorithm)
        self.algorithm = build(algorithm)
        self._weighed: tuple[Any, int] | None = None
        args = settled(self.algorithm, args or GRPOConfig())
        super().__init__(model, reward_funcs, args, **rest)
        if self._is_vlm or self.aux_loss_enabled:
            what = "vision-language models" if self._is_vlm else "the router's loss (set router_aux_loss_coef=0)"
            raise UserError(f"TesseraGRPOTrainer does not support {what}")
        if "parameters" in self.algorithm.needs and not _matrices(self.model):
            raise UserError(f"{self.algorithm.name}'s penalty is over an adapter's matrices: give peft_config")

    # PLAN

    def _calculate_rewards(self, *args: Any) -> Tensor:
        of_functions: Tensor = super()._calculate_rewards(*args)  # of all processes
        weights = self.reward_weights.to(of_functions.device).double()
        self._rewards_B = (of_functions.double() * weights).nansum(dim=1)
        self._rewards_B[of_functions.isnan().all(dim=1)] = torch.nan
        return of_functions

    def _generate_and_score_completions(self, inputs: list[Rows]) -> Rows:
        rows: Rows = super()._generate_and_score_completions(inputs)
        mask_BT = _written(rows)
        batch = self._batch(rows, mask_BT)
        names = ("selection", self.state.global_step, self._step % self.args.gradient_accumulation_steps)
        plan = plan_rows(self.algorithm, batch, generator(self.args.seed, *names))
        self._log_advantages(plan)
        local, width, device = self._local(len(mask_BT)), mask_BT.shape[1], mask_BT.device
        parts = (plan.advantage_BT, plan.selected_BT, plan.share_BT, plan.active_BT, plan.draw_BT)
        rows.update({name: part[local, :width].to(device) for name, part in zip(PLAN, parts, strict=True)})
        rows["groups"] = batch.group_B[local].to(device)
        rows["contributing"] = plan.active_BT.sum().to(device)
        return rows

    def _batch(self, rows: Rows, mask_BT: Tensor) -> TokenBatch:
        """The rows of all processes, on the CPU."""
        given_BT = rows["completion_mask"].bool()
        last_B1 = (given_BT.sum(dim=1, keepdim=True) - 1).clamp(min=0)
        ends = torch.tensor([*self.eos_token_ids, self._tokenizer.pad_token_id], device=mask_BT.device)
        truncated_B = ~torch.isin(rows["completion_ids"].gather(1, last_B1)[:, 0], ends)
        entropy_BT, eos_logp_BT = self._of_sampler(rows)
        mask_BT = self._everyone(mask_BT).cpu()
        size = self.num_generations if self.model.training else self.num_generations_eval
        group_B = torch.arange(len(mask_BT)) // size
        return TokenBatch(
            tokens_BT=self._everyone(rows["completion_ids"]).cpu(),
            lengths_B=self._everyone(given_BT.sum(dim=1)).cpu(),
            mask_BT=mask_BT,
            rewards_B=self._rewards_B.cpu(),
            group_B=group_B,
            n_groups=int(group_B.max()) + 1,
            truncated_B=self._everyone(truncated_B).cpu(),
            entropy_BT=None if entropy_BT is None else self._everyone(entropy_BT.double()).cpu(),
            eos_logp_BT=None if eos_logp_BT is None else self._everyone(eos_logp_BT.double()).cpu(),
        )

    def _of_sampler(self, rows: Rows) -> tuple[Tensor | None, Tensor | None]:
        """Entropies, and log-probs of ending, of the policy that sampled, where the plan needs them."""
        entropy_BT = eos_logp_BT = None
        if "entropy" in self.algorithm.needs:
            _, entropy_BT = self._fixed_logps(self.model, rows, compute_entropy=True)
        if "eos_logp" in self.algorithm.needs:
            each = [self._fixed_logps(_labelled(self.model, end), rows)[0] for end in self.eos_token_ids]
            eos_logp_BT = torch.stack(each).logsumexp(dim=0)
        return entropy_BT, eos_logp_BT

    # SCORE

    def _logps(self, model: Any, rows: Rows, **asks: Any) -> tuple[Tensor, Tensor]:
        ids = torch.cat([rows["prompt_ids"], rows["completion_ids"]], dim=1)
        mask = torch.cat([rows["prompt_mask"], rows["completion_mask"]], dim=1)
        width = rows["completion_ids"].shape[1]
        logp_BT, entropy_BT, _ = self._get_per_token_logps_and_entropies(model, ids, mask, width, **asks)
        return logp_BT, entropy_BT

    def _fixed_logps(self, model: Any, rows: Rows, **asks: Any) -> tuple[Tensor, Tensor]:
        """The same without gradient, a micro-batch at a time."""
        size = self.args.per_device_train_batch_size
        with torch.no_grad(), disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            return self._logps(model, rows, batch_size=size, **asks)

    def _prepare_inputs(self, generation_batch: Any) -> Rows:
        rows: Rows = super()._prepare_inputs(generation_batch)
        if "statistics" in self.algorithm.weight.needs:
            self._weigh(self._buffered_inputs if self.model.training else [rows])
        return rows

    def _weigh(self, buffer: list[Rows]) -> None:
        """Weights that compare the tokens of the whole generation batch, anew before the first backward of a step."""
        if self.model.training:
            known, self._weighed = self._weighed, (buffer, self.state.global_step)
            if known is not None and known[0] is buffer and known[1] == self.state.global_step:
                return
        whole = {key: torch.cat([rows[key] for rows in buffer]) for key in (*PLAN, "groups")}
        whole["logps"] = torch.cat([self._fixed_logps(self.model, rows)[0] for rows in buffer])
        whole = {key: self._everyone(x) for key, x in whole.items()}
        scored = scored_rows(_plan(whole), *(whole["logps"],) * 3, whole["groups"])
        sizes = [len(rows["groups"]) for rows in buffer]
        weight_BT = self.algorithm.weigh(scored).weight_BT[self._local(sum(sizes)), : buffer[0]["selected"].shape[1]]
        for rows, part_BT in zip(buffer, weight_BT.split(sizes), strict=True):
            rows["weights"] = part_BT

    # LEARN

    def _compute_loss(self, model: Any, inputs: Rows) -> Tensor:
        logp_BT, entropy_BT = self._logps(model, inputs, compute_entropy=True)
        scored = self._scored(inputs, logp_BT)
        terms = self.algorithm.token_loss(scored)
        self._record(inputs, scored, terms, entropy_BT)
        share_BT = inputs["shares"].to(terms.loss_BT)
        loss: Tensor = self._scale() * (share_BT * terms.loss_BT).sum() + self._penalty(model, inputs)
        return loss

    def _scored(self, rows: Rows, logp_BT: Tensor) -> Scored:
        fixed_BT = logp_BT.detach()
        old_BT, ref_BT = (rows.get(key, fixed_BT) for key in ("old_per_token_logps", "ref_per_token_logps"))
        scored = scored_rows(_plan(rows), logp_BT, old_BT, ref_BT, rows["groups"])
        sampler_BT = rows.get("sampling_per_token_logps")
        if sampler_BT is not None:
            scored = replace(scored, sampler_BT=blank(sampler_BT.to(scored.old_BT), scored.selected_BT))
        return replace(scored, weight_BT=rows["weights"]) if "weights" in rows else self.algorithm.weigh(scored)

    def _scale(self) -> float:
        """The shares of a generation batch add up to a whole loss. An optimiser step sees so many of its parts, and
        processes average their gradients."""
        parts = self.args.steps_per_generation / self.current_gradient_accumulation_steps if self.model.training else 1
        return float(self.accelerator.num_processes * parts)

    def _penalty(self, model: Any, rows: Rows) -> Tensor | float:
        """The micro-batch's part of a penalty over the adapter; none where no token of its generation has credit."""
        if "parameters" not in self.algorithm.needs or not int(rows["contributing"]):
            return 0.0
        parts = self.current_gradient_accumulation_steps if self.model.training else 1
        penalty: Tensor | float = (self.algorithm.parameter_loss(_matrices(model)) or 0.0) / parts
        return penalty

    # What TRL logs

    def _record(self, rows: Rows, scored: Scored, terms: TokenLoss, entropy_BT: Tensor) -> None:
        keep_BT = scored.selected_BT
        seen = {
            "clip_ratio/low_mean": terms.clipped_low_BT,
            "clip_ratio/high_mean": terms.clipped_high_BT,
            "clip_ratio/region_mean": terms.clipped_low_BT | terms.clipped_high_BT,
            "weight/mean": scored.weight_BT,
        }
        if "ref_per_token_logps" in rows:
            seen["kl"] = kl_estimate(scored.ref_BT - scored.logp_BT.detach())
        metrics = self._metrics["train" if self.model.training else "eval"]
        for key, x_BT in seen.items():
            metrics[key].append(self._mean(x_BT, keep_BT))
        metrics["entropy"].append(self._mean(entropy_BT, _written(rows)))
        metrics["tokens/contributing"].append(float(rows["contributing"]))
        if terms.importance is not None:
            for key, value in summary([Importance(*(x_BT[keep_BT] for x_BT in terms.importance))]).items():
                metrics[key].append(value)

    def _mean(self, x_BT: Tensor, where_BT: Tensor) -> float:
        sums = torch.stack([blank(x_BT.detach().float(), where_BT).sum(), where_BT.sum().float()])
        total, count = self.accelerator.reduce(sums, reduction="sum").tolist()
        return float(total / max(count, 1.0))

    def _log_advantages(self, plan: Plan) -> None:
        """The completions' table shows the mean advantage of a completion's selected tokens, in place of TRL's own."""
        keep_BT = plan.selected_BT
        mean_B = blank(plan.advantage_BT, keep_BT).sum(dim=1) / keep_BT.sum(dim=1).clamp(min=1)
        shown = self._logs["advantages"]
        for _ in range(min(len(mean_B), len(shown))):
            shown.pop()
        shown.extend(mean_B.tolist())

    # Processes

    def _everyone(self, x: Tensor) -> Tensor:
        """The rows of all processes, as wide as the widest, in the order of the processes."""
        plain = x.to(torch.uint8) if x.dtype is torch.bool else x
        padded = self.accelerator.pad_across_processes(plain, dim=1) if x.dim() > 1 else plain
        whole: Tensor = self.accelerator.gather(padded).to(x.dtype)
        return whole

    def _local(self, n: int) -> slice:
        """This process's among the rows of all, `n` each."""
        return slice(self.accelerator.process_index * n, (self.accelerator.process_index + 1) * n)


def _plan(rows: Mapping[str, Tensor]) -> Plan:
    return Plan(*(rows[name] for name in PLAN))


def _written(rows: Rows) -> Tensor:
    """[B,T] the tokens that the policy wrote."""
    given_BT: Tensor = rows["completion_mask"].bool()
    return given_BT & rows["tool_mask"].bool() if "tool_mask" in rows else given_BT


def _matrices(model: Any) -> list[Tensor]:
    return [matrix for matrix in adapter_matrices(model) if matrix.requires_grad]


def _labelled(model: Any, token: int) -> Callable[..., Any]:
    """The model, asked for the log-prob of `token` wherever a token is asked for."""

    def forward(*, labels: Tensor, **inputs: Any) -> Any:
        return model(labels=labels.masked_fill(labels != -100, token), **inputs)

    return forward
