"""Rows of metrics and recipes as trackers take them: numbers by key, the same keys in every tracker."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

FORBIDDEN = re.compile(r"[^\w\-. ]", re.ASCII)  # MLflow takes no other character on every system, the others all
NOT_SENT = ("step",)  # every tracker has steps of its own


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row of metrics.jsonl, by its key behind its kind: `rl/reward/mean`, `eval/test/accuracy/value`.

    The kind keeps apart what rows of different kinds call by one name. Texts, null and what is not finite are left out.
    """
    kind = f"{row['kind']}/{row['split']}" if row["kind"] == "eval" else row["kind"]
    kept = {key: value for key, value in row.items() if key not in NOT_SENT and _is_number(value)}
    return {safe(f"{kind}/{key}"): value for key, value in kept.items()}


def safe(key: str) -> str:
    """`key` with what MLflow forbids as its code in hexadecimal: `part/gym:x` is `part/gym_3a_x`."""
    return "/".join(_safe_part(part) for part in key.split("/"))


def configuration(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved recipe whose stages go by their names, so that paths in it are those of overrides."""
    return {**recipe, "stages": {stage["name"]: stage for stage in recipe["stages"]}}


def flat(config: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """A configuration as texts by dotted path; what is no mapping is JSON."""
    found: dict[str, str] = {}
    for key, value in config.items():
        path = f"{before}{key}"
        if isinstance(value, Mapping) and value:
            found.update(flat(value, f"{path}."))
        else:
            found[safe(path)] = value if isinstance(value, str) else json.dumps(value)
    return found


def _safe_part(part: str) -> str:
    written = FORBIDDEN.sub(lambda found: f"_{ord(found[0]):x}_", part)
    return "_" if written in ("", ".", "..") else written


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
