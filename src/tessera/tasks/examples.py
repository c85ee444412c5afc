"""Made-up rows for the tasks that need data, so that every registered task can be tried without any."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

COUNT = 6  # rows a split


def example(name: str, folder: Path) -> dict[str, Any]:
    """What a recipe may hold under `task` to try the task `name`; rows that it needs are written into `folder`."""
    spec: dict[str, Any] = {"name": name, **_OPTIONS.get(name, {})}
    if name in _ROWS:
        for split, first in (("train", 2), ("test", 2 + COUNT)):
            path = folder / f"{name}-{split}.jsonl"
            rows = [_ROWS[name](n) for n in range(first, first + COUNT)]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            spec[split] = str(path)
        spec["validation_size"] = 0
    return spec


def missing(name: str) -> str | None:
    """The package that the task `name` needs and that is not installed, if any."""
    package = _NEEDS.get(name)
    return None if package is None or find_spec(package) else package


def _sum(n: int) -> dict[str, Any]:
    return {"prompt": f"What is {n} + 3?", "answer": n + 3}


def _svamp(n: int) -> dict[str, Any]:
    question = f"Ann has {n} apples and is given 3 more. How many apples has she?"
    return {"id": f"made-{n}", "question": question, "answer": n + 3, "equation": f"( {n} + 3 )"}


def _gsm8k(n: int) -> dict[str, Any]:
    question = f"A box holds {n} pens, and a pen costs 3 coins. What does a box cost?"
    return {"id": f"made-{n}", "question": question, "answer": str(3 * n), "rationale": f"{n}*3=<<{n}*3={3 * n}>>"}


def _math(n: int) -> dict[str, Any]:
    answer = rf"\frac{{{n}}}{{{n + 1}}}"
    return {"id": f"made-{n}", "problem": f"What is ${n}$ divided by ${n + 1}$?", "answer": answer}


def _search_qa(n: int) -> dict[str, Any]:
    return {"id": f"made-{n}", "question": f"Which king followed Charles {n}?", "answers": [f"Louis {n}"]}


_ROWS = {"gsm8k": _gsm8k, "jsonl": _sum, "math": _math, "search_qa": _search_qa, "svamp": _svamp}
_NEEDS = {"math": "math_verify", "reasoning_gym": "reasoning_gym"}
_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "jsonl": {"reward": "last_integer"},
    "mixture": {"parts": [{"task": {"name": "arithmetic", "digits": 2}}, {"task": {"name": "multiplication"}}]},
    "reasoning_gym": {"dataset": "basic_arithmetic"},
}
