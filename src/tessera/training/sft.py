"""The supervised stage: cross-entropy on completions alone, whole rows packed side by side, stopped by a rule."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tessera.core.errors import UserError
from tessera.policy.forest import Row
from tessera.policy.logprobs import check_saving, score
from tessera.policy.prefix import causal_lm
from tessera.policy.reference import Reference
from tessera.policy.sharded import is_sharded
from tessera.policy.trunk import packs
from tessera.training.batching import SPARE, micro_batches
from tessera.training.context import RunContext
from tessera.training.curriculum import make_sampler
from tessera.training.examples import examples, harvested, rows
from tessera.training.harvest import choose
from tessera.training.optimizer import Optimizer
from tessera.training.sampler import ProblemSampler, Sampler
from tessera.training.settings import SFTStage


class SFTRunner:
    """Runs the steps of an SFT stage."""

    several_updates = False

    def __init__(self, run: RunContext, settings: SFTStage) -> None:
        self.run = run
        self.settings = settings
        compute = settings.compute
        check_saving(run.policy.model, recompute=compute.gradient_checkpointing, offload=compute.offload_activations)
        learnt, self.harvest = examples(run.task, settings), None
        if settings.harvest is not None:
            self.harvest = choose(
                run.ranks.lead(lambda: list(run.folder.harvest())), settings.harvest, run.stage_seed("harvest")
            )
            learnt += harvested(run.task, self.harvest.traces)
        self.rows = rows(run.collector, learnt)
        self.steps = settings.steps or math.ceil((settings.epochs or 1) * len(self.rows) / settings.batch_size)
        seed, from_task = run.stage_seed("problems"), settings.data is None and settings.harvest is None
        self.sampler: Sampler = (
            make_sampler(run.task.train, seed, run.task.part_weights)
            if from_task
            else ProblemSampler(range(len(self.rows)), seed)
        )
        self.best: dict[str, Tensor] | None = None
        self.reference: Reference | None = None
        self.optimizer = Optimizer(run.policy.trainable_parameters(), settings.optimizer, self.steps, run.ranks)

    def record(self) -> dict[str, Any]:
        """What the stage learns, for summary.json."""
        told = {"examples": len(self.rows)}
        if self.harvest is None or self.settings.harvest is None:
            return told
        return {**told, "harvest": self.harvest.record(str(self.settings.harvest.stage))}

    def step(self) -> None:
        """One update."""
        began = time.perf_counter()
        rows = [self.rows[i] for i in self.sampler.take(self.settings.batch_size)]
        tokens = sum(len(row.positions) for row in rows)
        rate = self.optimizer.at_step(self.run.state.stage_step)
        with self.run.learning():
            own = self._gradients([rows[i] for i in self.run.ranks.mine(len(rows))], tokens)
        loss, right = (sum(parts) for parts in zip(*self.run.ranks.gather(own), strict=True))
        norm = self.optimizer.update(loss)
        self.run.log(
            "sft",
            {
                "loss": loss,
                "accuracy/token": right / tokens,
                "learning_rate": rate,
                "grad_norm": norm,
                "tokens/trained": tokens,
                "time/step": time.perf_counter() - began,
            },
        )

    def judge(self) -> str | None:
        """Whether validation accuracy is what the stage was to reach."""
        wanted = self.settings.stop_accuracy
        if wanted is None or (self.run.state.stage_step % self.settings.check_every):
            return None
        found = self.run.validate()
        if found is None:
            raise UserError("stop_accuracy needs validation problems, and the task has none")
        if found.value >= wanted:
            return f"validation accuracy {found.value:.1%} reached {wanted:.1%}"
        return None

    def state(self) -> dict[str, Any]:
        """The stage's own part of the run's state."""
        return {"sampler": self.sampler.state()}

    def finish(self) -> None:
        """Nothing to do: the stage ends with the adapter it has."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        self.sampler.restore(state["sampler"])

    def _gradients(self, rows: list[Row], tokens: int) -> tuple[float, int]:
        """Mean negative log-likelihood over the batch's tokens, and how many of them were the likeliest."""
        loss, right = 0.0, 0
        model, compute, ranks = self.run.policy.model, self.settings.compute, self.run.ranks
        abreast = is_sharded(model)
        cuts = micro_batches(rows, compute.tokens_per_microbatch, packed=packs(causal_lm(model)))
        more = max(ranks.gather(len(cuts))) - len(cuts) if abreast else 0
        for part in self.run.interrupt.between(cuts + [[]] * more, abreast):
            scores = score(
                model,
                [rows[i] for i in part] or [SPARE],
                recompute=compute.gradient_checkpointing,
                offload=compute.offload_activations,
            )
            share = -scores.logp_N.sum() / tokens if part else 0 * scores.logp_N.sum()
            share.backward()
            loss += float(share.detach())
            right += int(scores.likeliest_N.sum()) if part else 0
        return loss, right
