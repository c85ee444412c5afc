"""Tools of a real server in a process of its own, and a server that dies, hangs and talks nonsense."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from scripted import Scripted
from tessera.core.errors import UserError
from tessera.environments import mcp_tool
from tessera.environments.mcp_tool import McpSettings, McpTool, mcp_tools
from tessera.environments.settings import EnvironmentSettings, ToolSettings
from tessera.environments.tool import Tool, ToolFailed
from tessera.rollout.engine import Sampling
from tessera.rollout.episodes import Opening, Tooled
from tessera.tasks.options import read_options
from tiny import tiny_policy

pytest.importorskip("mcp")
SERVER = (sys.executable, str(Path(__file__).parents[1] / "mcp_example.py"))


@pytest.fixture(scope="module")
def tools() -> Iterator[dict[str, McpTool]]:
    found = {tool.name: tool for tool in mcp_tools("example", McpSettings(command=SERVER))}
    yield found
    found["add"].close()


def test_tools_are_listed_with_their_schemas(tools: dict[str, McpTool]) -> None:
    assert sorted(tools) == ["add", "die", "fail", "hang"]
    add = tools["add"]
    assert isinstance(add, Tool) and add.description == "Adds two numbers." and add.main == "a"
    assert set(add.parameters["properties"]) == {"a", "b"} and tools["hang"].main == ""


def test_a_call_and_its_failures(tools: dict[str, McpTool]) -> None:
    assert tools["add"].call({"a": 2, "b": 3}, 20) == "5"
    for tool, arguments in (("fail", {}), ("add", {"a": "x"})):
        with pytest.raises(ToolFailed) as failed:
            tools[tool].call(arguments, 20)
        assert failed.value.reason == "crash"
        assert f"Error executing tool {tool}" in str(failed.value)


def test_a_call_that_hangs_ends_at_its_limit_and_others_go_on(tools: dict[str, McpTool]) -> None:
    began = time.monotonic()
    with pytest.raises(ToolFailed) as failed:
        tools["hang"].call({}, 0.5)
    assert failed.value.reason == "timeout" and time.monotonic() - began < 5


def test_a_server_that_dies_is_started_again_for_the_next_call(tools: dict[str, McpTool]) -> None:
    with pytest.raises(ToolFailed) as failed:
        tools["die"].call({}, 20)
    assert failed.value.reason == "unavailable"
    assert tools["add"].call({"a": 1, "b": 1}, 20) == "2"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ((*SERVER, "garbage"), "does not start"),
        ((*SERVER, "silent"), "does not answer"),
        (("no-such-command",), "does not start: FileNotFoundError"),
    ],
)
def test_a_server_that_does_not_speak_is_said_at_once(command: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError, match=f"environment.tools.mcp.mine: the server mine {said}"):
        mcp_tools("mine", McpSettings(command=command, start_seconds=5))


def test_a_tool_that_it_does_not_have_is_said() -> None:
    with pytest.raises(UserError, match=r"'ad'.*'add'"):
        mcp_tools("mine", McpSettings(command=SERVER, tools=("ad",)))
    (only,) = mcp_tools("mine", McpSettings(command=SERVER, tools=("add",)))
    only.close()
    assert only.name == "add"


def test_one_place_of_a_server() -> None:
    for wrong, said in (({}, "either command"), ({"command": ["x"], "url": "y"}, "either command"),
                        ({"command": ["x"], "token_env": "T"}, "token_env goes with url")):  # fmt: skip
        with pytest.raises(UserError, match=said):
            read_options(McpSettings, wrong, "mcp")


def test_a_server_that_somebody_else_wrote_is_a_tool_in_an_episode() -> None:
    """mcp-server-time of PyPI."""
    pytest.importorskip("mcp_server_time")
    server = McpSettings(command=(sys.executable, "-m", "mcp_server_time"), tools=("get_current_time",))
    policy = tiny_policy()
    settings = EnvironmentSettings(tools=ToolSettings(mcp={"clock": server}), result_tokens=200)
    script = lambda request, text: (  # noqa: E731
        "it is late" if '"timezone"' in text else "<get_current_time>Europe/Berlin</get_current_time>"
    )
    tooled = Tooled(policy, settings, mcp_tools("clock", server))
    try:
        (episode,) = tooled.run(
            Scripted(policy, script), [Opening((1, 40), (), (), 0)], Sampling(max_new_tokens=99), 99
        )
    finally:
        tooled.toolbox.close()
    (turn,) = episode.turns
    assert turn.calls[0].tool == "get_current_time" and turn.calls[0].failure is None
    assert '"timezone": "Europe/Berlin"' in tooled.words.decode(episode.ids[turn.start : turn.end])
    assert episode.text.endswith("</get_current_time>it is late")


def test_a_token_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_TOKEN", raising=False)
    with pytest.raises(UserError, match=r"mcp\.mine: the environment variable NO_TOKEN holds no token"):
        mcp_tools("mine", McpSettings(url="http://127.0.0.1:9/mcp", token_env="NO_TOKEN"))


def test_a_server_that_lists_without_end_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def page(cursor: str | None, client: object) -> object:
        async def found() -> SimpleNamespace:
            return SimpleNamespace(tools=[], next_cursor="more")

        return found()

    monkeypatch.setattr(mcp_tool, "_page", page)
    with pytest.raises(UserError, match="the server mine lists the same page"):
        mcp_tools("mine", McpSettings(command=SERVER))


def test_what_a_broken_connection_ends_is_that_one_alone(tools: dict[str, McpTool]) -> None:
    """Of several calls that a dead server leaves, the slowest to notice must not end the connection made since."""
    connection = tools["add"].connection
    assert tools["add"].call({"a": 1, "b": 1}, 20) == "2"
    old = connection._living
    with pytest.raises(ToolFailed):
        tools["die"].call({}, 20)
    assert tools["add"].call({"a": 1, "b": 2}, 20) == "3"
    new = connection._living
    assert new is not old
    connection._part(old)
    assert connection._living is new and not new.done()  # type: ignore[union-attr]
