"""Tools of a server that speaks the Model Context Protocol: a command that is started, or an address."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import asynccontextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tessera.core.errors import UserError, unknown
from tessera.environments.tool import ToolFailed

CLOSED = -32000  # the SDK's code of a connection that is gone
PARTING = 5.0  # seconds


class McpSettings(BaseModel):
    """A server: a `command` that speaks on its standard input and output, or a `url` (streamable HTTP).

    A command sees of the environment its basic variables and those of `env`.
    `token_env` names the environment variable that holds the bearer token of a `url`. `tools` are those of the server
    that are offered (null: all).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    command: tuple[str, ...] | None = Field(None, min_length=1)
    url: str | None = None
    env: dict[str, str] = Field(default_factory=dict)
    token_env: str | None = None
    tools: tuple[str, ...] | None = None
    start_seconds: float = Field(30.0, gt=0)

    @model_validator(mode="after")
    def _one_place(self) -> McpSettings:
        if (self.command is None) == (self.url is None):
            raise ValueError("give either command (a list of words) or url")
        if self.token_env is not None and self.url is None:
            raise ValueError("token_env goes with url")
        return self


class Connection:
    """A server, spoken to from a thread of its own; one that died is started again at the next call."""

    def __init__(self, name: str, settings: McpSettings) -> None:
        self.name, self.settings = name, settings
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"mcp-{name}", daemon=True)
        self._thread.start()
        self._lock = threading.Lock()
        self._client: Any = None
        self._leave: asyncio.Event | None = None
        self._living: Future[None] | None = None

    def tools(self) -> list[Any]:
        """What the server lists, all pages of it; raises ToolFailed where it does not answer."""
        listed: list[Any] = []
        cursors: list[str | None] = [None]
        while True:
            page = self._ask(partial(_page, cursors[-1]), self.settings.start_seconds)
            listed += page.tools
            if not page.next_cursor:
                return listed
            if page.next_cursor in cursors:
                raise ToolFailed("unavailable", f"the server {self.name} lists the same page of tools again and again")
            cursors.append(page.next_cursor)

    def call(self, tool: str, arguments: Mapping[str, Any], limit: float) -> Any:
        """The server's result; raises ToolFailed where there is none."""
        return self._ask(lambda client: client.call_tool(tool, dict(arguments)), limit)

    def close(self) -> None:
        """End the connection, and the process that was started for it."""
        with self._lock:
            self._part(self._living)
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _ask(self, what: Callable[[Any], Any], limit: float) -> Any:
        client, living = self._connected()
        future = asyncio.run_coroutine_threadsafe(what(client), self._loop)
        # A connection that breaks leaves its questions unanswered.
        wait({future, living}, limit, FIRST_COMPLETED)
        if future.done() and not future.cancelled():
            if (error := future.exception()) is None:
                return future.result()
            if getattr(error, "code", None) == CLOSED:
                self._part(living)
            if not living.done():
                raise ToolFailed("crash", _line(error)) from error
        future.cancel()
        if not living.done():
            raise ToolFailed("timeout", f"no result within {limit:g} s")
        raise ToolFailed("unavailable", f"the server {self.name} is gone")

    def _part(self, living: Future[None] | None) -> None:
        """End the connection `living`; one that another call has made since goes on."""
        if living is not None and living is self._living and self._leave is not None:
            self._loop.call_soon_threadsafe(self._leave.set)
            wait({living}, PARTING)

    def _connected(self) -> tuple[Any, Future[None]]:
        with self._lock:
            if not self._alive():
                self._connect()
            assert self._living is not None
            return self._client, self._living

    def _alive(self) -> bool:
        return self._living is not None and not self._living.done()

    def _connect(self) -> None:
        ready: Future[Any] = Future()
        self._living = asyncio.run_coroutine_threadsafe(self._live(ready), self._loop)
        wait({ready, self._living}, self.settings.start_seconds, FIRST_COMPLETED)
        if ready.done():
            self._client = ready.result()
            return
        if not self._living.done():
            self._living.cancel()
            raise ToolFailed("unavailable", f"the server {self.name} does not answer")
        error = None if self._living.cancelled() else self._living.exception()
        # The SDK keeps to itself with which status a server refused.
        hint = " (is a token wanted, or another? see token_env)" if "error response" in str(_inner(error)) else ""
        raise ToolFailed("unavailable", f"the server {self.name} does not start: {_line(error)}{hint}") from error

    async def _live(self, ready: Future[Any]) -> None:
        """The life of a connection: one task enters and leaves it."""
        self._leave = asyncio.Event()
        async with _client(self.settings) as client:
            ready.set_result(client)
            await self._leave.wait()


class McpTool:
    """One tool of a server."""

    def __init__(self, connection: Connection, listed: Any) -> None:
        self.connection = connection
        self.name: str = listed.name
        self.description: str = listed.description or ""
        self.parameters: Mapping[str, Any] = listed.input_schema
        known = list(self.parameters.get("properties", {}))
        self.main: str = next(iter(self.parameters.get("required") or known), "")

    def call(self, arguments: Mapping[str, Any], limit: float) -> str:
        """See Tool. What the server calls an error of the tool is a failed call."""
        result = self.connection.call(self.name, arguments, limit)
        text = "\n".join(part.text if part.type == "text" else f"[{part.type}]" for part in result.content)
        if result.is_error:
            raise ToolFailed("crash", text)
        return text

    def close(self) -> None:
        """End the connection, which the tools of a server share."""
        self.connection.close()


def mcp_tools(name: str, settings: McpSettings) -> list[McpTool]:
    """The tools of the server that a recipe calls `name`; UserError where it does not answer, or lacks one of them."""
    if find_spec("mcp") is None:
        raise UserError("environment.tools.mcp needs the mcp package: pip install 'tessera-rl[mcp]'")
    if settings.token_env is not None and not os.environ.get(settings.token_env):
        raise UserError(f"environment.tools.mcp.{name}: the environment variable {settings.token_env} holds no token")
    connection = Connection(name, settings)
    try:
        found = {listed.name: McpTool(connection, listed) for listed in connection.tools()}
        wanted = list(found) if settings.tools is None else settings.tools
        for tool in wanted:
            if tool not in found:
                raise unknown(f"tool of the server {name}", tool, found)
    except (ToolFailed, UserError) as error:
        connection.close()
        raise UserError(f"environment.tools.mcp.{name}: {error}") from None
    return [found[tool] for tool in wanted]


@asynccontextmanager
async def _client(settings: McpSettings) -> AsyncIterator[Any]:
    from mcp import Client, StdioServerParameters
    from mcp.client.streamable_http import streamable_http_client
    from mcp.shared._httpx_utils import create_mcp_http_client

    if settings.command is not None:
        command, *arguments = settings.command
        async with Client(StdioServerParameters(command=command, args=arguments, env=settings.env)) as client:
            yield client
        return
    token = os.environ.get(settings.token_env or "")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        create_mcp_http_client(headers=headers) as http,
        Client(streamable_http_client(str(settings.url), http_client=http)) as client,
    ):
        yield client


def _page(cursor: str | None, client: Any) -> Any:
    return client.list_tools(cursor=cursor)


def _inner(error: BaseException | None) -> BaseException | None:
    """The innermost error of a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _line(error: BaseException | None) -> str:
    """What went wrong, in a line."""
    error = _inner(error)
    return "it ended" if error is None else f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
