"""Training on episodes: tool tokens are context, whatever the method, and what tools did is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runs import completions_of, rl, rows_of, run
from scripted import Scripted
from tessera.algorithms import registered
from tessera.core.errors import UserError
from tiny import tiny_policy

TOOL = """
class Shout:
    name = "shout"
    main = "text"
    description = "Shouts."
    parameters = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}

    def __init__(self, mark="!"):
        self.mark = mark

    def call(self, arguments, limit):
        if arguments["text"] == "bad":
            raise RuntimeError("no")
        return "" if arguments["text"] == "empty" else arguments["text"].upper() + self.mark

    def close(self):
        pass
"""
SAID = ("aa<shout>b{n}</shout>", "<shout>bad</shout>", "<shout>empty</shout>", "just {n}", "<shout>b</shout>cc")


def script(request: Any, text: str) -> str:
    if "</information>" in text.rpartition("=")[2]:
        return "done" if request.seed % 2 else "done it is"
    return SAID[request.seed % len(SAID)].format(n=request.seed % 3)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "tool.py").write_text(TOOL)
    own = {f"{tmp_path / 'tool.py'}:Shout": {"mark": "?"}}
    return {"tools": {"own": own}, "turns": 2, "result_tokens": 12, "introduce": False}


@pytest.mark.parametrize("name", registered())
def test_every_method_trains_on_the_policys_tokens_alone(
    name: str, environment: dict[str, Any], tmp_path: Path
) -> None:
    policy = tiny_policy()
    replay = {"replay": {"failures": 1}} if name == "t_spmo" else {}
    stage = rl(name, steps=2, max_new_tokens=40, sentinels={"mismatch": 1e9, "truncation_rate": 1.0}, **replay)
    run(tmp_path / "run", stage, policy=policy, engine=Scripted(policy, script), environment=environment)
    rows, said = rows_of(tmp_path / "run", "rl"), completions_of(tmp_path / "run")
    assert len(rows) == 2
    turns = [(c, turn) for c in said for turn in c.get("turns", [])]
    assert turns
    for completion, turn in turns:
        assert 0 < turn["start"] < turn["end"] and "information" not in completion["text"]
    first = [c for c in said if c["step"] == 1]
    calls = [call for c in first for turn in c.get("turns", []) for call in turn["calls"]]
    row = rows[0]
    if name != "t_spmo":
        assert row["tools/calls"] == pytest.approx(len(calls) / len(first))
        assert row["tools/failed"] == pytest.approx(sum(call["failure"] == "crash" for call in calls) / len(calls))
        assert row["tools/empty"] == pytest.approx(sum(call["empty"] for call in calls) / len(calls))
        assert row["tokens/generated"] == sum(c["tokens"] for c in first)
        assert 0 < row["tokens/contributing"] <= row["tokens/generated"]


def test_most_calls_without_a_result_warn_once(
    environment: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = tiny_policy()
    stage = rl(steps=3, max_new_tokens=40, sentinels={"mismatch": 1e9, "truncation_rate": 1.0})
    bad = Scripted(policy, lambda request, text: "x" * (request.seed % 4) if "</" in text else "<shout>bad</shout>")
    run(tmp_path / "run", stage, policy=policy, engine=bad, environment=environment)
    said = [record.getMessage() for record in caplog.records if "calls of tools" in record.getMessage()]
    assert (
        len(said) == 1
        and "6 of 6 calls of tools gave nothing: 0 were empty, 6 failed (the first: shout, crash)" in said[0]
    )


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        ({}, "name search, python, sql, mcp or own"),
        ({"search": {"index": "nowhere"}}, "no such file: 'nowhere'"),
        ({"sql": {}}, "environment.tools.sql.database"),
        ({"serach": {}}, "'search'"),
        ({"own": {"tool.py": {}}}, "tool.py"),
    ],
)
def test_tools_that_cannot_be_had_are_said_before_anything_is_written(
    tools: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        run(tmp_path / "run", environment={"tools": tools})
    assert not (tmp_path / "run").exists()


def test_an_episode_that_could_exceed_the_context_is_refused(environment: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not fit"):
        run(tmp_path / "run", environment={**environment, "result_tokens": 400})
