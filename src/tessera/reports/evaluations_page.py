"""report.md of an evaluation: its numbers as tables of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

Row = tuple[str, ...]

HEADER: Row = ("set", "measure", "value", "95 % interval", "n")
TOOLS: Row = ("with calls", "turns", "calls", "failed", "empty")


def markdown(result: Mapping[str, Any]) -> str:
    """The page of an evaluation's result."""
    lines = [f"# {title(result)}", "", *_table(header(result), rows(result)), ""]
    if result["average"] is not None:
        lines += [f"Average of the sets: {result['average']:.1%}", ""]
    details = ("set", "questions", "attempts", "temperature", "token limit", "cut", "mean tokens", "failed rewards")
    lines += ["## How they were asked", "", *_table(details, map(_asked, result["parts"])), ""]
    lines += [f"Not asked: {line}" for line in result["skipped"]]
    lines += ["Intervals: Wilson for pass@1, bootstrap over questions otherwise. Every completion: completions.jsonl."]
    return "\n".join(lines) + "\n"


def title(result: Mapping[str, Any]) -> str:
    """What was evaluated on what."""
    what = result["suite"] or f"{result['parts'][0]['name']} {result['parts'][0]['split']}"
    return f"{result['run'] or result['model']} on {what}"


def header(result: Mapping[str, Any]) -> Row:
    """What stands above the cells of `rows`."""
    return HEADER + (TOOLS if _tooled(result) else ())


def rows(result: Mapping[str, Any]) -> list[Row]:
    """A row a measure of each set, and of each of a set's groups. What tools did stands in a set's first row."""
    if not _tooled(result):
        return [row for part in result["parts"] for row in _of_part(part)]
    return [
        row + (_told(part["tools"]) if n == 0 and "tools" in part else ("",) * len(TOOLS))
        for part in result["parts"]
        for n, row in enumerate(_of_part(part))
    ]


def _tooled(result: Mapping[str, Any]) -> bool:
    return any("tools" in part for part in result["parts"])


def _told(tools: Mapping[str, Any]) -> Row:
    failed = tools["failed"]
    why = f" ({', '.join(f'{reason} {count}' for reason, count in sorted(failed.items()))})" if failed else ""
    return (
        f"{tools['users']:.1%}",
        f"{tools['turns']:.2f}",
        str(tools["calls"]),
        f"{sum(failed.values())}{why}",
        str(tools["empty"]),
    )


def _of_part(part: Mapping[str, Any]) -> Iterator[Row]:
    yield from _measures(part["name"], part)
    for group, found in part.get("by", {}).items():
        yield from _measures(f"{part['name']}: {group}", found)


def _measures(name: str, found: Mapping[str, Any]) -> Iterator[Row]:
    for measure, estimate in found["metrics"].items():
        low, high = estimate["ci"]
        yield name, measure, f"{estimate['value']:.1%}", f"{low:.1%} to {high:.1%}", str(found["n"])


def _asked(part: Mapping[str, Any]) -> Row:
    return (
        part["name"],
        str(part["n"]),
        str(part["samples"]),
        f"{part['temperature']:g}",
        str(part["max_new_tokens"]),
        f"{part['truncation_rate']:.1%}",
        f"{part['completion_length']:.1f}",
        str(part["failed"]),
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines]
