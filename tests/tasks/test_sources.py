"""Rows from files and data sets: all of them, in order, under the task's names, or one line that says why not."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tessera.core.errors import UserError
from tessera.tasks.base import LoadedTask
from tessera.tasks.data import Row
from tessera.tasks.options import read_options
from tessera.tasks.registry import grade, load_task
from tessera.tasks.sources import Source, read_file, renamed

pa = pytest.importorskip("pyarrow")
pytest.importorskip("datasets")
import datasets  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

ROWS = [{"problem": f"What is {n} + 1?", "solution": str(n + 1), "level": n % 5} for n in range(6)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def jsonl(path: Path, rows: Sequence[Mapping[str, Any]] = ROWS) -> str:
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return str(path)


def parquet(path: Path, rows: Sequence[Mapping[str, Any]] = ROWS) -> str:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return str(path)


def folder(tmp_path: Path) -> Path:
    """A data set as it lies on the hub: a folder of data files, one configuration with two splits."""
    home = tmp_path / "sums"
    home.mkdir()
    jsonl(home / "train.jsonl", ROWS[:4])
    jsonl(home / "test.jsonl", ROWS[4:])
    return home


def load(train: Any, **options: Any) -> LoadedTask:
    return load_task({"name": "jsonl", "reward": "last_integer", "train": train, **options})


def test_every_kind_of_source_holds_the_same_problems(tmp_path: Path) -> None:
    columns = {"prompt": "problem", "answer": "solution"}
    sources: list[Any] = [
        jsonl(tmp_path / "a.jsonl"),
        jsonl(tmp_path / "a.jsonl.gz"),
        parquet(tmp_path / "a.parquet"),
        {"file": parquet(tmp_path / "b.parquet")},
    ]
    found = [load(source, columns=columns).train for source in sources]
    assert [(p.prompt, p.answer, p.metadata) for p in found[0]] == [
        (row["problem"], int(row["solution"]), {"level": row["level"]}) for row in ROWS
    ]
    assert all(problems == found[0] for problems in found)


def test_a_data_set_by_name_with_splits_of_its_own(tmp_path: Path) -> None:
    home = str(folder(tmp_path))
    loaded = load(
        {"dataset": home, "split": "train"},
        test={"dataset": home, "split": "test[1:]"},
        columns={"prompt": "problem", "answer": "solution"},
    )
    assert [p.answer for p in loaded.train] == [1, 2, 3, 4]
    assert [(p.id, p.answer) for p in loaded.test] == [("test-0", 6)]


def test_a_source_may_have_columns_of_its_own(tmp_path: Path) -> None:
    other = jsonl(tmp_path / "other.jsonl", [{"prompt": "2 + 5?", "answer": 7}])
    loaded = load(
        jsonl(tmp_path / "a.jsonl"),
        test={"file": other, "columns": {}},
        columns={"prompt": "problem", "answer": "solution"},
    )
    assert (loaded.test[0].prompt, loaded.test[0].answer) == ("2 + 5?", 7)


def test_a_folder_is_looked_for_beside_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = folder(tmp_path)
    given = {"dataset": "sums", "split": "train"}
    assert read_options(Source, given, "a source", tmp_path).dataset == str(home)
    assert read_options(Source, given, "a source").dataset == "sums"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_options(Source, {**given, "dataset": "~/sums"}, "a source").dataset == str(home)


def test_revision_and_configuration_reach_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(*names: str | None, **options: str | None) -> datasets.Dataset:
        asked.append((names, options))
        return datasets.Dataset.from_list([{"n": 1}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = Source.model_validate({"dataset": "a/b", "config": "main", "split": "train", "revision": "f00d"})
    assert source.rows({}) == [Row("a/b, main, train, f00d, row 1", {"n": 1})]
    assert asked == [(("a/b", "main"), {"split": "train", "revision": "f00d"})]


def test_data_without_ids_are_called_by_position_unless_a_column_was_asked_for(tmp_path: Path) -> None:
    without = jsonl(tmp_path / "without.jsonl", [{"question": f"{n}?", "answer": n} for n in range(102)])
    test = jsonl(tmp_path / "test.jsonl", [{"question": "other?", "answer": 1}])
    loaded = load_task({"name": "svamp", "train": without, "test": test})
    assert (loaded.train[0].id, loaded.test[0].id) == ("train-0", "test-0")
    some = jsonl(tmp_path / "some.jsonl", [{"id": 1, "question": "w?", "answer": 1}, {"question": "x?", "answer": 1}])
    with pytest.raises(UserError, match=r"some\.jsonl, line 2 has no column 'id'"):
        load_task({"name": "svamp", "train": without, "test": some})
    with pytest.raises(UserError, match="line 1 has no column 'key'"):
        load(jsonl(tmp_path / "a.jsonl"), id_column="key", columns={"prompt": "problem", "answer": "solution"})


def test_a_column_that_is_displaced_is_not_read_and_the_rest_keep_their_names() -> None:
    row = Row("here", {"answer": "long", "final": 3, "level": 2})
    assert renamed(row, {"answer": "final"}).values == {"answer": 3, "level": 2}
    assert renamed(row, {"answer": "final", "final": "answer"}).values == {"answer": 3, "final": "long", "level": 2}
    assert renamed(row, {"a": "level", "b": "level"}).values == {"answer": "long", "final": 3, "a": 2, "b": 2}


def test_one_row_is_graded_in_the_columns_of_the_data() -> None:
    columns = {"question": "problem", "answer": "solution"}
    assert grade("svamp", {"problem": "1 + 1?", "solution": 2}, " 2", columns=columns).correct


def test_what_is_wrong_with_a_parquet_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "torn.parquet").write_bytes(Path(parquet(tmp_path / "a.parquet")).read_bytes()[:-9])
    with pytest.raises(UserError, match=r"^\S+torn\.parquet cannot be read: .*Parquet"):
        read_file(str(tmp_path / "torn.parquet"))
    with pytest.raises(UserError, match=r"gone\.parquet cannot be read: .*No such file"):
        read_file(str(tmp_path / "gone.parquet"))
    pq.write_table(pa.table({"a": pa.array([], pa.int64())}), tmp_path / "none.parquet")
    with pytest.raises(UserError, match=r"none\.parquet is empty"):
        read_file(str(tmp_path / "none.parquet"))
    pq.write_table(pa.table([[1], [2]], names=["a", "a"]), tmp_path / "twice.parquet")
    with pytest.raises(UserError, match=r"twice\.parquet.*'?a'?"):
        read_file(str(tmp_path / "twice.parquet"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"split": "nope"}, r"data set \S+sums, nope cannot be loaded: Unknown split \"nope\""),
        ({"config": "nope"}, "BuilderConfig 'nope' not found"),
        ({"split": "train", "columns": {"prompt": "q"}}, "row 1 has no column 'q'; its columns are 'problem'"),
    ],
)
def test_what_a_data_set_does_not_have_is_one_line(tmp_path: Path, source: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load({"dataset": str(folder(tmp_path)), "split": "train", **source})
    assert "\n" not in str(caught.value)


def test_without_a_network_the_data_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"^data set nobody/nothing, train cannot be loaded: .*nobody/nothing"):
        Source.model_validate({"dataset": "nobody/nothing", "split": "train"}).rows({})


@pytest.mark.parametrize(
    ("module", "train", "what"),
    [
        ("datasets", {"dataset": "a/b", "split": "train"}, "a data set of the hub"),
        ("pyarrow", "a.parquet", "a Parquet file"),
    ],
)
def test_without_the_library_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, train: Any, what: str
) -> None:
    parquet(tmp_path / "a.parquet")
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_Hidden(module), *sys.meta_path])
    with pytest.raises(UserError, match=rf"^{what} needs the package {module}: pip install 'tessera-rl\[datasets\]'"):
        load(train)


class _Hidden:
    """A finder that says that a module is not installed."""

    def __init__(self, module: str) -> None:
        self.module = module

    def find_spec(self, name: str, *_: Any) -> None:
        if name == self.module:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({}, "task jsonl: train: give either file"),
        ({"file": __file__, "dataset": "a/b"}, "task jsonl: train: give either file"),
        ({"file": __file__, "split": "train"}, "task jsonl: train: split belongs to a dataset; a file has none"),
        ({"dataset": "a/b"}, "task jsonl: train: dataset a/b needs a split, such as split: train"),
        ({"datset": "a/b", "split": "x"}, r"unknown option of task jsonl 'train.datset' \(did you mean 'dataset'\?\)"),
        ({"dataset": "a/b", "split": "x", "columns": {"a": 1}}, "task jsonl: train.columns.a = 1: Input should be a"),
        ({"file": "gone.jsonl"}, "no such file: 'gone.jsonl'"),
        (3, "task jsonl: train = 3: Input should be a mapping"),
    ],
)
def test_a_source_is_read_strictly(source: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(source)
