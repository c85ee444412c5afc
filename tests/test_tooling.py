"""The commands around tools: index and serve."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from command import tessera
from scripted import Echo
from tessera import tooling
from tessera.environments.mcp_tool import McpSettings, mcp_tools
from tessera.environments.retrieval.index import open_index
from tessera.environments.tool import Call
from tessera.tooling import embedding_lines, serve_tools

pytest.importorskip("bm25s")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    rows = [
        {"id": f"p{n}", "title": f"T{n}", "text": f"number {n} is {'even' if n % 2 == 0 else 'odd'}"} for n in range(20)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_an_index_appears_whole_and_is_replaced_only_when_asked(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "made" / "index"
    done = tessera("index", str(corpus), "--out", str(out))
    assert done.code == 0 and f"20 passages in {out}" in done.out.replace("\n", " ")
    (hits,) = open_index(out).search(["odd"], 3)
    assert [hit.passage.id for hit in hits] == ["p1", "p3", "p5"]
    again = tessera("index", str(corpus), "--out", str(out))
    assert again.code == 2 and "--force" in again.err
    assert tessera("index", str(corpus), "--out", str(out), "--force").code == 0
    (tmp_path / "mine").mkdir()
    other = tessera("index", str(corpus), "--out", str(tmp_path / "mine"), "--force")
    assert other.code == 2 and "is no index" in other.err


def test_prompts_without_vectors_would_do_nothing(corpus: Path, tmp_path: Path) -> None:
    done = tessera("index", str(corpus), "--out", str(tmp_path / "index"), "--query-prompt", "query: ")
    assert done.code == 2 and "go with --dense" in done.err and not (tmp_path / "index").exists()


def test_a_line_now_and_then_tells_how_far_it_is() -> None:
    now, said = [0.0], list[str]()
    progress = embedding_lines(said.append, clock=lambda: now[0])
    for now[0], done in ((4.0, 64), (11.0, 128), (12.0, 192), (13.0, 200)):
        progress(done, 200)
    assert said == ["embedded 128 of 200 passages at 11 s", "embedded 200 of 200 passages at 13 s"]


def test_a_corpus_that_is_wrong_leaves_nothing(corpus: Path, tmp_path: Path) -> None:
    corpus.write_text(corpus.read_text() + '{"id": "p3", "text": "again"}\n')
    done = tessera("index", str(corpus), "--out", str(tmp_path / "index"))
    assert done.code == 2 and "'p3' occurs more than once" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.jsonl"]


def test_tools_are_served_on_standard_input_and_output(corpus: Path, tmp_path: Path) -> None:
    pytest.importorskip("mcp")
    assert tessera("index", str(corpus), "--out", str(tmp_path / "index")).code == 0
    command = (
        sys.executable,
        "-m",
        "tessera.cli",
        "tools",
        "serve",
        f"search.index={tmp_path / 'index'}",
        "search.k=1",
    )
    source = str(Path(__file__).parents[1] / "src")
    (search,) = mcp_tools("own", McpSettings(command=command, env={"PYTHONPATH": source}, start_seconds=60))
    assert search.name == "search" and search.call({"query": "odd numbers"}, 20) == "[1] T1: number 1 is odd"
    search.close()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "serach.index=x"], "search"),
        (["serve", "search.index=nowhere"], "no such file: 'nowhere'"),
        (["serve", "sql.database=nowhere"], "no such file"),
        (["serve", "sql.database={db}", "--http", "--host", "0.0.0.0"], "--token-env"),
        (
            ["serve", "sql.database={db}", "--http", "--token-env", "NO_SUCH_VARIABLE"],
            "NO_SUCH_VARIABLE holds no token",
        ),
    ],
)
def test_what_cannot_be_served_is_one_line(arguments: list[str], said: str, tmp_path: Path) -> None:
    import sqlite3

    sqlite3.connect(tmp_path / "x.db").execute("CREATE TABLE t (a)")
    done = tessera("tools", *[word.format(db=tmp_path / "x.db") for word in arguments])
    assert done.code == 2 and said in done.err and len(done.err.strip().splitlines()) == 1


def test_no_more_calls_are_served_at_once_than_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight callers, and never more than two calls at work."""
    working, most = [0], [0]

    def does(text: str) -> str:
        working[0] += 1
        most[0] = max(most[0], working[0])
        time.sleep(0.05)
        working[0] -= 1
        return text

    def serve(run: Callable[[Call], tuple[str, bool]]) -> None:
        with ThreadPoolExecutor(8) as callers:
            assert list(callers.map(run, [Call("echo", {"text": "a"})] * 8)) == [("a", False)] * 8
            assert run(Call("none", {}))[1]

    monkeypatch.setattr(tooling, "tools_of", lambda settings, locate: [Echo(does=does)])
    monkeypatch.setattr(tooling, "make_server", lambda tools, run, version: run)
    monkeypatch.setattr(tooling, "serve_stdio", serve)
    serve_tools(["python", "at_once=2"], None, "0", print)
    assert most[0] == 2
