"""What a recipe says of tools, read strictly."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tessera.core.errors import UserError
from tessera.environments.retrieval.index import build
from tessera.environments.retrieval.passages import Passage
from tessera.environments.settings import EnvironmentSettings, contents, tools_of
from tessera.tasks.options import read_options


def read(tools: Any, **more: Any) -> EnvironmentSettings:
    return read_options(EnvironmentSettings, {"tools": tools, **more}, "environment")


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_the_shipped_tools_by_name(tmp_path: Path) -> None:
    pytest.importorskip("bm25s")
    (tmp_path / "index").mkdir()
    build(tmp_path / "index", [Passage("a", "Ant", "An insect.")], None, lambda done, total: None)
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection:
        connection.execute("CREATE TABLE t (a)")
    settings = read({"search": {"index": "index", "k": 1}, "python": None, "sql": {"database": "x.db"}})
    search, python, sql = tools_of(settings.tools, lambda path: str(tmp_path / path))
    assert search.call({"query": "insects"}, 5) == "[1] Ant: An insect."
    assert python.call({"code": "1 + 1"}, 10) == "2"
    assert sql.call({"query": "SELECT count(*) FROM t"}, 5) == "count(*)\n0"
    sql.close()


@pytest.mark.parametrize("mode", ["json", "python"])
def test_what_is_written_reads_as_the_same_tools(mode: Any) -> None:
    for tools in ({"search": {"index": "i"}}, {"python": None}, {"sql": {"database": "x.db"}, "own": {"t.py:T": {}}}):
        settings = read(tools)
        assert read_options(EnvironmentSettings, settings.model_dump(mode=mode), "environment") == settings


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tools": {}}, "would do nothing"),
        ({"tools": {"search": {"index": "i", "kk": 3}}}, "'environment' .* 'tools.search.kk'|unknown option"),
        ({"tools": {"python": {}}, "turns": 0}, "turns"),
        ({"tools": {"python": {}}, "syntax": "xml"}, "syntax"),
    ],
)
def test_what_does_not_fit_is_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_options(EnvironmentSettings, given, "environment")


def test_a_tool_of_ones_own_has_every_member(tmp_path: Path) -> None:
    (tmp_path / "tool.py").write_text("class Half:\n    name = 'half'\n")
    settings = read({"own": {"tool.py:Half": {}}})
    with pytest.raises(UserError, match="is no tool: it needs name, description"):
        tools_of(settings.tools, lambda path: str(tmp_path / path))


def test_an_option_that_a_tool_of_ones_own_does_not_take_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "tool.py").write_text("class Half:\n    def __init__(self, of):\n        pass\n")
    settings = read({"own": {"tool.py:Half": {"off": 3}}})
    with pytest.raises(UserError, match=r"tool tool.py:Half.*off"):
        tools_of(settings.tools, lambda path: str(tmp_path / path))


def test_what_tools_read_is_told_apart_by_what_it_holds_not_by_where_it_lies(tmp_path: Path) -> None:
    pytest.importorskip("bm25s")

    def made(folder: Path, text: str, cell: int) -> dict[str, str]:
        (folder / "index").mkdir(parents=True)
        build(folder / "index", [Passage("a", "Ant", text)], None, lambda done, total: None)
        with closing(sqlite3.connect(folder / "x.db")) as connection:
            connection.execute("CREATE TABLE t (a)")
            connection.execute("INSERT INTO t VALUES (?)", (cell,))
            connection.commit()
        (folder / "tool.py").write_text("class Half:\n    pass\n")
        settings = read({"search": {"index": "index"}, "sql": {"database": "x.db"}, "own": {"tool.py:Half": {}}})
        return contents(settings.tools, lambda path: str(folder / path))

    first, again = made(tmp_path / "1", "An insect.", 1), made(tmp_path / "2", "An insect.", 1)
    other = made(tmp_path / "3", "A insect.", 2)
    assert set(first) == {"search", "sql", "tool.py:Half"} and first == again
    assert {key for key in first if first[key] != other[key]} == {"search", "sql"}
