"""Recipes: one YAML file says everything that a run does. Read strictly, resolved fully, found by path or by name."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, field_validator, model_validator

from tessera.core.errors import UserError, nearest, unknown
from tessera.core.types import Problem
from tessera.environments.settings import EnvironmentSettings
from tessera.policy.load import ModelConfig
from tessera.rollout.engines import PLACE, EngineSettings, InProcess
from tessera.tasks.data import locate
from tessera.tasks.options import read_options
from tessera.tracking.settings import TrackerSettings, by_name
from tessera.training.settings import (
    EvalStage,
    EvaluationSettings,
    ReportSettings,
    RLStage,
    RunSettings,
    Settings,
    Stage,
)

KINDS = ("sft", "rl", "eval")


class Published(Settings):
    """Accuracies of somebody else's run of these stages, which the report draws beside this one's.

    `accuracy` holds, by stage, the share solved after so many steps of the source's own count.
    """

    source: str = Field(min_length=1, description="whose numbers these are")
    accuracy: dict[str, dict[int, Annotated[float, Field(ge=0, le=1)]]] = Field(
        min_length=1, description="by the name of a stage, step: accuracy"
    )


class Recipe(Settings):
    """A whole run. `task` and each stage's `algorithm` are read by their own registries.

    Data files and the file of a user's own task are looked up in the working directory, then in `data_dir`.
    """

    seed: int = Field(0, description="every random draw of the run follows from it")
    model: ModelConfig = ModelConfig()
    task: dict[str, Any] = Field(description="a name, or a mapping of `name` and the task's options")
    data_dir: str | None = Field(None, description="null: the recipe's own folder")
    chat_template_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="variables that the model's chat template reads"
    )
    stages: tuple[Annotated[Stage, Field(discriminator="kind")], ...] = Field(
        min_length=1, description="one after another"
    )
    environment: EnvironmentSettings | None = Field(None, description="tools that the model may call; null: none")
    evaluation: EvaluationSettings = EvaluationSettings()
    engine: EngineSettings = InProcess()
    tracking: tuple[TrackerSettings, ...] = Field((), description="trackers that get the numbers too")
    report: ReportSettings = ReportSettings()
    run: RunSettings
    published: Published | None = Field(None, description="numbers that the report draws beside the run's")

    @field_validator("task", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("tracking", mode="before")
    @classmethod
    def _trackers_by_name(cls, value: Any) -> Any:
        return by_name(value)

    @model_validator(mode="after")
    def _stage_names_differ(self) -> Recipe:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"stages need different names, got {names}")
        if all(isinstance(stage, EvalStage) for stage in self.stages):
            raise ValueError("no stage trains: `tessera eval` evaluates a model")
        if strange := [name for name in (self.published.accuracy if self.published else ()) if name not in names]:
            raise ValueError(f"published.accuracy names a stage {strange[0]!r}; the stages are {', '.join(names)}")
        return self

    @property
    def max_new_tokens(self) -> int:
        """The largest completion of any RL stage."""
        return max((s.max_new_tokens for s in self.stages if isinstance(s, RLStage)), default=300)

    @property
    def evaluation_tokens(self) -> int:
        """The longest completion of an evaluation."""
        return self.evaluation.max_new_tokens or self.max_new_tokens

    def text(self) -> str:
        """The resolved recipe as YAML: every default written out."""
        return yaml.dump(self.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)

    def fingerprint(self, problems: Iterable[Problem] = (), files: Mapping[str, str] | None = None) -> str:
        """A hash of all that decides the outcome: not where data and run are kept or a server is reached, who is told,
        the limits that only stop a run, or how much the report keeps. `problems` adds what was read from the data,
        `files` the hashes of what tools read."""
        exclude: Any = {
            "data_dir": True,
            "tracking": True,
            "published": True,
            "report": True,
            "run": {"dir"},
            "engine": PLACE,
            "stages": {"__all__": {"sentinels"}},
        }
        content = self.model_dump(mode="json", exclude=exclude)
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
        for p in problems:
            told = json.dumps([p.id, p.key, p.prefill, p.answer, dict(p.metadata)], default=_as_json, skipkeys=True)
            digest.update(told.encode())
        if files:
            digest.update(json.dumps(files, sort_keys=True).encode())
        return digest.hexdigest()


def read_recipe(source: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in file `source`, or the shipped one of that name, with `key=value` overrides.

    A key is a dotted path (`task.digits=2`, `stages.0.steps=50`, or by a stage's name `stages.rl.steps=50`); a value
    is YAML. Raises UserError for an unknown recipe or key (with the nearest name) or a value that does not fit.
    """
    path = find_recipe(source)
    data = read_mapping(path)
    if "vary" in data:
        raise UserError(f"{source} is a sweep, not a recipe: run it with `tessera sweep {source}`")
    apply_overrides(data, overrides)
    if isinstance(run := data.get("run") or {}, dict):
        data["run"] = {"dir": str(Path("runs") / path.stem), **run}
    own = path.resolve().parent
    if isinstance(folder := data.get("data_dir") or str(own), str):
        data["data_dir"] = str(Path(locate(folder, own)).resolve())
    return check_recipe(data, source)


def check_recipe(data: Mapping[str, Any], what: str) -> Recipe:
    """`data` as a Recipe; `what` names it in errors."""
    stages = data.get("stages")
    for index, stage in enumerate(stages if isinstance(stages, list) else ()):
        _check_kind(index, stage)
    return read_options(Recipe, data, f"recipe {what}")


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name (`nano/s_grpo_svamp_smollm2`)."""
    return {name: path for name, path in _shipped().items() if not _is_sweep(path)}


def shipped_sweeps() -> dict[str, Path]:
    """The sweeps that come with the package, by name."""
    return {name: path for name, path in _shipped().items() if _is_sweep(path)}


def headline(path: Path) -> str:
    """The first line of a recipe's opening comment: what it is."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def find_recipe(source: str) -> Path:
    """The file of a recipe or sweep given by path, or by the name of a shipped one (with or without `.yaml`)."""
    path = Path(source).expanduser()
    if path.is_file():
        return path
    shipped = _shipped()
    name = source.removeprefix("recipes/").removesuffix(".yaml")
    if name in shipped:
        return shipped[name]
    if (path / "recipe.yaml").is_file():
        raise UserError(f"{source} is the folder of a run, not a recipe: go on with --resume {source}")
    raise UserError(f"unknown recipe {source!r}{nearest(name, shipped)}")


def apply_overrides(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`data`, changed in place by `key=value` overrides."""
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not all(key.split(".")):
            raise UserError(f"override {override!r} must be key=value, such as task.digits=2")
        _set(data, key, parse_yaml(text, f"override {key}: {text!r}"))
    return data


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in the YAML file `path`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {path} cannot be read: {error}") from None
    data = parse_yaml(text, f"recipe {path}")
    if not isinstance(data, dict):
        raise UserError(f"recipe {path} must be a mapping of keys, got {type(data).__name__}")
    return data


class _Loader(yaml.SafeLoader):
    """YAML in which `1e-4` is a number, and a key that stands twice in a mapping is an error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key.value, str)]
        for key in sorted(set(keys)):
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads."""


for _class in (_Loader, _Dumper):
    # YAML 1.1 wants a dot in 1.0e-4, and a sign; nobody writes learning rates like that.
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )


def parse_yaml(text: str, what: str) -> Any:
    """YAML in which `1e-4` is a number and no key stands twice; `what` names it in errors."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{what} is not YAML: {_yaml_problem(error)}") from None


def _yaml_problem(error: yaml.YAMLError) -> str:
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
    return f"{problem or ' '.join(str(error).split())}{where}"


def _shipped() -> dict[str, Path]:
    root = _root()
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in sorted(root.rglob("*.yaml"))}


def _root() -> Path:
    installed = Path(__file__).parent / "_recipes"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "recipes"


def _is_sweep(path: Path) -> bool:
    """Whether a shipped file has the key that makes it a sweep."""
    return re.search(r"^vary:", path.read_text(encoding="utf-8"), re.MULTILINE) is not None


def _check_kind(index: int, stage: Any) -> None:
    if not isinstance(stage, Mapping) or "kind" not in stage:
        raise UserError(f"stages.{index} needs the key 'kind': {', '.join(KINDS)}")
    if stage["kind"] not in KINDS:
        raise unknown(f"kind of stages.{index}", str(stage["kind"]), KINDS)


def _set(data: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    place: Any = data
    for part in parents:
        place = _descend(place, part, key)
    place[_index(place, last, key) if isinstance(place, list) else last] = value


def _descend(place: Any, part: str, key: str) -> Any:
    at: Any = _index(place, part, key) if isinstance(place, list) else part
    inner = place[at] if isinstance(place, list) else place.get(at)
    if inner is None:
        inner = {}
    elif isinstance(inner, str) and part in ("task", "algorithm"):
        inner = {"name": inner}
    elif not isinstance(inner, dict | list):
        raise UserError(f"override {key}: {part} is {inner!r}, which has no keys")
    place[at] = inner
    return inner


def _index(stages: list[Any], part: str, key: str) -> int:
    names = [str(stage.get("name", stage.get("kind"))) if isinstance(stage, dict) else "" for stage in stages]
    if part in names:
        return names.index(part)
    if part.isdecimal() and int(part) < len(stages):
        return int(part)
    raise unknown(f"stage in override {key}", part, [*names, *map(str, range(len(stages)))])


def _as_json(value: object) -> str:
    """What JSON does not know: data columns by their content, any other object as its type, since its repr may differ
    from process to process."""
    if isinstance(value, bytes):
        return value.hex()
    return str(value) if isinstance(value, date | time | timedelta | Decimal) else type(value).__name__
