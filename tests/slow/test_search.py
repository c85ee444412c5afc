"""Search agents with the real model and a real index of 19,000 passages."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from command import tessera
from runs import completions_of, rows_of
from tessera.environments.retrieval.index import open_index
from tessera.evaluation.suites import QUESTIONS
from tessera.policy.embedded import is_installed
from tessera.tasks.data import read_jsonl

DATA = Path(__file__).parents[2].parent / "shared" / "data"
EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (DATA / "wiki_corpus").is_dir(), reason=f"no corpus in {DATA}"),
]
needs_model = pytest.mark.skipif(not is_installed("smollm2-135m-instruct"), reason="no embedded model")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "index"
    began = time.monotonic()
    done = tessera("index", str(DATA / "wiki_corpus" / "corpus.jsonl.gz"), "--out", str(out))
    assert done.code == 0 and "19071 passages" in done.out
    assert time.monotonic() - began < 60
    return out


def test_bm25_finds_the_gold_passages_quickly(index: Path) -> None:
    retriever, found, began = open_index(index), 0, time.monotonic()
    rows = read_jsonl(str(DATA / "nq" / "test.jsonl"))
    for row in rows:
        (hits,) = retriever.search([row.values["question"]], 5)
        found += bool({hit.passage.id for hit in hits} & set(row.values["gold"]))
    assert len(rows) / (time.monotonic() - began) > 200
    assert found / len(rows) > 0.8


@needs_model
def test_the_nano_recipe_trains_and_is_evaluated_with_three_tools(index: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection:
        connection.execute("CREATE TABLE city (name TEXT)")
    traces, run, out = (tmp_path / name for name in ("traces.jsonl", "run", "evaluation"))
    questions = str(DATA / "nq" / "test.jsonl")
    script = [sys.executable, str(EXAMPLES / "search_traces.py"), questions, str(index), str(traces), "--first", "60"]
    subprocess.run(script, check=True)
    tools = f"{{search: {{index: {index}, k: 1, snippet: 400}}, sql: {{database: {tmp_path / 'x.db'}}}"
    tools += ", python: {}}" if shutil.which("bwrap") else "}"
    done = tessera(
        "train", "nano/tr_grpo_search_smollm2", f"task.train={questions}", f"environment.tools={tools}",
        f"run.dir={run}", f"stages.sft.data={traces}", "stages.sft.steps=12", "stages.rl.steps=2",
        "stages.rl.prompts_per_step=2", "stages.warm.size=2", "stages.trained.size=2",
    )  # fmt: skip
    assert done.code == 0, done.err
    rows, said = rows_of(run, "rl"), completions_of(run)
    assert len(rows) == 2 and rows[0]["mismatch/mean"] < 1e-3  # the trainer scores the ids that were sampled from
    assert rows[0]["tools/users"] > 0.5 and any("<search>" in completion["text"] for completion in said)
    asked = ["--suite", "qa", "--data", str(DATA), "--first", "3", "--max-new-tokens", "48", "--out", str(out)]
    done = tessera("eval", str(run), *asked)
    assert done.code == 0, done.err
    parts = json.loads((out / "result.json").read_text())["parts"]
    assert [(part["name"], part["n"]) for part in parts] == [(name, 3) for name in QUESTIONS]
    assert sum(part["tools"]["calls"] for part in parts) > 10
    assert all(any(line.split()[:1] == [name] for line in done.out.splitlines()) for name in QUESTIONS)
