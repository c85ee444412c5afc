"""What a recipe says of tools, and the tools that it names."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from tessera.core.errors import UserError
from tessera.core.user_code import find_in_file
from tessera.environments.mcp_tool import McpSettings, mcp_tools
from tessera.environments.python_tool import PythonTool
from tessera.environments.retrieval.index import ABOUT, Kind, open_index
from tessera.environments.sandbox import MEBIBYTE, Sandbox
from tessera.environments.search_tool import SearchTool
from tessera.environments.sql_tool import SqlTool
from tessera.environments.tool import Tool
from tessera.tasks.options import check_signature

Locate = Callable[[str], str]
"""Where a file that a recipe names lies; raises UserError where there is none."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SearchSettings(_Strict):
    """The search tool over `index`, a folder that `tessera index` made."""

    index: str
    retriever: Kind = "bm25"
    k: int = Field(3, gt=0, description="passages a query")
    snippet: int = Field(500, gt=3, description="characters shown of a passage")


class PythonSettings(_Strict):
    """The python tool. Memory is each process's."""

    memory_mib: int = Field(512, ge=64)
    scratch_mib: int = Field(16, gt=0)
    processes: int = Field(4, gt=0)
    output_bytes: int = Field(10_000, gt=0)


class SqlSettings(_Strict):
    """The sql tool over `database`, a SQLite file."""

    database: str


class ToolSettings(_Strict):
    """The tools of an environment. A tool without options is given as `{}`.

    `mcp` are servers of the Model Context Protocol by a name of one's own; `own` are tools of one's own,
    `path/to/file.py:ClassName` with the options of the class.
    """

    search: SearchSettings | None = None
    python: PythonSettings | None = None
    sql: SqlSettings | None = None
    mcp: dict[str, McpSettings] = Field(default_factory=dict)
    own: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _some(self) -> ToolSettings:
        if not any((self.search, self.python, self.sql, self.mcp, self.own)):
            raise ValueError("an environment without a tool would do nothing: name search, python, sql, mcp or own")
        return self

    @model_serializer(mode="wrap")
    def _only_named(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A tool that is not named is left out: what is written as null reads as a tool without options."""
        return {key: value for key, value in dump(self).items() if value is not None}


class EnvironmentSettings(_Strict):
    """Episodes in which the model may call tools.

    `syntax: tags` are Search-R1's (`<search>query</search>`), `template` the calls of the model's own chat template.
    A completion has at most `turns` turns that call tools; `max_new_tokens` of a stage are the tokens that the model
    writes, and `result_tokens` those of one turn's results. A call has `seconds`, and `at_once` calls run side by side;
    an episode older than `episode_seconds` ends with its turn.
    With `introduce` the prompt opens with a word on the tools.
    """

    tools: ToolSettings
    syntax: Literal["tags", "template"] = "tags"
    turns: int = Field(4, gt=0)
    result_tokens: int = Field(256, gt=0)
    seconds: float = Field(10.0, gt=0)
    episode_seconds: float | None = Field(None, gt=0)
    at_once: int = Field(32, gt=0)
    introduce: bool = True

    @field_validator("tools", mode="before")
    @classmethod
    def _without_options(cls, value: Any) -> Any:
        """`python:` alone, which YAML reads as null, means the tool with its defaults."""
        return {k: {} if v is None else v for k, v in value.items()} if isinstance(value, dict) else value


def tools_of(settings: ToolSettings, locate: Locate) -> list[Tool]:
    """The tools that a recipe names, ready to be called; UserError for one that cannot be had."""
    tools: list[Tool] = []
    try:
        if (search := settings.search) is not None:
            retriever = open_index(Path(locate(search.index)), search.retriever)
            tools.append(SearchTool(retriever, search.k, search.snippet))
        if (python := settings.python) is not None:
            memory, scratch = python.memory_mib * MEBIBYTE, python.scratch_mib * MEBIBYTE
            tools.append(PythonTool(Sandbox(memory, scratch, python.processes, python.output_bytes)))
        if settings.sql is not None:
            tools.append(SqlTool(Path(locate(settings.sql.database))))
        for name, server in settings.mcp.items():
            tools += mcp_tools(name, server)
        tools += [_own(place, options, locate) for place, options in settings.own.items()]
    except BaseException:
        for tool in tools:
            tool.close()
        raise
    return tools


def contents(settings: ToolSettings, locate: Locate) -> dict[str, str]:
    """Hashes of the files that decide what the tools answer: what goes on must not go on with others. Of an index that
    of its description, which names its passages by their hash."""
    files = {place: Path(locate(place.rpartition(":")[0])) for place in settings.own}
    if settings.search is not None:
        files["search"] = Path(locate(settings.search.index)) / ABOUT
    if settings.sql is not None:
        files["sql"] = Path(locate(settings.sql.database))
    return {key: _hash(path) for key, path in files.items() if path.is_file()}


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _own(place: str, options: dict[str, Any], locate: Locate) -> Tool:
    path, _, name = place.rpartition(":")
    if not path.endswith(".py") or not name:
        raise UserError(f"environment.tools.own: {place!r} names no class; write path/to/file.py:ClassName")
    cls = find_in_file(place, "class", inspect.isclass, locate(path))
    check_signature(cls, options, f"tool {place}")
    made = cls(**options)
    if not isinstance(made, Tool):
        raise UserError(f"{place} is no tool: it needs name, description, parameters, main, call and close")
    return made
