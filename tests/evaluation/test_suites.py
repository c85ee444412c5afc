"""Suites: which files, and what is said of those that are not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tessera.core.errors import UserError
from tessera.evaluation.suites import SUITES, parts_of
from tessera.tasks.registry import TASKS, load_split

DATA = Path(__file__).parents[3] / "shared" / "data"


def test_a_file_is_found_plain_or_gzipped(tmp_path: Path) -> None:
    (tmp_path / "svamp").mkdir()
    for name in ("test.jsonl.gz", "test.jsonl"):
        (tmp_path / "svamp" / name).touch()
        parts, skipped = parts_of("arithmetic", tmp_path)
        assert [part.name for part in parts] == ["svamp", "multiplication"]
        assert (parts[0].task["test"], skipped) == (str(tmp_path / "svamp" / name), [])


def test_a_file_that_is_missing_is_said_and_the_rest_is_asked(tmp_path: Path) -> None:
    parts, skipped = parts_of("arithmetic", tmp_path)
    assert [part.name for part in parts] == ["multiplication"]
    assert skipped == [f"svamp: no file {tmp_path}/svamp/test.jsonl, nor svamp/test.jsonl.gz there"]


def test_what_leads_nowhere_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown suite 'aritmetic' \(did you mean 'arithmetic'\?\)"):
        parts_of("aritmetic", tmp_path)
    with pytest.raises(UserError, match=r"no folder .*none: the files of suite arithmetic are looked for there"):
        parts_of("arithmetic", tmp_path / "none")


def test_competition_mathematics_is_asked_as_in_the_papers() -> None:
    sets = ["aime24", "amc", "math500", "minerva", "olympiadbench"]
    asked = {name: SUITES[name].parts for name in ("math_001", "math_002", "math_003")}
    assert [[part.name for part in parts] for parts in asked.values()] == [sets] * 3
    assert [part.samples for part in asked["math_002"]] == [16, 16, 1, 1, 1]
    assert [part.temperature for part in asked["math_002"]] == [0.6, 0.6, 0, 0, 0]
    assert {(part.samples, part.temperature) for name in ("math_001", "math_003") for part in asked[name]} == {(1, 0)}


def test_a_reference_to_another_part_of_the_question_does_not_count(tmp_path: Path) -> None:
    pytest.importorskip("math_verify")
    (tmp_path / "minerva").mkdir()
    row = {"id": "m", "problem": "It is 5. What is twice that?", "answer": "10", "answer_alt": ["5"]}
    (tmp_path / "minerva" / "test.jsonl").write_text(json.dumps(row) + "\n")
    (part,), skipped = parts_of("math_003", tmp_path)
    assert skipped[1] == f"amc: no file {tmp_path}/amc/test.jsonl, nor amc/test.jsonl.gz there"
    task, (problem,) = load_split(part.task, part.split)
    assert [task.reward(problem, f"\\boxed{{{n}}}") for n in (10, 5)] == [1.0, 0.0]


@pytest.mark.parametrize("name", SUITES)
def test_the_parts_of_a_suite_have_names_of_their_own_and_tasks_that_exist(name: str) -> None:
    parts = SUITES[name].parts
    assert len({part.name for part in parts}) == len(parts)
    assert {part.task["name"] for part in parts} <= set(TASKS)


@pytest.mark.skipif(not DATA.is_dir(), reason="no ../shared/data beside the repository")
@pytest.mark.parametrize("name", SUITES)
def test_every_part_reads_its_questions(name: str) -> None:
    for part in parts_of(name, DATA).parts:
        task, problems = load_split(part.task, part.split)
        assert problems
        assert part.by is None or all(part.by in problem.metadata for problem in problems)
        assert part.samples == 1 or callable(getattr(task, "answer_of", None))  # for maj@k
