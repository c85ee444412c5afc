"""Recipes: one YAML file says everything that a run does. Read strictly, resolved fully, found by path or by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, field_validator, model_validator

from tessera.core.errors import UserError, unknown
from tessera.policy.load import ModelConfig
from tessera.tasks.options import read_options
from tessera.training.settings import EvaluationSettings, RLStage, RunSettings, Settings, SFTStage

Stage = Annotated[SFTStage | RLStage, Field(discriminator="kind")]


class Recipe(Settings):
    """A whole run. `task` and each stage's `algorithm` are read by their own registries."""

    seed: int = 0
    model: ModelConfig = ModelConfig()
    task: dict[str, Any]
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    stages: tuple[Stage, ...] = Field(min_length=1)
    evaluation: EvaluationSettings = EvaluationSettings()
    run: RunSettings

    @field_validator("task", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _stage_names_differ(self) -> Recipe:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"stages need different names, got {names}")
        return self

    def text(self) -> str:
        """The resolved recipe as YAML: every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def fingerprint(self, problems: Sequence[object] = ()) -> str:
        """A hash of everything but where the run is kept; `problems` adds the data that was read."""
        content = self.model_dump(mode="json", exclude={"run": {"dir"}})
        told = json.dumps(content, sort_keys=True) + "".join(repr(problem) for problem in problems)
        return hashlib.sha256(told.encode()).hexdigest()


def read_recipe(source: str, overrides: Sequence[str] = ()) -> tuple[Recipe, Path]:
    """The recipe in file `source`, or the shipped one of that name, with `key=value` overrides; and its folder.

    A key is a dotted path (`task.digits=2`, `stages.0.steps=50`, or by a stage's name `stages.rl.steps=50`); a value
    is YAML. Raises UserError for an unknown recipe or key (with the nearest name) or a value that does not fit.
    """
    path = find_recipe(source)
    data = _parse(path)
    for override in overrides:
        _apply(data, override)
    run = data.setdefault("run", {})
    if isinstance(run, dict):
        run.setdefault("dir", str(Path("runs") / path.stem))
    return check_recipe(data, str(source)), path.parent


def check_recipe(data: Mapping[str, Any], what: str) -> Recipe:
    """`data` as a Recipe; `what` names it in errors."""
    stages = data.get("stages")
    if isinstance(stages, list):
        data = {**data, "stages": [_with_kind(i, stage) for i, stage in enumerate(stages)]}
    return read_options(Recipe, data, f"recipe {what}")


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name (`nano/s_grpo_svamp_smollm2`)."""
    root = _root()
    return {str(path.relative_to(root).with_suffix("").as_posix()): path for path in sorted(root.rglob("*.yaml"))}


def find_recipe(source: str) -> Path:
    """The file of a recipe given by path, or by the name of a shipped one (with or without `.yaml`)."""
    path = Path(source).expanduser()
    if path.is_file():
        return path
    shipped = shipped_recipes()
    name = source.removeprefix("recipes/").removesuffix(".yaml")
    if name in shipped:
        return shipped[name]
    raise unknown("recipe", source, shipped)


def _root() -> Path:
    installed = Path(__file__).parent / "_recipes"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "recipes"


def _parse(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise UserError(f"recipe {path} must be a mapping of keys, got {type(data).__name__}")
    return data


def _with_kind(index: int, stage: Any) -> Any:
    if not isinstance(stage, Mapping) or "kind" not in stage:
        raise UserError(f"stages.{index} needs the key 'kind': sft or rl")
    if stage["kind"] not in ("sft", "rl"):
        raise unknown(f"kind of stages.{index}", str(stage["kind"]), ("sft", "rl"))
    return stage


def _apply(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"override {override!r} must be key=value, such as task.digits=2")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"override {key}: {text!r} is not YAML: {' '.join(str(error).split())}") from None
    *parents, last = key.split(".")
    place: Any = data
    for part in parents:
        place = _descend(place, part, key)
    if isinstance(place, list):
        place[_index(place, last, key)] = value
    else:
        place[last] = value


def _descend(place: Any, part: str, key: str) -> Any:
    if isinstance(place, list):
        return place[_index(place, part, key)]
    inner = place.setdefault(part, {})
    if isinstance(inner, str) and part in ("task", "algorithm"):
        inner = place[part] = {"name": inner}
    if not isinstance(inner, dict | list):
        raise UserError(f"override {key}: {part} is {inner!r}, which has no keys")
    return inner


def _index(stages: list[Any], part: str, key: str) -> int:
    names = [str(stage.get("name", stage.get("kind"))) if isinstance(stage, dict) else "" for stage in stages]
    if part in names:
        return names.index(part)
    if part.isdecimal() and int(part) < len(stages):
        return int(part)
    raise unknown(f"stage in override {key}", part, [*names, *map(str, range(len(stages)))])
