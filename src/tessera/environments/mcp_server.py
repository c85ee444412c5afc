"""The shipped tools as a server of the Model Context Protocol: standard input and output, or streamable HTTP."""

from __future__ import annotations

import hmac
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any

from tessera.core.errors import UserError
from tessera.environments.tool import Call, Tool

Run = Callable[[Call], tuple[str, bool]]
"""Runs a call: the text, and whether it is an error."""


def make_server(tools: Sequence[Tool], run: Run, version: str) -> Any:
    """A server that lists `tools` and answers calls with `run`, each in a thread."""
    import anyio.to_thread
    from mcp.server.lowlevel import Server
    from mcp.types import CallToolResult, ListToolsResult, TextContent
    from mcp.types import Tool as Listed

    async def list_tools(context: Any, params: Any) -> Any:
        return ListToolsResult(
            tools=[Listed(name=t.name, description=t.description, input_schema=dict(t.parameters)) for t in tools]
        )

    async def call_tool(context: Any, params: Any) -> Any:
        text, failed = await anyio.to_thread.run_sync(run, Call(params.name, params.arguments or {}))
        return CallToolResult(content=[TextContent(type="text", text=text)], is_error=failed)

    return Server("tessera", version=version, on_list_tools=list_tools, on_call_tool=call_tool)


def serve_stdio(server: Any) -> None:
    """Serve one client on standard input and output, until it leaves."""
    import anyio
    from mcp.server.stdio import stdio_server

    async def serve() -> None:
        async with stdio_server() as (reads, writes):
            await server.run(reads, writes, server.create_initialization_options())

    anyio.run(serve)


def serve_http(server: Any, host: str, port: int, token: str | None, say: Callable[[str], None]) -> None:
    """Serve on http://HOST:PORT/mcp, and `say` so. Beyond this machine only those who have the `token`."""
    import uvicorn

    if not _loopback(host) and not token:
        raise UserError(f"{host} is open to other machines: give a token with --token-env, or serve on 127.0.0.1")
    app = server.streamable_http_app(host=host)
    with _listening(host, port) as at:
        say(f"tools at http://{f'[{host}]' if ':' in host else host}:{at.getsockname()[1]}/mcp")
        config = uvicorn.Config(app if token is None else Guarded(app, token), log_level="warning")
        uvicorn.Server(config).run(sockets=[at])


class Guarded:
    """An ASGI application that only who has the token reaches."""

    def __init__(self, app: Callable[..., Awaitable[None]], token: str) -> None:
        self.app, self.wanted = app, f"Bearer {token}".encode()

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        """Answer, or refuse with 401."""
        given = dict(scope.get("headers") or ()).get(b"authorization", b"")
        if scope["type"] != "http" or hmac.compare_digest(given, self.wanted):
            await self.app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 401, "headers": [(b"www-authenticate", b"Bearer")]})
        await send({"type": "http.response.body", "body": b"a bearer token is needed"})


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise UserError(f"cannot serve on {host}, port {port}: {getattr(error, 'strerror', None) or error}") from None


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
