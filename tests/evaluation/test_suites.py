"""Suites: which files, and what is said of those that are not there."""

from __future__ import annotations

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
