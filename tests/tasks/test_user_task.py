from pathlib import Path
from typing import Any

import pytest

from tessera.core.errors import UserError
from tessera.tasks.registry import load_task

SOURCE = """
from dataclasses import dataclass
from tessera.core.types import Problem

class Other: ...

@dataclass
class Parity:
    count: int
    offset: int = 0
    def problems(self, split):
        start = self.offset + {"train": 0, "validation": 100, "test": 200}[split]
        return [Problem(str(n), f"Is {n} even?", n % 2 == 0) for n in range(start, start + self.count)]
    def reward(self, problem, text):
        return {"right": float(("yes" in text) == problem.answer)}

class Any(Parity):
    def __init__(self, **options): super().__init__(**options)

class NoReward:
    def problems(self, split): return []

class WrongReward(NoReward):
    def reward(self, text): return 0.0
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    return path


@pytest.mark.parametrize("cls", ["Parity", "Any"])
def test_a_class_in_a_file(file: Path, cls: str) -> None:
    loaded = load_task({"name": f"{file}:{cls}", "count": 3, "offset": 1})
    assert [p.prompt for p in loaded.train] == ["Is 1 even?", "Is 2 even?", "Is 3 even?"]
    assert [p.id for p in loaded.test] == ["201", "202", "203"]
    assert loaded.task.reward(loaded.train[1], "yes") == {"right": 1.0}
    assert loaded.name == f"{file}:{cls}"


def test_the_working_directory_comes_before_the_recipes(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    spec = {"name": "mine.py:Parity", "count": 1}
    with pytest.raises(UserError, match=r"no such file: 'mine\.py' .looked in .*elsewhere"):
        load_task(spec)
    assert load_task(spec, base_dir=tmp_path).train[0].id == "0"
    (elsewhere / "mine.py").write_text(SOURCE.replace('"train": 0', '"train": 50'))
    assert load_task(spec, base_dir=tmp_path).train[0].id == "50"


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        ("Parety", {}, r"unknown class in .*mine\.py: 'Parety' \(did you mean 'Parity'\?\)"),
        ("dataclass", {}, "unknown class in"),
        ("", {}, "names no class; write path/to/file.py:ClassName"),
        ("Parity", {}, "Parity needs the option 'count'"),
        ("Parity", {"count": 1, "ofset": 2}, r"unknown option of task .*Parity 'ofset' \(did you mean 'offset'\?\)"),
        ("Other", {"count": 1}, "unknown option of task .*Other 'count'"),
        ("Other", {}, r"Other has no method problems\(self, split\)"),
        ("NoReward", {}, r"NoReward has no method reward\(self, problem, text\)"),
        ("WrongReward", {}, r"reward must be reward\(self, problem, text\): too many positional arguments"),
    ],
)
def test_what_is_wrong_with_it_is_one_line(file: Path, cls: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        load_task({"name": f"{file}:{cls}", **options})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\ndef f(:\n", r"broken\.py, line 2 is not Python: invalid syntax"),
        ("import no_such_package_here\n", r"broken\.py cannot be imported: No module named 'no_such_package_here'"),
    ],
)
def test_a_file_that_cannot_be_imported(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "broken.py").write_text(source)
    with pytest.raises(UserError, match=message):
        load_task({"name": f"{tmp_path / 'broken.py'}:X"})


def test_an_error_of_the_users_own_code_comes_through(tmp_path: Path) -> None:
    (tmp_path / "raises.py").write_text("class X:\n    def __init__(self): raise KeyError('mine')\n")
    with pytest.raises(KeyError, match="mine"):
        load_task({"name": f"{tmp_path / 'raises.py'}:X"})
