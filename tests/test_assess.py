from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from command import write_recipe
from tessera.assess import memory_plan
from tessera.core.errors import UserError
from tessera.launch import prepare
from tessera.policy import load
from tessera.recipe import read_recipe
from tiny import tiny_model

MIB = 2**20


def plan(path: Path, *overrides: str) -> tuple[str, dict[str, int]]:
    found = memory_plan(prepare(read_recipe(str(path), overrides)))
    return found.phase, {part.what: part.bytes for part in found.parts}


RECOMPUTE = "stages.rl.compute.gradient_checkpointing=true"


def nodes(parts: dict[str, int]) -> int:
    """Tokens of a micro-batch, where of the two adapted layers only the input, 32 float32, is kept for backward."""
    return parts["activations (update)"] // (2 * 32 * 4)


@pytest.fixture
def recipe(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One RL stage, 4 completions of 6 tokens; a prompt is 23 tokens: <bos> and "Problem: 1 + 1\\nAnswer:"."""
    monkeypatch.chdir(tmp_path)
    return write_recipe(tmp_path / "recipe.yaml", tiny_folder)


def test_weights_and_caches_are_those_of_the_model(recipe: Path) -> None:
    phase, parts = plan(recipe, "evaluation.test_size=1")
    assert phase == "stage rl"
    assert parts["weights"] == 4 * sum(p.numel() for p in tiny_model().parameters())
    # keys and values, 4 layers, 2 heads of 8, float32; 4 rows of 23 + 6 tokens
    assert parts["key-value cache (sampling)"] == 2 * 4 * 16 * 4 * 4 * (23 + 6)
    # a prompt of 23 tokens and 4 rows of which 5 are fed, each of 32 float32
    assert parts["frozen layers' output, kept from sampling"] == (23 + 4 * 5) * 32 * 4


def test_what_another_engine_samples_takes_none_of_the_trainers_memory(recipe: Path) -> None:
    own = plan(recipe, "evaluation.test_size=1")[1]
    phase, parts = plan(recipe, "evaluation.test_size=1", "engine={kind: vllm_server}")
    assert phase == "stage rl" and parts["weights"] == own["weights"]
    for what in ("key-value cache (sampling)", "logits (sampling)", "frozen layers' output, kept from sampling"):
        assert own[what] > 0 == parts.get(what, 0)


def test_a_rounded_copy_samples_and_keeps_nothing_for_the_update(recipe: Path) -> None:
    own = plan(recipe, "evaluation.test_size=1")[1]
    parts = plan(recipe, "evaluation.test_size=1", "engine={kind: in_process, dtype: bfloat16}")[1]
    # 2 bytes for each of the base's numbers; the adapter in float32 is a quarter of itself with gradient and moments
    copy = parts["weights"] // 2 + parts["adapter, gradient, AdamW state"] // 4
    assert parts["copy of the model that samples"] == copy > 0 == own["copy of the model that samples"]
    assert parts["frozen layers' output, kept from sampling"] == 0
    assert 2 * parts["key-value cache (sampling)"] == own["key-value cache (sampling)"]


def test_an_evaluation_of_many_problems_may_need_the_most(recipe: Path) -> None:
    """6 test problems at a time, 4 tokens each, against one step with 2 completions; or 3 when rows are limited."""
    small = ["stages.rl.group_size=2", "stages.rl.compute.tokens_per_microbatch=1", "evaluation.max_new_tokens=300"]
    phase, parts = plan(recipe, *small)
    assert phase == "evaluation"
    assert parts["key-value cache (sampling)"] == 2 * 4 * 16 * 4 * 6 * (23 + 300)
    assert parts["activations (update)"] == parts["head, or gradients of a layer (update)"] == 0
    phase, parts = plan(recipe, *small, "run.max_rows=3")
    assert parts["key-value cache (sampling)"] == 2 * 4 * 16 * 4 * 3 * (23 + 300)


def test_what_may_be_harvested_is_as_long_as_it_may_be_sampled(recipe: Path) -> None:
    """30 rows a step, of prompts of 23 tokens and completions of 6, of which 5 are fed."""
    content = yaml.safe_load(recipe.read_text())
    saving = {"compute": {"gradient_checkpointing": True}}
    sft = {"kind": "sft", "steps": 1, "batch_size": 30, "harvest": {}, **saving}
    content["stages"] += [sft, {"kind": "eval", "size": 1, "max_new_tokens": 2}]
    recipe.write_text(yaml.safe_dump(content))
    phase, parts = plan(recipe, RECOMPUTE, "evaluation.test_size=1")
    assert (phase, nodes(parts)) == ("stage sft", 30 * (23 + 5))


@pytest.mark.parametrize(
    ("budget", "rows"),
    [
        (29, 1),  # one prompt of 23 and a row of 6
        (34, 1),
        (35, 2),  # 23 + 2 * 6
        (47, 4),  # 23 + 4 * 6: a whole group
        (75, 4),
        (76, 5),  # two prompts: 46 + 5 * 6
        (94, 8),  # 46 + 8 * 6
        (9999, 8),  # there are no more
        (5, 1),  # a row that is longer than the budget goes alone
    ],
)
def test_a_micro_batch_takes_the_rows_that_its_budget_allows(recipe: Path, budget: int, rows: int) -> None:
    _, parts = plan(recipe, "stages.rl.prompts_per_step=2", f"stages.rl.compute.tokens_per_microbatch={budget}",
                    RECOMPUTE, "evaluation.test_size=1")  # fmt: skip
    assert nodes(parts) == (1 if rows <= 4 else 2) * 23 + rows * 5


def test_a_supervised_stage_has_a_prompt_a_row_and_samples_nothing(recipe: Path, tmp_path: Path) -> None:
    """Prompt 3 (<bos>, 2 characters), completions of 4 and 2 tokens with the end: the longest of each, 3 + 4."""
    rows = '{"prompt": "ab", "completion": "xyz"}\n{"prompt": "c", "completion": "x"}\n'
    (tmp_path / "warm.jsonl").write_text(rows)
    stage = "stages=[{kind: sft, steps: 1, batch_size: 9, data: warm.jsonl, "
    stage += "compute: {tokens_per_microbatch: 15, gradient_checkpointing: true}}]"
    phase, parts = plan(recipe, stage, "task.test_size=0", "task.validation_size=0")
    assert phase == "stage sft"
    assert parts["key-value cache (sampling)"] == 0
    assert nodes(parts) == 2 * (3 + 3)  # 2 rows of 7 are 14 of the budget, 3 were 21; the last token is not fed


def test_the_plan_loads_no_weights(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("weights are loaded")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", refuse)
    monkeypatch.setattr(load, "load_base", refuse)
    assert plan(recipe)[0] == "stage rl"


def test_the_plan_reads_the_chat_template_of_the_recipe(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "template.jinja").write_text("{{ messages[0]['content'] }}{% if flag %}!!!{% endif %}")
    chat = ["task.prompt.style=chat", f"model.chat_template={tmp_path / 'template.jinja'}", "evaluation.test_size=1"]
    # "Problem: 1 + 1\nAnswer:" alone is 22 tokens, three more with the flag
    sizes = [nodes(plan(recipe, *chat, RECOMPUTE, *more)[1]) for more in ([], ["chat_template_kwargs.flag=1"])]
    assert sizes == [22 + 4 * 5, 25 + 4 * 5]


def test_the_plan_refuses_what_does_not_fit(recipe: Path) -> None:
    with pytest.raises(UserError, match=r"23 prompt tokens \+ 490 new tokens exceed the model's 512"):
        plan(recipe, "stages.rl.max_new_tokens=490")
