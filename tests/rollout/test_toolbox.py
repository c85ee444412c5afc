"""Calls side by side, in order, each within its time."""

from __future__ import annotations

import queue
import sys
import threading
import time

import pytest

from scripted import Echo
from tessera.core.errors import UserError
from tessera.environments.syntax import Result
from tessera.environments.tool import Call
from tessera.rollout import toolbox as module
from tessera.rollout.toolbox import Toolbox


def ask(toolbox: Toolbox, *calls: Call) -> list[Result]:
    answers: queue.SimpleQueue[list[Result]] = queue.SimpleQueue()
    toolbox.submit(calls, answers.put)
    return answers.get(timeout=20)


def test_results_come_in_the_order_of_the_calls() -> None:
    slow = {"a": 0.3, "b": 0.0, "c": 0.1}
    toolbox = Toolbox([Echo("echo", lambda text: time.sleep(slow[text]) or text.upper())], 5)  # type: ignore[func-returns-value]
    assert [r.text for r in ask(toolbox, *(Call("echo", {"text": text}) for text in "abc"))] == ["A", "B", "C"]
    toolbox.close()


def test_calls_run_side_by_side() -> None:
    meeting = threading.Barrier(8)
    toolbox = Toolbox([Echo("echo", lambda text: str(meeting.wait(10)))], 15, at_once=8)
    found = ask(toolbox, *[Call("echo", {"text": "a"})] * 8)
    assert sorted(r.text for r in found) == list("01234567")


def test_every_failure_is_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE", 0.1)

    def broken(text: str) -> str:
        raise RuntimeError("it\nbroke")

    tools = [Echo(), Echo("broken", broken), Echo("hangs", lambda text: time.sleep(3) or "late")]  # type: ignore[func-returns-value]
    tools.append(Echo("odd", lambda text: 7))  # type: ignore[arg-type,return-value]
    toolbox = Toolbox(tools, 0.3)
    names = ("echo", "broken", "hangs", "odd", "none")
    found = ask(toolbox, *(Call(name, {"text": "a"}) for name in names), Call("echo", {}))
    assert found == [
        Result("A"),
        Result("error: RuntimeError: it broke", "crash"),
        Result("error: no result within 0.3 s", "timeout"),
        Result("error: not a text: 7", "crash"),
        Result("error: there is no tool 'none'; there are echo, broken, hangs, odd", "unknown"),
        Result("error: text must be a text", "arguments"),
    ]


def test_two_tools_of_one_name_are_refused_and_tools_are_closed() -> None:
    with pytest.raises(UserError, match="two tools are called 'echo'"):
        Toolbox([Echo(), Echo("other"), Echo()], 1)
    tools = [Echo(), Echo("other")]
    Toolbox(tools, 1).close()
    assert all(tool.closed for tool in tools)


def test_where_no_thread_can_be_had_the_call_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after many tools that never returned: a call that got lost would be waited for without end."""

    class NoMore(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    toolbox = Toolbox([Echo()], 5)
    monkeypatch.setattr(module.threading, "Thread", NoMore)
    assert toolbox.run(Call("echo", {"text": "a"})) == Result("error: can't start new thread", "unavailable")
    toolbox.close()


def test_a_call_that_runs_still_keeps_no_program_from_ending() -> None:
    """Threads of a pool are waited for when the interpreter ends; those that wait for a tool end with the toolbox."""
    begun, answers = threading.Event(), queue.SimpleQueue[list[Result]]()
    slow = lambda text: begun.set() or time.sleep(20) or "late"  # type: ignore[func-returns-value] # noqa: E731
    toolbox = Toolbox([Echo(does=slow)], 60, at_once=1)
    toolbox.submit([Call("echo", {"text": "a"}), Call("echo", {"text": "waits"})], answers.put)
    assert begun.wait(10)
    began = time.monotonic()
    toolbox.close()
    assert [result.failure for result in answers.get(timeout=10)] == ["timeout", "unavailable"]
    assert time.monotonic() - began < 5


def test_a_tool_that_ends_its_thread_is_a_failed_call_at_once() -> None:
    toolbox = Toolbox([Echo(does=lambda text: sys.exit(text))], 60)
    began = time.monotonic()
    assert toolbox.run(Call("echo", {"text": "a"})).failure == "timeout"
    assert time.monotonic() - began < 5
    toolbox.close()
    toolbox.close()  # nothing is left to do
