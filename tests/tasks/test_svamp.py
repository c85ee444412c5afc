import json
from pathlib import Path
from typing import Any

import pytest

from tessera.core.errors import UserError
from tessera.core.types import Message
from tessera.tasks.registry import load_task
from tessera.tasks.validate import validate_task

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "svamp"


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows(n: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"id": f"chal-{i}", "question": f"Ann has {i} apples. How many?", "answer": float(i), "type": "Count"}
        for i in range(start, start + n)
    ]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    train, test = write(tmp_path / "train.jsonl", rows(105)), write(tmp_path / "test.jsonl", rows(3, 200))
    return {"name": "svamp", "train": train, "test": test}


def test_the_prompt_is_the_papers_and_validation_is_the_end_of_train(files: dict[str, Any]) -> None:
    loaded = load_task(files)
    assert [p.id for p in loaded.train] == [f"chal-{i}" for i in range(5)]
    assert [p.id for p in loaded.validation] == [f"chal-{i}" for i in range(5, 105)]  # the last 100
    assert [p.id for p in loaded.test] == ["chal-200", "chal-201", "chal-202"]
    problem = loaded.test[1]
    assert problem.prompt == "Problem: Ann has 201 apples. How many?\nAnswer:"
    assert (problem.answer, type(problem.answer)) == (201, int)  # 201.0 in the file
    assert problem.metadata == {"question": "Ann has 201 apples. How many?", "type": "Count"}


def test_validation_by_size_or_by_file(files: dict[str, Any], tmp_path: Path) -> None:
    assert len(load_task({**files, "validation_size": 0}).train) == 105
    assert len(load_task({**files, "validation_size": 7}).validation) == 7
    validation = write(tmp_path / "validation.jsonl", rows(2, 300))
    loaded = load_task({**files, "validation": validation})
    assert (len(loaded.train), [p.id for p in loaded.validation]) == (105, ["chal-300", "chal-301"])
    with pytest.raises(UserError, match=r"task svamp: give either validation .a source. or validation_size"):
        load_task({**files, "validation": validation, "validation_size": 7})
    with pytest.raises(UserError, match=r"validation_size = 105 must be from 0 to 104: .*train\.jsonl has 105 rows"):
        load_task({**files, "validation_size": 105})


def test_chat_keeps_the_template(files: dict[str, Any]) -> None:
    loaded = load_task({**files, "prompt": {"style": "chat", "system": "Add."}})
    user = Message("user", "Problem: Ann has 200 apples. How many?\nAnswer:")
    assert loaded.test[0].prompt == (Message("system", "Add."), user)


def test_an_answer_that_is_no_integer_is_refused(files: dict[str, Any], tmp_path: Path) -> None:
    test = write(tmp_path / "odd.jsonl", [*rows(1, 200), {"id": "x", "question": "?", "answer": 2.5}])
    with pytest.raises(UserError, match=r"odd\.jsonl, line 2: reward last_integer cannot grade the answer 2\.5"):
        load_task({**files, "test": test})


def test_a_missing_column_and_a_shared_question(files: dict[str, Any], tmp_path: Path) -> None:
    test = write(tmp_path / "official.jsonl", [{"ID": "x", "Question": "?", "Answer": 2.0}])
    with pytest.raises(UserError, match=r"official\.jsonl, line 1 has no column 'question'; its columns are 'ID'"):
        load_task({**files, "test": test})
    with pytest.raises(UserError, match="train and test share 1 problems, such as 'chal-4' and 'chal-4'"):
        load_task({**files, "test": write(tmp_path / "leak.jsonl", [*rows(1, 200), *rows(1, 4)])})


def test_relative_files_are_found_beside_the_recipe(files: dict[str, Any]) -> None:
    base = Path(files["train"]).parent
    loaded = load_task({"name": "svamp", "train": "train.jsonl", "test": "test.jsonl"}, base)
    assert str(loaded.task.train) == str(base / "train.jsonl")
    with pytest.raises(UserError, match=f"no such file: 'trein.jsonl' .looked in .* and {base}"):
        load_task({"name": "svamp", "train": "trein.jsonl", "test": "test.jsonl"}, base)


@pytest.mark.skipif(not DATA.exists(), reason="the SVAMP files are not beside the repository")
def test_the_real_data() -> None:
    loaded = load_task({"name": "svamp", "train": str(DATA / "train.jsonl"), "test": str(DATA / "test.jsonl")})
    assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (600, 100, 300)
    first = loaded.train[0]
    assert (first.id, first.answer) == ("chal-777", 145)  # 290 bananas in 2 groups
    assert first.prompt.startswith("Problem: There are 87 oranges and 290 bananas")
    assert first.prompt.endswith("\nAnswer:")
    report = validate_task(loaded, sample=300, size=100_000)
    assert report.ok, str(report)
