"""The model card of an export: what was trained, on what, how, and how well."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from tessera.reports.text import visible

VERSIONS = ("python", "torch", "transformers", "peft", "tessera")


@dataclass(frozen=True)
class Base:
    """The model a run began from: its `name` in the recipe, its hub id and its licence where they are known."""

    name: str
    hub: str | None = None
    licence: str | None = None


def render(
    title: str,
    base: Base,
    recipe: Mapping[str, Any],
    summary: Mapping[str, Any] | None,
    environment: Mapping[str, Any],
    *,
    merged: bool,
    files: Sequence[str] = (),
) -> str:
    """README.md of an export: front matter for the hub, and sections for a reader. `files` are extra files to name."""
    parts = [
        f"---\n{yaml.safe_dump(_front(base, merged), sort_keys=False)}---\n",
        f"# {title}\n",
        _what(base, summary, merged, files),
        _use(base, merged),
        _data(recipe),
        _results(summary),
        _versions(environment),
        f"## Recipe\n\n```yaml\n{yaml.safe_dump(_portable(recipe), sort_keys=False, allow_unicode=True)}```\n",
    ]
    return "\n".join(parts)


def _front(base: Base, merged: bool) -> dict[str, Any]:
    front: dict[str, Any] = {"library_name": "transformers" if merged else "peft", "pipeline_tag": "text-generation"}
    if base.hub:
        front["base_model"] = base.hub
    if base.licence:
        front["license"] = base.licence
    return {**front, "tags": ["tessera", "reinforcement-learning"]}


def _what(base: Base, summary: Mapping[str, Any] | None, merged: bool, files: Sequence[str]) -> str:
    what = "The weights with what was trained in them" if merged else "The adapter that was trained"
    known = "" if base.hub in (None, base.name) else f", which comes from {base.hub}"
    licence = f"The licence of the base is {base.licence}." if base.licence else "The licence of the base is not known."
    how = f" by {summary['algorithm']} on {summary['task']}, {summary['steps']} steps" if summary else ""
    also = f" Beside it: {', '.join(files)}." if files else ""
    return f"{what}{how}, from `{base.name}`{known}. {licence}{also}\n"


def _use(base: Base, merged: bool) -> str:
    lines = ["from transformers import AutoModelForCausalLM, AutoTokenizer", ""]
    if merged:
        lines.append('model = AutoModelForCausalLM.from_pretrained("THIS_FOLDER")')
    else:
        lines.insert(0, "from peft import PeftModel")
        lines.append(f'base = AutoModelForCausalLM.from_pretrained("{base.hub or "THE_BASE"}")')
        lines.append('model = PeftModel.from_pretrained(base, "THIS_FOLDER")')
    code = "\n".join([*lines, 'tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")'])
    return f"## Use\n\n```python\n{code}\n```\n"


def _data(recipe: Mapping[str, Any]) -> str:
    task = recipe["task"]
    told = ", ".join(f"{key} {task[key]}" for key in ("train", "validation", "test") if task.get(key))
    return f"## Data\n\nTask `{task['name']}`" + (f": {told}.\n" if told else ", with data of its own.\n")


def _results(summary: Mapping[str, Any] | None) -> str:
    if not summary or not summary["accuracy"]:
        return "## Results\n\nNone were measured.\n"
    rows = [_row(label, found) for label, found in _every(summary["accuracy"])]
    table = "\n".join(["| | accuracy | 95 % interval | n |", "|---|---:|---:|---:|", *rows])
    gain, line = summary["gain"], ""
    if gain and gain["ci"]:
        low, high = (100 * bound for bound in gain["ci"])
        line = (
            f"\nFrom {gain['from']} to {gain['to']}: {100 * gain['difference']:+.1f} points (95 % paired interval "
            f"{low:+.1f} to {high:+.1f}).\n"
        )
    return f"## Results\n\nGreedy accuracy on the test problems; the run {summary['status']}.\n\n{table}\n{line}"


def _every(accuracy: Mapping[str, Any]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    for label, found in accuracy.items():
        yield label, found
        yield from ((f"{label}, {part}", own) for part, own in found.get("parts", {}).items())


def _row(label: str, found: Mapping[str, Any]) -> str:
    low, high = found["ci"]
    label = visible(label).replace("|", "\\|")
    return f"| {label} | {found['value']:.1%} | {low:.1%} to {high:.1%} | {found['n']} |"


def _versions(environment: Mapping[str, Any]) -> str:
    told = ", ".join(f"{name} {environment[name]}" for name in VERSIONS if environment.get(name))
    return f"## Made with\n\n{told}.\n"


def _portable(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe without where its run and its data lay."""
    kept = {key: value for key, value in recipe.items() if key != "data_dir"}
    return {**kept, "run": {key: value for key, value in recipe["run"].items() if key != "dir"}}
