"""Evaluations by name: which questions, and how each set of them is asked.

The files of a suite lie in one folder, `NAME/test.jsonl` or `NAME/test.jsonl.gz` a set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tessera.core.errors import UserError, unknown
from tessera.evaluation.attempts import Part

SAMPLED = 0.6  # the temperature of avg@k and pass@k
LONGEST = 4096  # tokens of a solution in competition mathematics
COMPETITIONS = ("aime24", "amc", "math500", "minerva", "olympiadbench")
QUESTIONS = ("nq", "triviaqa", "popqa", "hotpotqa", "2wikimultihopqa", "musique", "bamboogle")
JUST_TEST = {"train_size": 1, "validation_size": 0}  # the test split is drawn first


@dataclass(frozen=True)
class Suite:
    """Parts that are evaluated together. In a part's task a file is named as it lies in the data folder."""

    summary: str
    parts: tuple[Part, ...]


class Found(NamedTuple):
    """The parts of a suite whose files are there, and a line for each that is left out."""

    parts: list[Part]
    skipped: list[str]


def parts_of(name: str, data: Path) -> Found:
    """The parts of suite `name` with its files in `data`. UserError for an unknown suite, or if no file is there."""
    if name not in SUITES:
        raise unknown("suite", name, SUITES)
    if not data.is_dir() and any(_files(part) for part in SUITES[name].parts):
        raise UserError(f"no folder {data}: the files of suite {name} are looked for there; give another with --data")
    found = Found([], [])
    for part in SUITES[name].parts:
        missing = [file for file in _files(part) if _place(data, file) is None]
        if missing:
            found.skipped.append(f"{part.name}: no file {data / missing[0]}, nor {missing[0]}.gz there")
        else:
            found.parts.append(part.model_copy(update={"task": _placed(part, data)}))
    if not found.parts:
        raise UserError(f"suite {name} finds none of its files: {found.skipped[0]}; give the folder with --data")
    return found


def _files(part: Part) -> list[str]:
    return [value for value in part.task.values() if isinstance(value, str) and value.endswith(".jsonl")]


def _place(data: Path, file: str) -> Path | None:
    return next((path for path in (data / file, data / f"{file}.gz") if path.is_file()), None)


def _placed(part: Part, data: Path) -> dict[str, Any]:
    files = _files(part)
    return {key: str(_place(data, value)) if value in files else value for key, value in part.task.items()}


def _greedy(name: str, task: Mapping[str, Any], max_new_tokens: int, by: str | None = None) -> Part:
    return Part(name=name, task=dict(task), max_new_tokens=max_new_tokens, by=by)


def _competitions(asked: Mapping[str, Any], samples: Mapping[str, int] | None = None) -> tuple[Part, ...]:
    """The five sets of competition mathematics, all `asked` in the same words; one greedy attempt without `samples`.

    Only the reference in `answer` counts: further ones often answer another part of the question, whose answer
    stands in the prompt.
    """
    attempts = dict.fromkeys(COMPETITIONS, 1) | dict(samples or {})
    return tuple(
        Part(
            name=name,
            task={"name": "math", "test": f"{name}/test.jsonl", "alternatives": False, **asked},
            max_new_tokens=LONGEST,
            samples=count,
            temperature=SAMPLED if count > 1 else 0.0,
        )
        for name, count in attempts.items()
    )


SUITES: dict[str, Suite] = {
    "arithmetic": Suite(
        "SVAMP and the multiplication of two numbers of three digits, pass@1 (the test sets of 2504.20834)",
        (
            _greedy("svamp", {"name": "svamp", "test": "svamp/test.jsonl"}, 300),
            _greedy("multiplication", {"name": "multiplication", "digits": 3}, 300),
        ),
    ),
    "logic": Suite(
        "Knights & Knaves by number of people, pass@1: the public test puzzles, and 700 drawn ones of 2 to 8 people",
        (
            _greedy(
                "knights_knaves", {"name": "knights_knaves", "test": "knights_knaves/test.jsonl"}, 2048, "n_people"
            ),
            _greedy(
                "knights_knaves_drawn",
                {"name": "knights_knaves", "people": [2, 3, 4, 5, 6, 7, 8], "test_size": 700, **JUST_TEST},
                2048,
                "n_people",
            ),
        ),
    ),
    "countdown": Suite(
        "Countdown with three or four numbers, pass@1",
        (_greedy("countdown", {"name": "countdown", "test": "countdown/test.jsonl"}, 512),),
    ),
    "qa": Suite(
        "NQ, TriviaQA, PopQA, HotpotQA, 2WikiMultihopQA, MuSiQue and Bamboogle, exact match (those of 2511.00066)",
        tuple(_greedy(name, {"name": "search_qa", "test": f"{name}/test.jsonl"}, 512) for name in QUESTIONS),
    ),
    "math_001": Suite(
        "AIME24, AMC, MATH-500, Minerva and OlympiadBench in a chat, pass@1 (the test sets of 2510.00194)",
        _competitions({"wording": "boxed", "prompt": {"style": "chat"}}),
    ),
    "math_002": Suite(
        "AIME24 and AMC with 16 attempts a question, MATH-500, Minerva and OlympiadBench pass@1 (those of 2511.00066)",
        _competitions({"wording": "boxed"}, {"aime24": 16, "amc": 16}),
    ),
    "math_003": Suite(
        "AIME24, AMC, MATH-500, Minerva and OlympiadBench with thoughts in tags, pass@1 (those of 2605.11538)",
        _competitions({"wording": "think"}),
    ),
}
