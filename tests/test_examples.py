"""The examples run, on a tiny model, and are as short as they say."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from command import tessera
from tiny import save_tiny

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


def test_grpo_from_scratch(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    source = (EXAMPLES / "grpo_from_scratch.py").read_text()
    assert len(source.splitlines()) < 250
    script = runpy.run_path(str(EXAMPLES / "grpo_from_scratch.py"))
    checked: list[float] = []
    globals_ = script["rl_step"].__globals__
    compare = globals_["check_against_the_library"]
    # a random model is never right, so that there is something to compare every other answer counts
    monkeypatch.setitem(globals_, "reward", lambda policy, completion, answer: float(len(completion) % 2))
    monkeypatch.setitem(globals_, "check_against_the_library", lambda *a: (compare(*a), checked.append(1.0)))
    curve = script["main"](["--model", str(model), "--warmup", "1", "--steps", "2", "--prompts", "4", "--test", "2"])
    assert len(curve) == 2
    assert checked
    assert "after 2 steps:" in capsys.readouterr().out


def test_a_weight_of_ones_own_is_used_from_a_recipe(model: Path, tmp_path: Path) -> None:
    body = (EXAMPLES / "compose_your_own.py").read_text().partition("def fading")[2]
    assert len(body.splitlines()) < 15
    small = ["stages.sft.steps=1", "stages.rl.steps=2", "evaluation.test_size=2", f"run.dir={tmp_path / 'run'}"]
    done = tessera("train", EXAMPLES / "compose_your_own.yaml", f"model.name={model}", *small)
    assert done.code == 0, done.err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert "compose_your_own.py:fading(half_life=2)" in json.dumps(summary["composition"])


def test_the_weight_halves_every_so_many_tokens() -> None:
    done = tessera("explain", "grpo", f"weight={{name: '{EXAMPLES / 'compose_your_own.py'}:fading', half_life: 1}}")
    assert done.code == 0, done.err
    row = next(line for line in done.out.splitlines() if line.split()[:2] == ["weight", "1.00"])
    assert row.split()[1:5] == ["1.00", "0.50", "0.25", "0.12"]


def test_traces_of_a_search_hold_what_it_shows_and_direct_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bm25s")
    corpus, questions, out = (tmp_path / name for name in ("corpus.jsonl", "questions.jsonl", "traces.jsonl"))
    corpus.write_text('{"id": "e", "title": "Emma", "text": "A novel of Jane Austen."}\n')
    asked = [{"id": n, "question": "who wrote Emma", "answers": [a]} for n, a in enumerate(("Jane Austen", "Brontë"))]
    questions.write_text("".join(json.dumps(row) + "\n" for row in asked))
    assert tessera("index", str(corpus), "--out", str(tmp_path / "index")).code == 0

    def traced(direct: str) -> list[tuple[str, str]]:
        words = ["search_traces.py", str(questions), str(tmp_path / "index"), str(out), "--direct", direct]
        monkeypatch.setattr("sys.argv", words)
        runpy.run_path(str(EXAMPLES / "search_traces.py"), run_name="__main__")
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        return [(row["prompt"][-1]["role"], row["completion"]) for row in rows]

    # the second answer stands in no passage: there is nothing to read it from
    assert traced("0") == [("user", "<search>who wrote Emma</search>"), ("assistant", "<answer>Jane Austen</answer>")]
    assert traced("1") == [("user", "<answer>Jane Austen</answer>"), ("user", "<answer>Brontë</answer>")]
