"""Queries read, and do nothing else, within their limits."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tessera.core.errors import UserError
from tessera.environments.sql_tool import SqlTool
from tessera.environments.tool import ToolFailed


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "what? is it.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE city (name TEXT, people INT)")
        connection.executemany("INSERT INTO city VALUES (?, ?)", [(f"c{n}", n) for n in range(300)])
        connection.commit()
    return path


@pytest.fixture(scope="module")
def tool(database: Path) -> Iterator[SqlTool]:
    made = SqlTool(database)
    yield made
    made.close()


def test_rows_under_their_names(tool: SqlTool) -> None:
    assert "city(name, people)" in tool.description
    assert (
        tool.call({"query": "SELECT name, people AS n FROM city WHERE people > 297"}, 10)
        == "name | n\nc298 | 298\nc299 | 299"
    )
    assert tool.call({"query": "SELECT NULL, 1.5, x'00ff'"}, 10) == "NULL | 1.5 | x'00ff'\nnull | 1.5 | 00ff"
    assert tool.call({"query": "SELECT name FROM city WHERE people < 0"}, 10) == "name"


def test_long_results_are_cut(tool: SqlTool) -> None:
    lines = tool.call({"query": "SELECT * FROM city"}, 10).splitlines()
    assert len(lines) == 52 and lines[-1] == "[cut after 50 rows]"
    assert tool.call({"query": f"SELECT '{'a' * 300}' AS a"}, 10).endswith("a" * 197 + "...")


@pytest.mark.parametrize(
    "attack",
    [
        "DELETE FROM city",
        "DROP TABLE city",
        "INSERT INTO city VALUES ('x', 1)",
        "CREATE TEMP TABLE x AS SELECT 1",
        "ATTACH '/etc/passwd' AS x",
        "PRAGMA writable_schema = 1",
        "VACUUM INTO '/tmp/stolen.db'",
        "SELECT load_extension('/tmp/x.so')",
        "SELECT readfile('/etc/passwd')",
        "SELECT writefile('/tmp/x', 'x')",
        "SELECT 1; DROP TABLE city",
        "SELECT zeroblob(1000000000)",
        "SELEC",
        "SELECT 'a\0b",
        "SELECT '\ud800'",
    ],
)
def test_what_is_no_query_is_refused_in_words(tool: SqlTool, attack: str, database: Path) -> None:
    before = database.read_bytes()
    assert tool.call({"query": attack}, 10).startswith("error: ")
    assert database.read_bytes() == before


def test_a_query_that_takes_too_long_is_a_failed_call_and_the_next_is_answered(tool: SqlTool) -> None:
    endless = "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r) SELECT count(*) FROM r"
    began = time.monotonic()
    with pytest.raises(ToolFailed) as failed:
        tool.call({"query": endless}, 0.5)
    assert failed.value.reason == "timeout" and time.monotonic() - began < 5
    assert tool.call({"query": "SELECT 1"}, 10) == "1\n1"


def test_what_is_no_database_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("this is no database, but a text of some length")
    for path in (tmp_path / "x.db", tmp_path / "none.db"):
        with pytest.raises(UserError, match="no SQLite file"):
            SqlTool(path)
    assert not (tmp_path / "none.db").exists()


def test_queries_without_end_leave_room_for_others(tool: SqlTool) -> None:
    endless = "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r) SELECT count(*) FROM r"

    def ask(query: str) -> str:
        try:
            return tool.call({"query": query}, 5)
        except ToolFailed as failed:
            return failed.reason

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(ask, [endless, endless, endless, "SELECT 1"])) == ["timeout"] * 3 + ["1\n1"]
