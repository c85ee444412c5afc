"""The report served while a run trains: to this machine alone, and anew when there is something new."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tessera.core.errors import UserError
from tessera.reports.run import RunFolder
from tessera.reports.serve import LivePage, server


@pytest.fixture
def run(tmp_path: Path, made: SimpleNamespace) -> Iterator[RunFolder]:
    """A run that is being written, with one group."""
    with RunFolder.create(tmp_path / "run", made.recipe, "f") as folder:
        folder.log(made.rl(1))
        folder.log_groups([made.group(1, made.rollout(["a"]), made.rollout(["b"], 0.0))])
        yield folder


@pytest.fixture
def serving() -> Iterator[Callable[[LivePage], int]]:
    """Serves pages in a thread until the test ends; gives the port."""
    started = []

    def start(page: LivePage) -> int:
        waiting = server(page, 0)
        threading.Thread(target=waiting.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        started.append(waiting)
        return waiting.server_port

    yield start
    for waiting in started:
        waiting.shutdown()
        waiting.server_close()


def ask(port: int, path: str = "/", host: str | None = None) -> tuple[HTTPResponse, str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer, text


def test_the_page_is_that_of_the_folder_as_it_is(run: RunFolder, serving: Any, made: SimpleNamespace) -> None:
    port = serving(LivePage(run, rarely=0.0))
    answer, page = ask(port)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "connect-src &#39;self&#39;" in page or "connect-src 'self'" in page
    _, version = ask(port, "/version")
    assert f'data-version="{version}"' in page
    assert ask(port, "/version")[1] == version
    run.log(made.rl(2))
    _, later = ask(port, "/version")
    assert later != version
    assert f'data-version="{later}"' in ask(port)[1]


def test_a_run_that_writes_quickly_is_not_kept_from_it(run: RunFolder, made: SimpleNamespace) -> None:
    calls = []

    class Counted(RunFolder):
        def report(self, *arguments: Any, **more: Any) -> str:
            calls.append(arguments)
            return super().report(*arguments, **more)

    page = LivePage(Counted(run.path), rarely=3600.0)
    first = page.html()
    run.log(made.rl(2))
    assert f'data-version="{page.version()}"' in first  # no newer page for an hour
    assert page.html() != first  # but for who asks for it
    assert page.html() == page.html()
    assert len(calls) == 2


def test_only_this_machine_is_answered_and_only_what_is_there(run: RunFolder, serving: Any) -> None:
    port = serving(LivePage(run))
    assert ask(port, host=f"localhost:{port}")[0].status == 200
    answer, text = ask(port, host=f"evil.example:{port}")
    assert (answer.status, text) == (403, "this page is for 127.0.0.1 alone")
    assert ask(port, "/recipe.yaml")[0].status == 404
    assert ask(port, "/../../etc/passwd")[0].status == 404
    with socket.socket() as other, pytest.raises(OSError):
        other.bind(("127.0.0.1", port))


def test_a_damaged_file_is_said_and_the_server_lives(run: RunFolder, serving: Any) -> None:
    port = serving(LivePage(run, rarely=0.0))
    good = (run.path / "metrics.jsonl").read_bytes()
    (run.path / "metrics.jsonl").write_bytes(b"no\n" + good)
    answer, text = ask(port)
    assert answer.status == 500 and "line 1 is not a JSON object" in text
    (run.path / "metrics.jsonl").write_bytes(good)
    assert ask(port)[0].status == 200


def test_a_port_in_use_is_one_line(run: RunFolder) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} of 127.0.0.1 is in use: give another --port"):
            server(LivePage(run), port)
    with pytest.raises(UserError, match=r"port 70000 of 127.0.0.1: it must lie in 0..65535"):
        server(LivePage(run), 70000)


def test_new_rows_appear_in_the_browser(run: RunFolder, serving: Any, watched: Any, made: SimpleNamespace) -> None:
    page = watched().open(f"http://127.0.0.1:{serving(LivePage(run, rarely=0.0))}/")
    assert page.locator("#credit-count").inner_text() == "1 recorded group, all shown."
    page.keyboard.press("2")
    run.log(made.rl(2))
    run.log_groups([made.group(2, made.rollout(["new"]), made.rollout(["b"], 0.0))])
    page.locator("#credit-count", has_text="2 recorded groups").wait_for(timeout=15_000)
    assert page.locator("#credit-problem").inner_text() == "Prompt of problem p2"  # who looks at the newest follows
    assert page.locator('#credit-colours [aria-pressed="true"]').inner_text() == "gradient"
    assert page.locator("header .status").inner_text() == "unfinished, 2 steps so far"
    page.keyboard.press("[")
    run.log_groups([made.group(3, made.rollout(["third"]), made.rollout(["b"], 0.0))])
    page.locator("#credit-count", has_text="3 recorded groups").wait_for(timeout=15_000)
    assert page.locator("#credit-problem").inner_text() == "Prompt of problem p1"  # who looks back stays


def test_a_run_without_a_group_is_served_and_gets_one(run: RunFolder, serving: Any, watched: Any, made: Any) -> None:
    (run.path / "groups.jsonl").unlink()
    page = watched().open(f"http://127.0.0.1:{serving(LivePage(run, rarely=0.0))}/")
    assert page.locator("#credit-count").inner_text() == "No group is recorded yet."
    assert page.locator("#credit-bar").is_hidden()
    run.log_groups([made.group(1, made.rollout(["new"]), made.rollout(["b"], 0.0))])
    page.locator(".tokens > span", has_text="new").wait_for(timeout=15_000)


def test_a_server_that_ended_is_noticed(run: RunFolder, watched: Any) -> None:
    waiting = server(LivePage(run, rarely=0.0), 0)
    thread = threading.Thread(target=waiting.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    one = watched()
    page = one.open(f"http://127.0.0.1:{waiting.server_port}/")
    waiting.shutdown()
    waiting.server_close()
    for _ in range(100):
        if page.title().startswith("(not connected)"):
            break
        page.wait_for_timeout(100)
    assert page.title().startswith("(not connected)")
    one.said[:] = [line for line in one.said if "ERR_CONNECTION_REFUSED" not in line]  # the browser's own words
