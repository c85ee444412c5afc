"""What `tessera check` does: the memory that a recipe will need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from tessera.core.types import Problem
from tessera.launch import Prepared
from tessera.policy.load import DTYPES, ModelConfig
from tessera.policy.memory import Part, Workload, estimate, skeleton
from tessera.policy.prompting import check_fits, read_template, render
from tessera.policy.sources import load_tokenizer
from tessera.rollout.engines import InProcess
from tessera.training.examples import Example
from tessera.training.settings import EvalStage, RLStage, SFTStage


class MemoryPlan(NamedTuple):
    """The estimate for `phase`, the part of a run that needs the most memory; the last of its parts is the peak."""

    phase: str
    parts: list[Part]


def memory_plan(prepared: Prepared, processes: int = 1) -> MemoryPlan:
    """The memory estimate of the recipe's most demanding phase: a stage, or its evaluations. Loads no weights.

    It is that of the trainer: what another engine than its own model takes is not known here. It is that of one of so
    many `processes`, which divide weights with `model.shard`, and rows.

    Raises UserError when a prompt and its longest completion exceed the model's context.
    """
    recipe, model = prepared.recipe, skeleton(prepared.recipe.model)
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    texts = _Texts(_tokenizer(recipe.model), recipe.chat_template_kwargs, context)
    work = {
        f"stage {stage.name}": _of_stage(prepared, stage, learnt, texts, processes)
        for stage, learnt in zip(prepared.stages, prepared.learns, strict=True)
        if not isinstance(stage, EvalStage)
    }
    if evaluated := prepared.evaluated:
        prompt, completion = texts.longest(evaluated)
        rows = _sampled(prepared, -(-len(evaluated) // processes))
        work["evaluation"] = Workload(rows, 0, prompt, completion, update_prompts=0, sampler=_copy_bytes(prepared))
    parts = processes if recipe.model.shard else 1
    sized = {phase: replace(sizes, parts=parts) for phase, sizes in work.items()}
    plans = [MemoryPlan(phase, estimate(model, sizes, recipe.model.quantize)) for phase, sizes in sized.items()]
    return max(plans, key=lambda plan: plan.parts[-1].bytes)


@dataclass(frozen=True)
class _Texts:
    """Texts as tokens."""

    tokenizer: Any
    chat_template_kwargs: Mapping[str, Any]
    context: int | None

    def count(self, text: str) -> int:
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def longest(self, asked: Iterable[tuple[Problem, int]]) -> tuple[int, int]:
        """Tokens of the longest prompt and of the longest completion; each pair of them must fit the context."""
        prompts, completions = [], []
        for problem, completion in asked:
            ids = render(self.tokenizer, problem, self.chat_template_kwargs)
            check_fits(ids, completion, self.context, problem.id)
            prompts.append(len(ids))
            completions.append(completion)
        return max(prompts), max(completions)


def _tokenizer(model: ModelConfig) -> Any:
    tokenizer = load_tokenizer(model.name, revision=model.revision, trust_remote_code=model.trust_remote_code)
    if model.chat_template is not None:
        tokenizer.chat_template = read_template(model.chat_template)
    return tokenizer


def _of_stage(
    prepared: Prepared, stage: SFTStage | RLStage, learnt: Sequence[Example], texts: _Texts, processes: int
) -> Workload:
    if isinstance(stage, RLStage):
        group, rows = stage.group_size, -(-stage.prompts_per_step * stage.group_size // processes)
        sampled = _sampled(prepared, rows)
        tools = prepared.recipe.environment
        said = 0 if tools is None else tools.turns * tools.result_tokens
        prompt, completion = texts.longest((problem, stage.max_new_tokens + said) for problem in prepared.task.train)
    else:
        group, rows, sampled = 1, -(-stage.batch_size // processes), 0
        pairs = [(example.problem, texts.count(example.text) + 1) for example in learnt]
        prompt, completion = texts.longest([*pairs, *_harvested(prepared, stage)])
    fitting = _rows_in(stage.compute.tokens_per_microbatch, rows, group, prompt, completion)
    copy = _copy_bytes(prepared)
    own = sampled > 0 and not copy and prepared.recipe.environment is None
    keeps = own and isinstance(stage, RLStage) and stage.rollouts.keep_trunk
    return Workload(
        sampled,
        fitting,
        prompt,
        completion,
        update_prompts=-(-fitting // group),
        kept_rows=rows if keeps else 0,
        kept_prompts=-(-rows // group) if keeps else 0,
        recompute=stage.compute.gradient_checkpointing,
        offload=stage.compute.offload_activations,
        eight_bit=stage.optimizer.kind == "adamw_8bit",
        references=int(_compares(prepared, stage)),
        sampler=copy,
    )


def _compares(prepared: Prepared, stage: SFTStage | RLStage) -> bool:
    """Whether a stage keeps a reference policy."""
    algorithm = prepared.algorithms[prepared.stages.index(stage)]
    return algorithm is not None and "ref_logp" in algorithm.needs


def _sampled(prepared: Prepared, rows: int) -> int:
    """How many of `rows` the trainer's own model samples at a time."""
    recipe = prepared.recipe
    return min(rows, recipe.run.max_rows) if isinstance(recipe.engine, InProcess) else 0


def _copy_bytes(prepared: Prepared) -> int:
    """Of a number in the copy of the model that samples; 0 where there is none."""
    engine = prepared.recipe.engine
    dtype = engine.dtype if isinstance(engine, InProcess) else None
    return DTYPES[dtype].itemsize if dtype else 0


def _harvested(prepared: Prepared, stage: SFTStage) -> list[tuple[Problem, int]]:
    """What may be harvested, at its longest."""
    source = stage.harvest.stage if stage.harvest else None
    lengths = [s.max_new_tokens for s in prepared.stages if isinstance(s, RLStage) and s.name == source]
    return [(problem, length) for length in lengths for problem in prepared.task.train]


def _rows_in(budget: int, rows: int, group: int, prompt: int, completion: int) -> int:
    """How many of `rows` a micro-batch of `budget` tokens takes, each `group` of them sharing a prompt."""
    fitting = (n for n in range(rows, 1, -1) if -(-n // group) * prompt + n * completion <= budget)
    return next(fitting, 1)
