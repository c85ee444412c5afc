"""What `tessera eval` does: ask every question as often as is wanted, keep every completion, and count.

The folder decides what is left to do: started again, an evaluation goes on behind the last completion that it kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from tessera.core.errors import UserError, unknown
from tessera.core.types import Problem
from tessera.environments.settings import contents
from tessera.evaluation import scores
from tessera.evaluation.attempts import Part, attempts, check_group, fingerprint, plain
from tessera.evaluation.suites import parts_of
from tessera.policy.load import load_policy
from tessera.reports.environment import environment
from tessera.reports.evaluations import EvaluationFolder
from tessera.reports.evaluations_page import markdown
from tessera.rollout.collect import Collector
from tessera.rollout.episodes import open_tools
from tessera.rollout.hf import HFEngine
from tessera.subject import Subject, read_subject
from tessera.tasks.base import SPLITS
from tessera.tasks.data import locate
from tessera.tasks.options import read_options
from tessera.tasks.registry import Questions, load_split

Progress = Callable[[str, int, int, float], None]
"""Told of a part's name, its questions asked, all of its questions, and what share of its completions was right."""

ROOT = Path("runs") / "evaluations"


@dataclass(frozen=True)
class Wanted:
    """What the command line says. `samples` and the three after it, where given, hold for every part."""

    source: str
    overrides: Sequence[str] = ()
    suite: str | None = None
    data: Path = Path("data")
    split: str | None = None
    samples: int | None = None
    temperature: float | None = None
    max_new_tokens: int | None = None
    first: int | None = None
    out: Path | None = None
    at_once: int = 32
    force: bool = False


class Evaluated(NamedTuple):
    """Where an evaluation lies, and its numbers."""

    folder: Path
    result: dict[str, Any]
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class _Asked:
    """A part with its task and its questions."""

    part: Part
    questions: Questions


def run_evaluation(wanted: Wanted, progress: Progress) -> Evaluated:
    """Evaluate, or go on with an evaluation, or find it finished. Everything is checked before anything is written."""
    subject = read_subject(wanted.source, wanted.overrides)
    parts, skipped = _parts(wanted, subject)
    asked = [_ask(part, subject) for part in parts]
    settings = _settings(wanted, subject, asked)
    path = wanted.out or _default_folder(wanted, subject, parts)
    there = EvaluationFolder.check(path, settings, wanted.force)
    with ExitStack() as opened:
        collectors: list[Collector] = []
        if wanted.force or not _complete(there, asked):
            collectors = _collectors(subject, asked, wanted.at_once, opened)
        folder = opened.enter_context(EvaluationFolder.start(path, settings, wanted.force))
        for one, collector in zip(asked, collectors, strict=False):
            _evaluate(folder, one, collector, subject.seed, wanted.at_once, progress)
        rows = folder.rows()
        result = _result(wanted, subject, parts, skipped, rows)
        folder.finish(result, markdown(result))
    return Evaluated(path, result, rows)


def _parts(wanted: Wanted, subject: Subject) -> tuple[list[Part], list[str]]:
    """The parts, the command line's settings laid over them."""
    if wanted.suite is None:
        return [_laid_over(_own_part(subject, wanted.split or "test"), wanted)], []
    theirs = [o for o in wanted.overrides if o.startswith(("task", "evaluation"))]
    if theirs or wanted.split is not None:
        named = theirs[0] if theirs else "--split"
        raise UserError(f"{named} is about a task of your own, and --suite {wanted.suite} brings its tasks: give one")
    found = parts_of(wanted.suite, wanted.data)
    return [_laid_over(part.model_dump(), wanted) for part in found.parts], found.skipped


def _own_part(subject: Subject, split: str) -> dict[str, Any]:
    if subject.task is None:
        raise UserError("name what to ask: --suite NAME, or task.name=NAME and the task's options")
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    sizes = {"test": subject.evaluation.test_size, "validation": subject.evaluation.validation_size}
    return {
        "name": str(subject.task.get("name")),
        "task": dict(subject.task),
        "split": split,
        "first": sizes.get(split),
        "max_new_tokens": subject.max_new_tokens,
        "success": subject.evaluation.success,
    }


def _laid_over(part: dict[str, Any], wanted: Wanted) -> Part:
    given = {key: getattr(wanted, key) for key in ("samples", "temperature", "max_new_tokens", "first")}
    changed = {key: value for key, value in given.items() if value is not None}
    return read_options(Part, {**part, **changed}, f"evaluation of {part['name']}")


def _ask(part: Part, subject: Subject) -> _Asked:
    task, problems = load_split(part.task, part.split, subject.folder)
    problems = problems[: part.first]
    check_group(part, problems)
    return _Asked(part, Questions(task, problems))


def _settings(wanted: Wanted, subject: Subject, asked: Sequence[_Asked]) -> dict[str, Any]:
    """All that decides the completions, questions and weights included."""
    return {
        "model": subject.model.model_dump(mode="json"),
        "weights": subject.weights(),
        "chat_template_kwargs": dict(subject.chat_template_kwargs),
        **_tools(subject),
        "seed": subject.seed,
        "suite": wanted.suite,
        "parts": [
            {
                **one.part.model_dump(mode="json"),
                "questions": len(one.questions.problems),
                "data": _digest(one.questions.problems),
            }
            for one in asked
        ],
    }


def _tools(subject: Subject) -> dict[str, Any]:
    """What decides what tools answer, where there are any: what the recipe says, and the files that it names."""
    asked = subject.environment
    if asked is None:
        return {}
    files = contents(asked.tools, lambda path: locate(path, subject.folder))
    return {"environment": asked.model_dump(mode="json"), "tools": files}


def _digest(problems: Sequence[Problem]) -> str:
    told = [[p.id, p.key, p.prefill, plain(p.answer)] for p in problems]
    return fingerprint(json.dumps(told))


def _default_folder(wanted: Wanted, subject: Subject, parts: Sequence[Part]) -> Path:
    asked = f"suite-{wanted.suite}" if wanted.suite else parts[0].name.rpartition(":")[2]
    split = "" if parts[0].split == "test" else f"-{parts[0].split}"
    return ROOT / re.sub(r"[^A-Za-z0-9._-]+", "-", f"{subject.label}-{asked}{split}")


def _complete(folder: EvaluationFolder, asked: Sequence[_Asked]) -> bool:
    """Whether nothing is left to ask, so that no model need be loaded."""
    rows = folder.rows()
    return all(not _left(rows, one) for one in asked)


def _left(rows: Sequence[dict[str, Any]], one: _Asked) -> set[str]:
    return {problem.id for problem in one.questions.problems} - _done(rows, one.part)


def _done(rows: Sequence[dict[str, Any]], part: Part) -> set[str]:
    return scores.finished([row for row in rows if row["part"] == part.name], part.samples)


def _collectors(subject: Subject, asked: Sequence[_Asked], at_once: int, opened: ExitStack) -> list[Collector]:
    policy = load_policy(subject.model, seed=subject.seed)
    engine, kwargs = HFEngine(policy, at_once), subject.chat_template_kwargs
    tools = opened.enter_context(open_tools(policy, subject.environment, subject.folder, kwargs))
    collectors = [Collector(engine, policy, one.questions.task, kwargs, tools) for one in asked]
    for one, collector in zip(asked, collectors, strict=True):
        collector.check_fits(one.questions.problems, one.part.max_new_tokens)
    return collectors


def _evaluate(
    folder: EvaluationFolder, one: _Asked, collector: Collector, seed: int, at_once: int, progress: Progress
) -> None:
    """Ask what is left of a part."""
    part, problems = one.part, one.questions.problems
    done = _done(folder.rows(), part)
    folder.drop(part.name, done)
    right = sum(row["solved"] for row in folder.rows() if row["part"] == part.name)
    asked = len(done)
    for rows in attempts(collector, part, problems, done=done, seed=seed, at_once=at_once):
        folder.keep(rows)
        asked += len(rows) // part.samples
        right += sum(row["solved"] for row in rows)
        progress(part.name, asked, len(problems), right / (asked * part.samples))


def _result(
    wanted: Wanted, subject: Subject, parts: Sequence[Part], skipped: list[str], rows: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    found = [_scored(part, [row for row in rows if row["part"] == part.name], subject.seed) for part in parts]
    return {
        "model": subject.model.name,
        "run": None if subject.run is None else str(subject.run),
        "suite": wanted.suite,
        "seed": subject.seed,
        "average": fmean(part["value"] for part in found) if len(found) > 1 else None,
        "parts": found,
        "skipped": skipped,
        "environment": environment(),
    }


def _scored(part: Part, rows: Sequence[dict[str, Any]], seed: int) -> dict[str, Any]:
    asked = part.model_dump(mode="json", include={"name", "split", "samples", "temperature", "max_new_tokens"})
    return {**asked, "task": part.task.get("name"), **scores.score(rows, part.samples, seed)}
