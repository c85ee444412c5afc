"""Model cards: what is known is there, what is not is not made up, and nothing of this machine."""

from __future__ import annotations

from typing import Any

import yaml

from tessera.reports.card import Base, render

RECIPE: dict[str, Any] = {
    "seed": 1,
    "model": {"name": "owner/name"},
    "task": {"name": "svamp", "train": "svamp/train.jsonl", "test": None},
    "data_dir": "/home/somebody/data",
    "stages": [{"kind": "rl", "steps": 5}],
    "run": {"dir": "/home/somebody/runs/x", "save_every": 10},
}
SUMMARY: dict[str, Any] = {
    "status": "finished",
    "algorithm": "t_spmo",
    "task": "svamp",
    "steps": 5,
    "accuracy": {
        "base": {"value": 0.25, "ci": [0.2, 0.3], "n": 300},
        "final": {"value": 0.5, "ci": [0.44, 0.56], "n": 300, "parts": {"a|b": {"value": 1.0, "ci": [0.9, 1], "n": 9}}},
    },
    "gain": {"from": "base", "to": "final", "difference": 0.25, "ci": [0.19, 0.31]},
}
ENVIRONMENT = {"python": "3.11.9", "torch": "2.13.0", "peft": None, "tessera": "0.1.0"}


def _card(**changes: Any) -> tuple[dict[str, Any], str]:
    base = changes.pop("base", Base("owner/name", "owner/name", "mit"))
    summary = changes.pop("summary", SUMMARY)
    text = render("x", base, RECIPE, summary, ENVIRONMENT, **{"merged": False, **changes})
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_the_front_matter_is_the_hubs() -> None:
    front, _ = _card()
    assert front == {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "base_model": "owner/name",
        "license": "mit",
        "tags": ["tessera", "reinforcement-learning"],
    }
    assert _card(merged=True)[0]["library_name"] == "transformers"
    assert _card(base=Base("model"))[0].keys().isdisjoint({"base_model", "license"})


def test_results_have_their_intervals() -> None:
    body = _card()[1]
    assert "| base | 25.0% | 20.0% to 30.0% | 300 |" in body
    assert "| final | 50.0% | 44.0% to 56.0% | 300 |" in body
    assert r"| final, a\|b | 100.0% | 90.0% to 100.0% | 9 |" in body
    assert "From base to final: +25.0 points (95 % paired interval +19.0 to +31.0)." in body
    assert "by t_spmo on svamp, 5 steps, from `owner/name`. The licence of the base is mit." in body


def test_what_is_not_known_is_said_so() -> None:
    assert "None were measured." in _card(summary=None)[1]
    assert "None were measured." in _card(summary={**SUMMARY, "accuracy": {}})[1]
    assert "The licence of the base is not known." in _card(base=Base("model"))[1]
    assert "points" not in _card(summary={**SUMMARY, "gain": None})[1]


def test_recipe_and_data_without_the_places_of_this_machine() -> None:
    body = _card()[1]
    recipe = yaml.safe_load(body.split("```yaml\n")[1].split("```")[0])
    assert recipe == {**{k: v for k, v in RECIPE.items() if k != "data_dir"}, "run": {"save_every": 10}}
    assert "somebody" not in body
    assert "Task `svamp`: train svamp/train.jsonl." in body
    assert "python 3.11.9, torch 2.13.0, tessera 0.1.0." in body


def test_how_to_load_it() -> None:
    adapter, merged = _card()[1], _card(merged=True, files=["x.gguf"])[1]
    assert 'AutoModelForCausalLM.from_pretrained("owner/name")' in adapter and "PeftModel" in adapter
    assert "PeftModel" not in merged and "Beside it: x.gguf." in merged
