"""`tessera.train`: objects in memory, the same run folder and the same strictness as the command line."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

import tessera
from pages import metric_keys
from runs import TEST, TRAIN, VALIDATION, completions_of, letters, rows_of, without_times
from tessera.api import Observer, train
from tessera.core.errors import UserError
from tessera.core.types import Problem
from tessera.training.interrupt import Interrupted
from tiny import tiny_model, tiny_tokenizer

# peft reads an attribute that transformers is renaming.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

LORA = {"rank": 4, "alpha": 8, "last_fraction": "1/2"}
PROMPT = torch.tensor([[1, 40, 41, 42, 43]])


def small(folder: Path, **changes: Any) -> dict[str, Any]:
    """Train a tiny model object for two steps."""
    keys: dict[str, Any] = {
        "model": tiny_model(),
        "tokenizer": tiny_tokenizer(),
        "dataset": TRAIN,
        "reward": letters,
        "lora": LORA,
        "steps": 2,
        "group_size": 4,
        "max_new_tokens": 5,
        "run_dir": folder,
        "sentinels": {"truncation_rate": 1.0},
        "optimizer": {"lr": 1e-3},
        **changes,
    }
    return tessera.train(**{key: value for key, value in keys.items() if value is not ...})


def adapter_bytes(folder: Path) -> bytes:
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


def test_the_package_offers_it() -> None:
    assert tessera.train is train


def test_a_list_of_rows_and_a_function_are_all_it_takes(tmp_path: Path) -> None:
    seen: list[Problem] = []

    def reward(problem: Problem, text: str) -> float:
        seen.append(problem)
        return letters(problem, text)

    data = [{"prompt": "2+2=", "answer": 4, "level": "easy"}]
    summary = small(tmp_path, dataset=data, reward=reward)
    assert (summary["status"], summary["steps"], summary["algorithm"]) == ("finished", 2, "s_grpo")
    assert summary["model"] == "LlamaForCausalLM"
    assert len(seen) == 8
    assert (seen[0].answer, dict(seen[0].metadata)) == (4, {"level": "easy"})


class Columns:
    """What `datasets.Dataset` looks like from here: a length, and rows as dictionaries, again and again."""

    column_names = ("prompt", "answer")

    def __len__(self) -> int:
        return len(TRAIN)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (dict(row) for row in TRAIN)


def test_rows_come_from_anything_that_gives_mappings(tmp_path: Path) -> None:
    for name, data in {"list": TRAIN, "object": Columns(), "generator": (row for row in TRAIN)}.items():
        small(tmp_path / name, dataset=data)
    assert (
        adapter_bytes(tmp_path / "list") == adapter_bytes(tmp_path / "object") == adapter_bytes(tmp_path / "generator")
    )


def test_a_model_is_the_same_by_name_by_path_by_keys_and_as_an_object(tmp_path: Path, tiny_folder: Path) -> None:
    given: dict[str, dict[str, Any]] = {
        "name": {"model": str(tiny_folder), "tokenizer": None},
        "path": {"model": tiny_folder, "tokenizer": None},
        "keys": {"model": {"name": str(tiny_folder), "device": "cpu", "lora": LORA}, "lora": None, "tokenizer": None},
        "object": {},
    }
    for name, changes in given.items():
        small(tmp_path / name, **changes)
    assert len({adapter_bytes(tmp_path / name) for name in given}) == 1


def test_the_run_folder_has_everything(tmp_path: Path) -> None:
    small(tmp_path, eval_dataset=TEST, validation_dataset=VALIDATION, evaluate_every=1, keep_best=True, seed=4)
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {
        "recipe.yaml", "environment.json", "metrics.jsonl", "completions.jsonl", "checkpoints", "adapter",
        "summary.json", "report.html", "groups.jsonl",
    }  # fmt: skip
    recipe = (tmp_path / "recipe.yaml").read_text()
    assert "seed: 4" in recipe
    assert "group_size: 4" in recipe
    assert "name: s_grpo" in recipe
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["fingerprint"]
    assert [row.get("label", row["split"]) for row in rows_of(tmp_path, "eval")] == [
        "base", "validation", "validation", "final",
    ]  # fmt: skip
    assert len(completions_of(tmp_path)) == 8
    assert "<svg" in (tmp_path / "report.html").read_text()


def test_every_key_of_a_row_is_explained(tmp_path: Path) -> None:
    stages = [
        {"kind": "sft", "steps": 1, "batch_size": 2},
        {
            "kind": "rl",
            "algorithm": {"name": "grpo", "beta": 0.1},
            "steps": 2,
            "group_size": 4,
            "max_new_tokens": 5,
            "replay": {"successes": 1},
            "rollouts": {"curriculum": {"by": "level", "missing": 1}},
        },
    ]
    reward = lambda problem, text: {"letters": letters(problem, text), "short": 0.5}  # noqa: E731
    small(tmp_path, stages=stages, reward=reward, eval_dataset=TEST, **dict.fromkeys(
        ("steps", "group_size", "max_new_tokens", "sentinels", "optimizer"), ...))  # fmt: skip
    keys = metric_keys()
    for kind in ("sft", "rl", "eval"):
        rows = rows_of(tmp_path, kind)
        assert rows
        logged = {key for row in rows for key in row} - {"reward/letters", "reward/short"}
        assert logged <= keys[kind]
        if kind == "rl":  # and every key that is explained is logged, but those of what this run does without
            unseen = {
                key for key in keys[kind] - logged if not key.startswith(("part/<name>/", "importance/", "tools/"))
            }
            assert unseen == {"reward/<component>", "time/ahead"}


def test_the_adapter_loads_in_plain_peft_and_gives_the_policys_logits(tmp_path: Path) -> None:
    model = tiny_model()
    small(tmp_path, model=model, optimizer={"lr": 3e-2})
    plain = PeftModel.from_pretrained(tiny_model(), str(tmp_path / "adapter")).eval()
    with torch.no_grad():
        trained, base = model(PROMPT).logits, tiny_model()(PROMPT).logits
        assert torch.equal(plain(PROMPT).logits, trained)
    assert float((trained - base).abs().max()) > 0.1  # the model given was changed in place


def test_the_adapter_of_a_peft_model_is_trained_on(tmp_path: Path) -> None:
    small(tmp_path / "first")
    loaded = PeftModel.from_pretrained(tiny_model(), str(tmp_path / "first" / "adapter"))
    small(tmp_path / "second", model=loaded, lora=None, optimizer={"lr": 1e-5})
    before, after = (
        load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("first", "second")
    )
    moved = max(float((after[name] - before[name]).abs().max()) for name in before)
    assert 0 < moved < 1e-4  # two small steps from where the first run ended


def test_callbacks_see_every_row_and_observers_everything(tmp_path: Path) -> None:
    rows: list[Mapping[str, Any]] = []
    again: list[Mapping[str, Any]] = []

    class Notes(Observer):
        said: list[str] = []  # noqa: RUF012

        def message(self, text: str) -> None:
            self.said.append(text)

    small(tmp_path, eval_dataset=TEST, callbacks=[rows.append, Notes(), again.append])
    assert [row["kind"] for row in rows] == ["eval", "rl", "rl", "eval"]
    assert rows == again == rows_of(tmp_path)
    assert any("stage rl" in text for text in Notes.said)


def test_an_error_of_a_callback_is_the_callers(tmp_path: Path) -> None:
    def callback(row: Mapping[str, Any]) -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        small(tmp_path, callbacks=[callback])


def test_a_reward_by_name_grades_answers(tmp_path: Path) -> None:
    data = [{"prompt": "2+2=", "answer": 4}]
    small(tmp_path, dataset=data, reward="last_integer")
    for row in completions_of(tmp_path):
        digits = re.findall(r"\d+", row["text"])
        assert row["reward"] == float(digits[-1:] == ["4"])


def test_evaluation_report_and_seed_are_set(tmp_path: Path) -> None:
    small(tmp_path / "a", eval_dataset=TEST, evaluation={"test_size": 2, "max_new_tokens": 3, "success": 0.25}, seed=1)
    small(tmp_path / "b", seed=2, report={"groups": 0})
    assert (tmp_path / "a" / "groups.jsonl").exists() and not (tmp_path / "b" / "groups.jsonl").exists()
    rows = rows_of(tmp_path / "a", "eval")
    assert [row["accuracy/n"] for row in rows] == [2, 2]
    assert rows[0]["completion_length/mean"] <= 3
    assert adapter_bytes(tmp_path / "a") != adapter_bytes(tmp_path / "b")


def test_a_run_that_was_stopped_goes_on_bit_for_bit(tmp_path: Path) -> None:
    def stop(row: Mapping[str, Any]) -> None:
        if row["step"] == 2:
            signal.raise_signal(signal.SIGINT)

    small(tmp_path / "whole", steps=4)
    with pytest.raises(Interrupted):
        small(tmp_path / "cut", steps=4, callbacks=[stop])
    assert small(tmp_path / "cut", steps=4, resume=True)["status"] == "finished"
    assert adapter_bytes(tmp_path / "cut") == adapter_bytes(tmp_path / "whole")
    assert without_times(rows_of(tmp_path / "cut")) == without_times(rows_of(tmp_path / "whole"))
    kept = [(tmp_path / name / "groups.jsonl").read_bytes() for name in ("cut", "whole")]
    assert kept[0] == kept[1] and kept[0].count(b"\n") == 4
    with pytest.raises(UserError, match=r"cannot resume .* with another recipe: stages.0.steps"):
        small(tmp_path / "cut", steps=5, resume=True)


def test_other_data_is_not_resumed(tmp_path: Path) -> None:
    small(tmp_path)
    with pytest.raises(UserError, match=r"cannot resume .* but the data"):
        small(tmp_path, dataset=TRAIN[1:], resume=True)


PEFT = object()  # stands for a model that brings its adapter

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "stages and an algorithm": (
        {"stages": [{"kind": "sft", "steps": 1}], "algorithm": "grpo"},
        "give either stages, or algorithm, steps and the keys of one RL stage",
    ),
    "stages and steps": ({"stages": [{"kind": "sft", "steps": 1}]}, "give either stages, or algorithm"),
    "a tokenizer beside a name": ({"model": "tiny"}, "tokenizer goes with a model object"),
    "a model object alone": ({"tokenizer": None}, "a model object needs its tokenizer"),
    "lora twice": ({"model": {"name": "x", "lora": {"rank": 2}}, "tokenizer": None}, "give lora once"),
    "lora beside an adapter": ({"model": PEFT}, "lora describes a new adapter, and the model brings its own"),
    "no steps": ({"steps": 0}, "steps = 0: "),
    "an unknown key": ({"group_sise": 4}, "group_sise. .did you mean .group_size"),
    "an unknown algorithm": ({"algorithm": "s_grop"}, "unknown algorithm 's_grop' .did you mean 's_grpo'"),
    "an unknown key of lora": ({"lora": {"rang": 4}}, "model.lora.rang. .did you mean .rank"),
    "an unknown reward": ({"reward": "last_int"}, "unknown reward 'last_int'.*last_integer"),
    "a group of one": ({"group_size": 1}, "needs group size >= 2, got 1"),
    "no rows": ({"dataset": []}, "has no train problems"),
    "a row without a prompt": ({"dataset": [{"question": "2+2"}]}, "train row 0.*prompt"),
    "a row that is no mapping": ({"dataset": ["2+2"]}, "train row 0 is a str"),
    "the same question in two splits": ({"eval_dataset": TRAIN[:1]}, "train and test share 1 problems"),
    "an unknown key of run": ({"run": {"save_evry": 2}}, "run.save_evry. .did you mean .save_every"),
    "template keys and plain prompts": ({"chat_template_kwargs": {"thinking": 1}}, "thinking.. given, but problem"),
    "the best without validation": ({"keep_best": True}, "keep_best needs evaluate_every"),
    "validation without problems": ({"evaluate_every": 1}, "looks at validation accuracy, and .* has no such split"),
    "a run that is not there": ({"resume": True}, "no run folder at"),
    "a prompt that does not fit": ({"max_new_tokens": 600}, "does not fit: 5 prompt tokens . 600 new tokens"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_contradicts_itself_is_one_line_before_anything_is_written(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    if changes.get("model") is PEFT:
        small(tmp_path / "other")
        changes = {"model": PeftModel.from_pretrained(tiny_model(), str(tmp_path / "other" / "adapter"))}
    with pytest.raises(UserError, match=message) as error:
        small(tmp_path / "run", **changes)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_a_run_is_not_overwritten(tmp_path: Path) -> None:
    small(tmp_path)
    before = adapter_bytes(tmp_path)
    with pytest.raises(UserError, match="already holds a run"):
        small(tmp_path, seed=9)
    assert adapter_bytes(tmp_path) == before
