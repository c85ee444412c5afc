"""The shipped tools over the protocol, spoken to by the SDK's own client."""

from __future__ import annotations

import asyncio
import queue
import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request as HTTPRequest
from urllib.request import urlopen

import pytest

from scripted import Echo
from tessera.core.errors import UserError
from tessera.environments.mcp_server import make_server, serve_http
from tessera.environments.mcp_tool import McpSettings, mcp_tools
from tessera.environments.tool import Call

pytest.importorskip("mcp")
TOKEN = "s3cret"


def run(call: Call) -> tuple[str, bool]:
    return (f"{call.tool} {call.arguments['text']}", False) if "text" in call.arguments else ("error: text", True)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server, said = make_server([Echo("one"), Echo("two")], run, "0"), queue.Queue[str]()
    threading.Thread(target=serve_http, args=(server, "127.0.0.1", 0, TOKEN, said.put), daemon=True).start()
    yield said.get(timeout=30).removeprefix("tools at ")


def test_the_sdks_client_lists_and_calls() -> None:
    from mcp import Client

    async def talk() -> Any:
        async with Client(make_server([Echo("one"), Echo("two")], run, "1.2")) as client:
            listed = await client.list_tools()
            return listed.tools, await client.call_tool("two", {"text": "a"}), await client.call_tool("one", {})

    tools, good, bad = asyncio.run(talk())
    assert [(tool.name, tool.input_schema["required"]) for tool in tools] == [("one", ["text"]), ("two", ["text"])]
    assert (good.content[0].text, good.is_error) == ("two a", False)
    assert (bad.content[0].text, bad.is_error) == ("error: text", True)


def test_over_http_with_the_token(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLS_TOKEN", TOKEN)
    one, two = mcp_tools("mine", McpSettings(url=url, token_env="TOOLS_TOKEN"))
    assert two.call({"text": "a"}, 10) == "two a"
    one.close()


def test_without_the_token_nobody_is_answered(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLS_TOKEN", "guessed")
    for settings in (McpSettings(url=url), McpSettings(url=url, token_env="TOOLS_TOKEN")):
        with pytest.raises(UserError, match=r"environment\.tools\.mcp\.mine.*see token_env"):
            mcp_tools("mine", settings)
    for header in ({}, {"Authorization": "Bearer "}, {"Authorization": TOKEN}, {"Authorization": f"bearer {TOKEN} "}):
        with pytest.raises(HTTPError) as refused:
            urlopen(HTTPRequest(url, data=b"{}", headers=header), timeout=10)
        assert refused.value.code == 401


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "example.org", "::"])
def test_other_machines_are_served_only_with_a_token(host: str) -> None:
    with pytest.raises(UserError, match="--token-env"):
        serve_http(object(), host, 1, None, print)


def test_a_port_that_cannot_be_had_is_said() -> None:
    server = make_server([Echo()], run, "0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot serve on 127.0.0.1, port {port}: Address already in use"):
            serve_http(server, "127.0.0.1", port, None, print)
    with pytest.raises(UserError, match="port 70000"):
        serve_http(server, "127.0.0.1", 70000, None, print)
