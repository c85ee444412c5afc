"""The sql tool: a query over one SQLite file, which it can only read."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tessera.core.errors import UserError
from tessera.environments.tool import ToolFailed, text_argument, text_parameters
from tessera.tasks.pool import CheckFailed, CheckPool

MEMORY = 512 * 2**20
PROCESSES = 8  # started as they are needed: a few queries without end leave room for the others
ROWS = 50
READS = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE})


class SqlTool:
    """Answers queries from `database`, at most 50 rows, in processes that are killed at their limit."""

    name = "sql"
    main = "query"

    def __init__(self, database: Path) -> None:
        try:
            described = schema(database)
        except sqlite3.Error as error:
            raise UserError(f"{database} is no SQLite file that can be read: {error}") from None
        self.database = database
        self.description = f"Answers one SQLite query, read-only. Tables: {described}"
        self.parameters: Mapping[str, Any] = text_parameters("query", "one SELECT statement")
        self._pool = CheckPool("tessera.environments.sql_tool:answer", size=PROCESSES, memory=MEMORY)

    def call(self, arguments: Mapping[str, Any], limit: float) -> str:
        """See Tool. An error in the query is a result: SQLite's message."""
        query = text_argument(arguments, self.main)
        try:
            return str(self._pool.run(str(self.database), query, limit=limit, patience=limit))
        except CheckFailed as failure:
            if failure.reason == "timeout":
                raise ToolFailed("timeout", f"no result within {limit:g} s") from None
            raise ToolFailed("crash", "the query needs too much memory") from None

    def close(self) -> None:
        """End the processes."""
        self._pool.close()


def answer(database: str, query: str) -> str:
    """The rows that `query` finds, with a line of column names; or what is wrong with it."""
    with closing(_opened(Path(database))) as connection:
        connection.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in READS else sqlite3.SQLITE_DENY)
        try:
            cursor = connection.execute(query)
            rows = cursor.fetchmany(ROWS + 1)
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            return f"error: {error}"
        names = [column[0] for column in cursor.description or ()]
    lines = [" | ".join(names), *(" | ".join(map(_shown, row)) for row in rows[:ROWS])]
    return "\n".join([*lines, *([f"[cut after {ROWS} rows]"] if len(rows) > ROWS else [])])


def schema(database: Path) -> str:
    """`table(column, column); ...` of a database; raises sqlite3.Error for what is none."""
    with closing(_opened(database)) as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = {
            table: [row[0] for row in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))]
            for table in tables
        }
    return "; ".join(f"{table}({', '.join(columns[table])})" for table in tables)


def _opened(database: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"file:{quote(str(database.resolve()))}?mode=ro", uri=True)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 2**20)  # of a text
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    return connection


def _shown(value: Any) -> str:
    text = "null" if value is None else value.hex() if isinstance(value, bytes) else str(value)
    return text if len(text) <= 200 else text[:197] + "..."
