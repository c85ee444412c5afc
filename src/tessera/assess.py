"""What `tessera eval` and `tessera check` do: accuracy of a run or model, and the memory a recipe will need."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tessera.core.errors import UserError
from tessera.evaluation.evaluate import evaluate
from tessera.launch import Prepared, prepare
from tessera.policy.adapters import WEIGHTS_FILE
from tessera.policy.load import load_policy
from tessera.policy.memory import Part, Workload, estimate, skeleton
from tessera.policy.prompting import render
from tessera.policy.sources import load_base
from tessera.recipe import read_recipe
from tessera.rollout.collect import Collector
from tessera.rollout.hf import HFEngine
from tessera.training.settings import RLStage


def assess(source: str, overrides: Sequence[str], split: str) -> dict[str, Any]:
    """Greedy accuracy of a run's final adapter, or of a recipe's model as it is, on a split of its task.

    Returns `value`, `ci`, `n`, what was evaluated, and every completion.
    """
    folder = Path(source)
    is_run = folder.is_dir()
    recipe, base = read_recipe(str(folder / "recipe.yaml") if is_run else source, overrides)
    prepared = prepare(recipe, base)
    problems = prepared.task.problems(split)[: recipe.evaluation.test_size if split == "test" else None]
    if not problems:
        raise UserError(f"task {prepared.task.name} has no {split} problems")
    settings = recipe.model
    if is_run:
        if not (folder / "adapter" / WEIGHTS_FILE).is_file():
            raise UserError(f"{folder} has no final adapter yet: the run is not finished; go on with --resume {folder}")
        settings = settings.model_copy(update={"adapter": str(folder / "adapter"), "lora": None})
    policy = load_policy(settings, seed=recipe.seed)
    collector = Collector(
        HFEngine(policy, recipe.run.max_rows), policy, prepared.task.task, recipe.chat_template_kwargs
    )
    length = recipe.evaluation.max_new_tokens or prepared.max_new_tokens
    collector.check_fits(problems, length)
    found = evaluate(collector, problems, max_new_tokens=length, success=recipe.evaluation.success)
    return {
        "model": policy.name,
        "run": str(folder) if is_run else None,
        "task": prepared.task.name,
        "split": split,
        "value": found.value,
        "ci": list(found.interval),
        "n": len(problems),
        "truncation_rate": found.truncation_rate,
        "completion_length": found.mean_length,
        "completions": [
            {"problem_id": g.problem.id, "text": g.rollouts[0].text, "reward": g.rollouts[0].reward, "solved": solved}
            for g, solved in zip(found.groups, found.correct, strict=True)
        ],
    }


def memory_plan(prepared: Prepared) -> list[Part]:
    """The memory estimate of the recipe's largest RL stage (of its SFT stage when it has no other)."""
    recipe = prepared.recipe
    _, tokenizer = load_base(recipe.model.name, revision=recipe.model.revision)
    sample = prepared.task.train[:64]
    prompt = max(len(render(tokenizer, problem, recipe.chat_template_kwargs)) for problem in sample)
    plans = [
        estimate(skeleton(recipe.model), _workload(stage, prompt, recipe.run.max_rows))
        for stage in recipe.stages
        if isinstance(stage, RLStage)
    ] or [estimate(skeleton(recipe.model), Workload(1, 1, prompt, 64))]
    return max(plans, key=lambda parts: parts[-1].bytes)


def _workload(stage: RLStage, prompt_tokens: int, max_rows: int) -> Workload:
    rows = stage.prompts_per_step * stage.group_size
    fitting = max(1, (stage.tokens_per_microbatch - prompt_tokens) // stage.max_new_tokens)
    update_rows = min(rows, fitting)
    return Workload(
        rollout_rows=min(rows, max_rows),
        update_rows=update_rows,
        prompt_tokens=prompt_tokens,
        completion_tokens=stage.max_new_tokens,
        update_prompts=-(-update_rows // stage.group_size),
    )
