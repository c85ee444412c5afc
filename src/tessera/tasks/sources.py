"""Where the rows of a split come from: a file, or a data set of the hub, under the column names that a task reads."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from tessera.core.errors import UserError
from tessera.tasks.data import DataPath, Row, read_jsonl

Columns = Mapping[str, str]
PARQUET = ".parquet"
OF_A_DATASET = ("config", "split", "revision")


class Source(BaseModel):
    """A file, written as its path alone or as `{file: PATH}`, or `{dataset: ID, split: NAME}`.

    `dataset` is the id of a Hugging Face data set, or a folder of data files that the `datasets` library can read.
    `columns` takes the place of the task's own `columns` for this source.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: DataPath | None = Field(None, description="JSON Lines, plain or gzipped (.gz), or Parquet (.parquet)")
    dataset: str | None = Field(None, min_length=1, description="hub id, or a folder of data files")
    config: str | None = Field(None, description="configuration of the data set")
    split: str | None = Field(None, description="split of the data set, or a part of one, as in train[:1000]")
    revision: str | None = Field(None, description="branch, tag or commit of the data set")
    columns: dict[str, str] | None = Field(None, description="the task's column: the column of the data")

    @model_validator(mode="before")
    @classmethod
    def _a_path_alone(cls, value: Any) -> Any:
        return {"file": value} if isinstance(value, str | os.PathLike) else value

    @field_validator("dataset")
    @classmethod
    def _folder_beside_the_recipe(cls, name: str | None, info: ValidationInfo) -> str | None:
        if name is None:
            return None
        given, base_dir = Path(name).expanduser(), (info.context or {}).get("base_dir")
        folders = [given, *([] if base_dir is None else [base_dir / given])]
        return next((str(folder) for folder in folders if folder.is_dir()), name)

    @model_validator(mode="after")
    def _one_place(self) -> Source:
        if (self.file is None) == (self.dataset is None):
            raise ValueError("give either file (a path) or dataset (a hub id, with its split)")
        if self.file is not None and (idle := [key for key in OF_A_DATASET if getattr(self, key) is not None]):
            raise ValueError(f"{idle[0]} belongs to a dataset; a file has none")
        if self.dataset is not None and self.split is None:
            raise ValueError(f"dataset {self.dataset} needs a split, such as split: train")
        return self

    def __str__(self) -> str:
        return self.file or ", ".join(filter(None, (self.dataset, self.config, self.split, self.revision)))

    def rows(self, columns: Columns) -> list[Row]:
        """Every row, in order, under the names that the task reads; at least one.

        Raises UserError for whatever keeps them from being read: file, network, library, split or column.
        """
        found = read_file(self.file) if self.file is not None else self._from_dataset()
        mapping = columns if self.columns is None else self.columns
        return [renamed(row, mapping) for row in found]

    def _from_dataset(self) -> list[Row]:
        _need("datasets", "a data set of the hub")
        import datasets

        def load() -> Any:
            return datasets.load_dataset(self.dataset, self.config, split=self.split, revision=self.revision)

        errors = (OSError, ValueError, datasets.exceptions.DatasetsError)
        table = _attempt(load, errors, f"data set {self} cannot be loaded")
        return _rows(table.with_format("arrow")[:], str(self))


def read_file(path: str) -> list[Row]:
    """Every row of a file: Parquet by its ending, else JSON Lines. Raises UserError as `read_jsonl` does."""
    return _read_parquet(path) if path.endswith(PARQUET) else read_jsonl(path)


def renamed(row: Row, columns: Columns) -> Row:
    """`row` with the columns that `columns` names under the task's names; the others keep theirs.

    A column of the data that has the task's name, and is not the one meant, is not read.
    """
    read = {name: row.column(source) for name, source in columns.items()}
    others = {name: value for name, value in row.values.items() if name not in columns.values()}
    return Row(row.where, {**others, **read})


def _read_parquet(path: str) -> list[Row]:
    _need("pyarrow", "a Parquet file")
    import pyarrow
    import pyarrow.parquet

    def load() -> Any:
        with Path(path).open("rb") as file:
            return pyarrow.parquet.read_table(file)

    return _rows(_attempt(load, (OSError, pyarrow.ArrowException), f"{path} cannot be read"), path)


def _rows(table: Any, what: str) -> list[Row]:
    twice = [name for name, count in Counter(table.column_names).items() if count > 1]
    if twice:
        raise UserError(f"{what} has more than one column {twice[0]!r}")
    rows: Sequence[Mapping[str, Any]] = table.to_pylist()
    if not rows:
        raise UserError(f"{what} is empty; it must hold at least one row")
    return [Row(f"{what}, row {n}", values) for n, values in enumerate(rows, 1)]


def _attempt(load: Callable[[], Any], errors: tuple[type[Exception], ...], what: str) -> Any:
    try:
        return load()
    except errors as error:
        raise UserError(f"{what}: {' '.join(str(error).split()) or type(error).__name__}") from None


def _need(module: str, what: str) -> None:
    """Say what to install where a library is missing; importing it here also lets its own errors through."""
    try:
        __import__(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise UserError(f"{what} needs the package {module}: pip install 'tessera-rl[datasets]'") from None
