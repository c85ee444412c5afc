"""Calls of tools beside the sampling: each in a thread of its own, a slow one in nobody's way."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial

from tessera.core.errors import UserError
from tessera.environments.syntax import Result
from tessera.environments.tool import Call, Tool
from tessera.rollout.boundary import run_tool

GRACE = 1.0  # seconds after its limit that a tool has to say so itself


class Toolbox:
    """Runs calls of `tools`, at most `at_once` at a time, and gives each `seconds`.

    A tool that does not keep its limit is left behind in its thread and counted as a timeout: its place is free again.
    """

    def __init__(self, tools: Sequence[Tool], seconds: float, at_once: int = 32) -> None:
        self.tools: Mapping[str, Tool] = {tool.name: tool for tool in tools}
        if len(self.tools) < len(tools):
            names = Counter(tool.name for tool in tools)
            raise UserError(f"two tools are called {names.most_common(1)[0][0]!r}; give one another name")
        self.seconds = seconds
        self._pool = ThreadPoolExecutor(at_once, thread_name_prefix="tools")
        self._lock = threading.Lock()
        self._closed: Future[None] = Future()

    def submit(self, calls: Sequence[Call], done: Callable[[list[Result]], None]) -> None:
        """Run the calls of a turn side by side; `done` gets their results, in their order, from another thread."""
        results: list[Result | None] = [None] * len(calls)
        left = [len(calls)]

        def finish(place: int, future: Future[Result]) -> None:
            result = Result("error: the tools are closed", "unavailable") if future.cancelled() else future.result()
            with self._lock:
                results[place] = result
                left[0] -= 1
                last = left[0] == 0
            if last:
                done([result for result in results if result is not None])

        for place, call in enumerate(calls):
            self._pool.submit(self.run, call).add_done_callback(partial(finish, place))

    def close(self) -> None:
        """Let go of the tools, and of calls that run still: a program that ends does not wait for them."""
        if not self._closed.done():
            self._closed.set_result(None)
        self._pool.shutdown(wait=False, cancel_futures=True)
        for tool in self.tools.values():
            tool.close()

    def run(self, call: Call) -> Result:
        """The result of one call, whatever the tool does."""
        if call.tool not in self.tools:
            return Result(f"error: there is no tool {call.tool!r}; there are {', '.join(self.tools)}", "unknown")
        found: list[Result] = []
        ended: Future[None] = Future()
        tool = self.tools[call.tool]

        def work() -> None:
            try:
                with suppress(SystemExit):  # of a thread, which ends here anyway
                    found.append(run_tool(tool, call, self.seconds))
            finally:
                ended.set_result(None)

        try:
            threading.Thread(target=work, daemon=True).start()
        except RuntimeError as error:  # tools that never returned have taken all threads that there may be
            return Result(f"error: {error}", "unavailable")
        wait({ended, self._closed}, self.seconds + GRACE, FIRST_COMPLETED)
        return found[0] if found else Result(f"error: no result within {self.seconds:g} s", "timeout")
