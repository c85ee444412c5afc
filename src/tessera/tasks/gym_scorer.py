"""The scorers of the reasoning-gym package, run in a process that can be killed (`tessera.tasks.pool`).

Some of them evaluate what the model wrote: four with `eval`, five through SymPy, which evaluates too. Here `eval`
reads literals alone, and what goes to SymPy may hold neither quotes, underscores, the names of Python's functions nor
towers of powers: it earns 0.
"""

from __future__ import annotations

import ast
import base64
import builtins
import json
import pickle
import re
import sys
from functools import cache
from typing import Any

import reasoning_gym
from reasoning_gym.composite import DatasetSpec

EVALUATED = ("string_insertion", "spiral_matrix", "binary_matrix", "n_queens")
BY_SYMPY = ("countdown", "puzzle24", "simple_integration", "intermediate_integration", "polynomial_multiplication")
HARMLESS = {"abs", "max", "min", "pow", "round", "sum"}
# Quotes and the like; an exponent of four digits; a power raised to a power.
_REFUSED = re.compile(r"[\"'_\\\[\]{}]|\*\*[\s(+-]*\d{4,}|\*\*[\s(+-]*\d+[\s)]*\*\*")
# What a scorer raises on an answer that it did not expect; anything else ends the process.
RAISED = (ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RuntimeError, SyntaxError, TypeError,
          ValueError)  # fmt: skip


def make(dataset: str, options: dict[str, Any], seed: int, size: int) -> Any:
    """The package's data set; raises what the package does about options that do not fit."""
    if dataset == "composite" and isinstance(parts := options.get("datasets"), list):
        options = {**options, "datasets": [DatasetSpec(**{"weight": 1.0, "config": {}, **part}) for part in parts]}
    return reasoning_gym.create_dataset(dataset, **options, seed=seed, size=size)


def packed(entry: dict[str, Any]) -> str:
    """An entry as text. Its metadata may hold what JSON would change: tuples, keys that are numbers, objects."""
    return base64.b64encode(pickle.dumps(entry)).decode()


def score(dataset: str, options: str, answer: str, entry: str) -> dict[str, Any]:
    """`{"score": number}`, or `{"error": text}` where the scorer raised. `options` are JSON, `entry` is packed."""
    found = pickle.loads(base64.b64decode(entry))  # written by the process that started this one
    part = found["metadata"].get("source_dataset") if dataset == "composite" else None
    if (part or dataset) in BY_SYMPY and not _plain(answer):
        return {"score": 0.0}
    try:
        return {"score": float(_made(dataset, options).score_answer(answer, found))}
    except RAISED as error:
        return {"error": f"{type(error).__name__}: {error}"}


@cache
def _made(dataset: str, options: str) -> Any:
    made = make(dataset, json.loads(options), seed=0, size=10)
    for name in EVALUATED:
        module = sys.modules[reasoning_gym.factory.DATASETS[name][0].__module__]
        vars(module)["eval"] = ast.literal_eval
    return made


def _plain(answer: str) -> bool:
    """Whether `answer` can do nothing but arithmetic when SymPy evaluates it."""
    functions = {name for name in vars(builtins) if name.islower()} - HARMLESS
    return not _REFUSED.search(answer) and functions.isdisjoint(re.findall(r"\w+", answer))
