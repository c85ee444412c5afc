"""From the kept completions of an evaluation to its numbers. Nothing else enters, so a recount finds the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from tessera.evaluation.estimators import avg_at_k, bootstrap_interval, maj_at_k, pass_at_k, wilson_interval

Rows = Sequence[Mapping[str, Any]]


def score(rows: Rows, samples: int, seed: int = 0) -> dict[str, Any]:
    """The numbers of one part from its rows, `samples` of them a question.

    `value`, `ci` and `n` are those of the first of `metrics`: pass@1 for one attempt a question, else avg@k. `by` holds
    the same for each group that the rows name, `tools` what the tools did, where there were any.
    """
    found = _of_questions(rows, samples, seed)
    groups = sorted({row["by"] for row in rows if "by" in row})
    by = {group: _of_questions([r for r in rows if r.get("by") == group], samples, seed) for group in groups}
    return {
        **found,
        **({"by": by} if by else {}),
        "completions": len(rows),
        "failed": sum(row["error"] is not None for row in rows),
        "truncation_rate": fmean(row["finish_reason"] == "length" for row in rows),
        "completion_length": fmean(row["tokens"] for row in rows),
        **_of_tools([row["turns"] for row in rows if "turns" in row]),
    }


def by_question(rows: Rows) -> dict[str, list[Mapping[str, Any]]]:
    """The rows of each question, in the order in which they were asked."""
    questions: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        questions.setdefault(row["problem_id"], []).append(row)
    return questions


def finished(rows: Rows, samples: int) -> set[str]:
    """The ids of the questions that have all their attempts."""
    return {question for question, attempts in by_question(rows).items() if len(attempts) == samples}


def results(rows: Rows) -> dict[str, list[bool]]:
    """Which attempts solved each question."""
    return {question: [bool(row["solved"]) for row in attempts] for question, attempts in by_question(rows).items()}


def _of_tools(told: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Of completions with tools: the share that calls any, turns with calls a completion, and counts of calls."""
    if not told:
        return {}
    calls = [call for turns in told for turn in turns for call in turn["calls"]]
    return {
        "tools": {
            "users": fmean(bool(turns) for turns in told),
            "turns": fmean(len(turns) for turns in told),
            "calls": len(calls),
            "failed": dict(Counter(call["failure"] for call in calls if call["failure"] is not None)),
            "empty": sum(call["empty"] for call in calls),
        }
    }


def _of_questions(rows: Rows, samples: int, seed: int) -> dict[str, Any]:
    metrics = _pass_at_1(rows) if samples == 1 else _of_samples(rows, samples, seed)
    first = next(iter(metrics.values()))
    return {"value": first["value"], "ci": first["ci"], "n": len(by_question(rows)), "metrics": metrics}


def _pass_at_1(rows: Rows) -> dict[str, Any]:
    right, n = sum(bool(row["solved"]) for row in rows), len(rows)
    return {"pass@1": {"value": right / n, "ci": list(wilson_interval(right, n)), "interval": "wilson"}}


def _of_samples(rows: Rows, k: int, seed: int) -> dict[str, Any]:
    """avg@k, pass@2, pass@4, ... pass@k, and maj@k where the answers are known."""
    right = list(results(rows).values())
    values = {f"avg@{k}": [avg_at_k(question) for question in right]}
    for j in _doublings(k):
        values[f"pass@{j}"] = [pass_at_k(k, sum(question), j) for question in right]
    if all("answer" in row for row in rows):
        answers = [[row["answer"] for row in attempts] for attempts in by_question(rows).values()]
        values[f"maj@{k}"] = [maj_at_k(a, r) for a, r in zip(answers, right, strict=True)]
    return {name: _bootstrapped(scores, seed) for name, scores in values.items()}


def _doublings(k: int) -> list[int]:
    powers = [2**i for i in range(1, k.bit_length()) if 2**i < k]
    return [*powers, k]


def _bootstrapped(values: Sequence[float], seed: int) -> dict[str, Any]:
    mean, low, high = bootstrap_interval(values, seed)
    return {"value": mean, "ci": [low, high], "interval": "bootstrap"}
