"""The supervised stage: a short warm-up on gold answers, stopped by a rule."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tessera.core.errors import UserError
from tessera.core.types import Problem
from tessera.policy.forest import Row
from tessera.policy.logprobs import check_saving, score
from tessera.policy.prefix import causal_lm
from tessera.policy.reference import Reference
from tessera.policy.trunk import packs
from tessera.rollout.collect import Collector
from tessera.tasks.base import LoadedTask
from tessera.tasks.data import locate
from tessera.tasks.rows import RowFormat
from tessera.tasks.sources import read_file
from tessera.tasks.validate import gold_text
from tessera.training.batching import micro_batches
from tessera.training.context import RunContext
from tessera.training.curriculum import make_sampler
from tessera.training.optimizer import Optimizer
from tessera.training.sampler import ProblemSampler, Sampler
from tessera.training.settings import SFTStage


class SFTRunner:
    """Runs the steps of an SFT stage."""

    def __init__(self, run: RunContext, settings: SFTStage) -> None:
        self.run = run
        self.settings = settings
        compute = settings.compute
        check_saving(run.policy.model, recompute=compute.gradient_checkpointing, offload=compute.offload_activations)
        self.rows = rows(run.collector, run.task, settings)
        seed, from_task = run.stage_seed("problems"), settings.data is None
        self.sampler: Sampler = (
            make_sampler(run.task.train, seed, run.task.part_weights)
            if from_task
            else ProblemSampler(range(len(self.rows)), seed)
        )
        self.best: dict[str, Tensor] | None = None
        self.reference: Reference | None = None
        self.optimizer = Optimizer(run.policy.trainable_parameters(), settings.optimizer, settings.steps)

    def step(self) -> str | None:
        """One update; returns why the stage ends now, if it does."""
        began = time.perf_counter()
        rows = [self.rows[i] for i in self.sampler.take(self.settings.batch_size)]
        tokens = sum(len(row.positions) for row in rows)
        rate = self.optimizer.at_step(self.run.state.stage_step)
        with self.run.learning():
            loss, right = self._gradients(rows, tokens)
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
        return self._stop()

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
        model, compute = self.run.policy.model, self.settings.compute
        for part in micro_batches(rows, compute.tokens_per_microbatch, packed=packs(causal_lm(model))):
            scores = score(
                model,
                [rows[i] for i in part],
                recompute=compute.gradient_checkpointing,
                offload=compute.offload_activations,
            )
            share = -scores.logp_N.sum() / tokens
            share.backward()
            loss += float(share.detach())
            right += int(scores.likeliest_N.sum())
        return loss, right

    def _stop(self) -> str | None:
        wanted = self.settings.stop_accuracy
        if wanted is None or (self.run.state.stage_step % self.settings.check_every):
            return None
        found = self.run.validate()
        if found is None:
            raise UserError("stop_accuracy needs validation problems, and the task has none")
        if found.value >= wanted:
            return f"validation accuracy {found.value:.1%} reached {wanted:.1%}"
        return None


def rows(collector: Collector, task: LoadedTask, settings: SFTStage) -> list[Row]:
    """Prompts with the tokens to learn, all of them planned; the end-of-sequence token closes each.

    Raises UserError for a pair that does not fit the model's context, and as `pairs` does.
    """
    policy = collector.policy
    tokenizer: Any = policy.tokenizer
    stop = tokenizer.eos_token_id if tokenizer.eos_token_id in policy.eos_ids else min(policy.eos_ids)
    found = []
    for problem, text in pairs(task, settings):
        ids = (*tokenizer(text, add_special_tokens=False)["input_ids"], stop)
        collector.check_fits([problem], len(ids))
        found.append(Row(collector.prompt_ids(problem), ids, tuple(range(len(ids)))))
    return found


def pairs(task: LoadedTask, settings: SFTStage) -> list[tuple[Problem, str]]:
    """What the stage learns: problems, and the text that continues each.

    Raises UserError for a problem without gold answer, or a file that cannot be read as rows.
    """
    return _gold(task) if settings.data is None else _from_file(settings.data)


def _gold(task: LoadedTask) -> list[tuple[Problem, str]]:
    """Gold answers as continuations: where neither side brings white space, a space parts plain prompt and answer."""
    found = []
    for problem in task.train:
        text = gold_text(task.task, problem)
        if text is None:
            raise UserError(f"problem {problem.id!r} has no gold answer to learn from: give the stage `data`")
        before = problem.prefill or (problem.prompt if isinstance(problem.prompt, str) else " ")
        found.append((problem, text if before[-1:].isspace() or text[:1].isspace() else " " + text))
    return found


def _from_file(path: str) -> list[tuple[Problem, str]]:
    read = read_file(locate(path))
    problems = RowFormat(answer_column="completion").problems("sft", read)
    return [(problem, str(row.column("completion"))) for problem, row in zip(problems, read, strict=True)]
