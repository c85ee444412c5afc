"""What is evaluated: the final adapter of a run, a recipe's model as it is, or a model without any recipe."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from tessera.core.errors import UserError
from tessera.environments.settings import EnvironmentSettings
from tessera.launch import IN_MEMORY
from tessera.policy.adapters import WEIGHTS_FILE
from tessera.policy.embedded import EMBEDDED
from tessera.policy.load import ModelConfig
from tessera.policy.sources import locate
from tessera.recipe import apply_overrides, find_recipe, read_recipe, shipped_recipes
from tessera.tasks.options import read_options
from tessera.training.settings import EvaluationSettings, Settings

WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")


class PlainModel(Settings):
    """The keys that a model without a recipe takes; they are a recipe's."""

    seed: int = 0
    model: ModelConfig = ModelConfig()
    task: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    environment: EnvironmentSettings | None = None
    evaluation: EvaluationSettings = EvaluationSettings()

    @field_validator("task", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


@dataclass(frozen=True)
class Subject:
    """A model, and how its source says that it is evaluated. `label` names it in a folder's name."""

    label: str
    model: ModelConfig
    task: Mapping[str, Any] | None
    seed: int
    evaluation: EvaluationSettings
    max_new_tokens: int
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    run: Path | None = None
    environment: EnvironmentSettings | None = None
    folder: Path | None = None  # where files are looked up after the working directory

    def weights(self) -> str | None:
        """A hash of the weights that lie in local files, adapter included; None where the name alone decides."""
        digest, files = hashlib.blake2b(digest_size=16), self._weight_files()
        for path in files:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "blake2b").digest())
        return digest.hexdigest() if files else None

    def _weight_files(self) -> list[Path]:
        name, adapter = self.model.name, self.model.adapter
        place = None if name in EMBEDDED else locate(name, self.model.revision)
        whole = [] if place is None else [place] if place.is_file() else sorted(_in_folder(place))
        return whole if adapter is None else [*whole, *sorted(_in_folder(Path(adapter)))]


def read_subject(source: str, overrides: Sequence[str], *, asks: bool = True) -> Subject:
    """What `source` names, with `key=value` overrides: a run's folder, a recipe's file or name, else a model's name.

    With `asks` its task's questions will be asked, so they must be there: not those that were in memory.
    """
    path = Path(source).expanduser()
    if (path / "recipe.yaml").is_file():
        found = _of_recipe(str(path / "recipe.yaml"), overrides, path)
    elif _is_recipe(source, path):
        found = _of_recipe(source, overrides, None)
    else:
        found = _of_model(source, overrides)
    if asks and found.task is not None and found.task.get("name") == IN_MEMORY:
        raise UserError(f"the data of {source} was in memory: evaluate it from Python, or give a task with --suite")
    return found


def _of_recipe(source: str, overrides: Sequence[str], run: Path | None) -> Subject:
    recipe = read_recipe(source, overrides)
    return Subject(
        label=f"{find_recipe(source).stem}-base" if run is None else run.resolve().name,
        model=_frozen(recipe.model) if run is None else _trained(recipe.model, run),
        task=recipe.task,
        seed=recipe.seed,
        evaluation=recipe.evaluation,
        max_new_tokens=recipe.evaluation_tokens,
        chat_template_kwargs=recipe.chat_template_kwargs,
        run=run,
        environment=recipe.environment,
        folder=None if recipe.data_dir is None else Path(recipe.data_dir),
    )


def _of_model(name: str, overrides: Sequence[str]) -> Subject:
    data = apply_overrides({"model": {"name": name}}, overrides)
    keys = read_options(PlainModel, data, f"the evaluation of {name}")
    return Subject(
        label=name.rstrip("/").rpartition("/")[2],
        model=_frozen(keys.model),
        task=keys.task,
        seed=keys.seed,
        evaluation=keys.evaluation,
        max_new_tokens=keys.evaluation.max_new_tokens or 512,
        chat_template_kwargs=keys.chat_template_kwargs,
        environment=keys.environment,
    )


def _is_recipe(source: str, path: Path) -> bool:
    shipped = shipped_recipes()
    if path.suffix in (".yaml", ".yml") or source in shipped:
        return True
    if path.exists() or source in EMBEDDED:
        return False
    return bool(difflib.get_close_matches(source, shipped, n=1, cutoff=0.85))  # misspelt; a hub id is not so near


def _frozen(model: ModelConfig) -> ModelConfig:
    """A fresh adapter changes nothing, and costs time."""
    return model.model_copy(update={"lora": None, "full": False})


def _trained(model: ModelConfig, run: Path) -> ModelConfig:
    """The final adapter of a run on its base, or its final model."""
    if model.full:
        if not (run / "model" / "config.json").is_file():
            raise UserError(f"{run} has no final model yet: the run is not finished; go on with --resume {run}")
        return model.model_copy(update={"name": str(run / "model"), "revision": None, "full": False})
    if not (run / "adapter" / WEIGHTS_FILE).is_file():
        raise UserError(f"{run} has no final adapter yet: the run is not finished; go on with --resume {run}")
    return model.model_copy(update={"adapter": str(run / "adapter"), "lora": None})


def _in_folder(folder: Path) -> list[Path]:
    return [path for pattern in WEIGHTS for path in folder.glob(pattern)]
