"""The source tree, parsed once."""

import ast
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Source:
    """One file of the package: its path below src/tessera, its text, and its syntax tree."""

    path: str
    text: str
    tree: ast.Module

    @property
    def module(self) -> str:
        """Its dotted name."""
        return f"tessera/{self.path.removesuffix('.py').removesuffix('__init__')}".strip("/").replace("/", ".")

    def functions(self):
        """Every function and method, nested ones too."""
        return [n for n in ast.walk(self.tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]


def parse(path: Path) -> Source:
    text = path.read_text(encoding="utf-8")
    return Source(path.relative_to(ROOT / "src" / "tessera").as_posix(), text, ast.parse(text, str(path)))


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def sources() -> list[Source]:
    """All files of the package."""
    return [parse(path) for path in sorted((ROOT / "src" / "tessera").rglob("*.py"))]
