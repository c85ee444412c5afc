"""What `tessera compare` does: two evaluations, question by question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tessera.core.errors import UserError
from tessera.evaluation.estimators import avg_at_k
from tessera.evaluation.paired import mcnemar, paired_bootstrap
from tessera.reports.evaluations import SETTINGS, EvaluationFolder

Question = tuple[str, str]
"""The id of a problem, and what stands for its text."""


def are_evaluations(folders: Sequence[Path]) -> bool:
    """Whether these are folders of evaluations: all, and then two, or none (UserError otherwise)."""
    found = [folder for folder in folders if (folder / SETTINGS).is_file()]
    if found and len(found) < len(folders):
        other = next(folder for folder in folders if folder not in found)
        raise UserError(f"{found[0]} is an evaluation and {other} is none: compare like with like")
    if found and len(found) != 2:
        raise UserError(f"two evaluations are compared at a time, got {len(found)}")
    return bool(found)


def compare(first: Path, second: Path, seed: int = 0) -> dict[str, Any]:
    """For each set that both evaluations asked: the scores of the two on the same questions, and the paired tests.

    The score of a question is the share of its attempts that solved it; McNemar's test is made where both asked each
    question once. Questions that only one of them asked are left out and counted. Raises UserError for a folder without
    a finished evaluation, and where no question is common.
    """
    ours, theirs = _scores(first), _scores(second)
    names = [name for name in ours if name in theirs]
    found = [
        _compared(name, ours[name], theirs[name], seed) for name in names if ours[name].keys() & theirs[name].keys()
    ]
    if not found:
        raise UserError(f"{first} and {second} have no question in common: {_sets(ours)}, and {_sets(theirs)}")
    left_out = [name for name in (*ours, *theirs) if name not in {part["name"] for part in found}]
    return {"first": str(first), "second": str(second), "parts": found, "left_out": list(dict.fromkeys(left_out))}


def _scores(path: Path) -> dict[str, dict[Question, list[bool]]]:
    """By set and question, which attempts solved it."""
    folder = EvaluationFolder.read(path)
    if folder.result() is None:
        raise UserError(f"the evaluation in {path} is not finished: the command that began it goes on with it")
    found: dict[str, dict[Question, list[bool]]] = {}
    for row in folder.rows():
        question = row["problem_id"], row["question"]
        found.setdefault(row["part"], {}).setdefault(question, []).append(bool(row["solved"]))
    return found


def _compared(
    name: str, ours: Mapping[Question, list[bool]], theirs: Mapping[Question, list[bool]], seed: int
) -> dict[str, Any]:
    common = [question for question in ours if question in theirs]
    first, second = [ours[q] for q in common], [theirs[q] for q in common]
    means = [avg_at_k(attempts) for attempts in first], [avg_at_k(attempts) for attempts in second]
    once = all(len(attempts) == 1 for side in (first, second) for attempts in side)
    found = paired_bootstrap(means[0], means[1], seed)
    return {
        "name": name,
        "n": len(common),
        "only_in_first": len(ours) - len(common),
        "only_in_second": len(theirs) - len(common),
        "first": sum(means[0]) / len(common),
        "second": sum(means[1]) / len(common),
        "difference": found.difference,
        "ci": [found.low, found.high],
        "p_bootstrap": found.p,
        "mcnemar": _mcnemar(first, second) if once else None,
    }


def _mcnemar(first: Sequence[list[bool]], second: Sequence[list[bool]]) -> dict[str, Any]:
    return mcnemar([a[0] for a in first], [a[0] for a in second])._asdict()


def _sets(evaluation: Mapping[str, Mapping[Question, list[bool]]]) -> str:
    return ", ".join(f"{name} ({len(questions)} questions)" for name, questions in evaluation.items())
