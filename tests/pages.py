"""Code blocks of a page of documentation, and the commands in them.

A comment before a block says what is not plain: `<!-- not run: why -->` (then it is read only), or
`<!-- file: NAME -->` (it is also written there, for the blocks after it).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
MARK = re.compile(r"<!-- (not run|file): (.+?) -->")
PROGRAMS = ("tessera", "make", "pip", "python")  # an indented line that begins with one is a command


@dataclass(frozen=True)
class Block:
    """A block of a page: its language (`indented` where nothing shows it), its text, where it begins, its comment."""

    language: str
    text: str
    line: int
    not_run: str | None = None
    file: str | None = None

    @property
    def commands(self) -> list[list[str]]:
        """Words of each command of a shell block; of an indented one the lines that begin with a program."""
        joined = re.sub(r"\\\n\s*", "", self.text)
        lines = [line for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        if self.language == "indented":  # behind two spaces comes what the command does
            lines = [re.split(r" {2,}", line.strip())[0] for line in lines if line.split()[0] in PROGRAMS]
        return [shlex.split(line, comments=True) for line in lines]


def pages() -> list[Path]:
    """Every page whose code has to work."""
    return sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    return list(_blocks(page.read_text(encoding="utf-8").splitlines()))


def metric_keys() -> dict[str, set[str]]:
    """The keys of docs/metrics.md by the kind of row whose section they stand in."""
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    found: dict[str, set[str]] = {}
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        title, *lines = section.splitlines()
        cells = [line.split("|")[1] for line in lines if line.startswith("| `")]
        found[title] = {key for cell in cells for key in re.findall(r"`([^`]+)`", cell)}
    kinds = {kind: keys for title, keys in found.items() for kind in re.findall(r"\(`(\w+)`\)", title)}
    return {kind: keys | found["Every row"] for kind, keys in kinds.items()}


def _blocks(lines: list[str]) -> Iterator[Block]:
    at, mark = 0, None
    while at < len(lines):
        line = lines[at]
        if fence := re.match(r"(\s*)(`{3,})(\w*)", line):
            end = next(i for i in range(at + 1, len(lines)) if lines[i].strip() == fence[2])
            yield _block(fence[3] or "text", [text[len(fence[1]) :] for text in lines[at + 1 : end]], at, mark)
            at = end
        elif line.startswith("    ") and (at == 0 or not lines[at - 1].strip()):
            end = next((i for i in range(at, len(lines)) if lines[i] and not lines[i].startswith("    ")), len(lines))
            yield _indented([text[4:] for text in lines[at:end]], at, mark)
            at = end - 1
        if line.strip():
            mark = MARK.search(line) or None
        at += 1


def _indented(lines: list[str], at: int, mark: re.Match[str] | None) -> Block:
    """What begins with a key is YAML, what begins as Python does is Python."""
    kinds = {"yaml": r"[a-z_]+:( |$)", "python": r"(from|import) [\w.]+( |$)"}
    language = next((name for name, pattern in kinds.items() if re.match(pattern, lines[0])), "indented")
    return _block(language, lines, at, mark)


def _block(language: str, lines: list[str], at: int, mark: re.Match[str] | None) -> Block:
    said = {mark[1]: mark[2]} if mark else {}
    return Block(language, "\n".join(lines) + "\n", at + 1, said.get("not run"), said.get("file"))
