"""Where two recipes differ, by dotted key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

ABSENT = "nothing"


def differences(before: Any, after: Any) -> list[str]:
    """One line for each leaf that differs, `stages.0.steps: 40 in the run, 80 given`, in the order of the files."""
    old, new = dict(_leaves(before)), dict(_leaves(after))
    keys = [*old, *(key for key in new if key not in old)]
    return [
        f"{key}: {_show(old, key)} in the run, {_show(new, key)} given"
        for key in keys
        if _show(old, key) != _show(new, key)
    ]


def first(found: Sequence[str]) -> str:
    """The first three of some differences in one line, and how many more there are."""
    return "; ".join(found[:3]) + (f"; and {len(found) - 3} more" if len(found) > 3 else "")


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, item in items:
            yield from _leaves(item, f"{key}.{name}" if key else str(name))
    elif key:
        yield key, value


def _show(leaves: dict[str, Any], key: str) -> str:
    return repr(leaves[key]) if key in leaves else ABSENT
