"""Training runs side by side: which belong together, how they end, what they cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from command import tessera
from tessera.comparison_runs import compare_runs, find_runs, write_page
from tessera.core.errors import UserError
from tessera.reports.run import RunFolder
from tessera.reports.summary import summarise

RECIPE = (
    "seed: {seed}\ntask: {{name: sums, digits: {digits}}}\nstages: [{{kind: rl, algorithm: {{name: {algorithm}}}}}]\n"
)


def evaluation(step: int, value: float, split: str = "validation", label: str = "") -> dict[str, Any]:
    ends = {"accuracy/ci_low": value - 0.1, "accuracy/ci_high": value + 0.1, "accuracy/n": 4}
    row = {"kind": "eval", "step": step, "stage": "rl", "stage_index": 0, "seconds": 10.0 * step, "split": split}
    return {**row, **({"label": label} if label else {}), "accuracy/value": value, **ends}


def write(
    path: Path,
    validation: list[float],
    solved: str = "0110",
    *,
    algorithm: str = "grpo",
    seed: int = 0,
    digits: int = 1,
) -> Path:
    """A run of a step an entry of `validation`, at which that accuracy is measured, which samples 100 tokens a step and
    trains on 30, and takes 10 s a step; in the end it solves the test problems of `solved`."""
    recipe = RECIPE.format(seed=seed, algorithm=algorithm, digits=digits)
    with RunFolder.create(path, recipe, str(path)) as run:
        for step, value in enumerate(validation, start=1):
            about = {"kind": "rl", "step": step, "stage": "rl", "stage_index": 0, "seconds": 10.0 * step}
            tokens = {"tokens/generated": 100, "tokens/contributing": 30, "tokens/contributing_per_example": 3.0}
            run.log({**about, **tokens, "reward/mean": value})
            run.log(evaluation(step, value))
        final = solved.count("1") / len(solved)
        run.log(evaluation(len(validation), final, "test", "final"))
        run.write_summary(summarise(run.metrics(), solved={"final": [c == "1" for c in solved]}))
    return path


def test_runs_that_differ_in_their_seed_are_one_setting(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / f"{name}-seed-{seed}", [0.5], algorithm=name, seed=seed)
        for name in ("grpo", "dapo")
        for seed in (0, 1)
    ]
    found, settings = compare_runs(paths)
    assert [(s.label, sorted(s.seeds)) for s in settings] == [("grpo", [0, 1]), ("dapo", [0, 1])]
    assert [(row["setting"], row["runs"], row["finished"]) for row in found["rows"]] == [("grpo", 2, 2), ("dapo", 2, 2)]


def test_the_end_and_the_difference_over_seeds(tmp_path: Path) -> None:
    ends = {"grpo": ("1000", "1100"), "dapo": ("1100", "1111")}
    paths = [
        write(tmp_path / f"{name}{seed}", [0.5], solved, algorithm=name, seed=seed)
        for name, both in ends.items()
        for seed, solved in enumerate(both)
    ]
    first, second = compare_runs(paths)[0]["rows"]
    assert (first["accuracy"], second["accuracy"]) == (0.375, 0.75)
    assert (first["difference"], first["over"]) == (None, None)
    # by seed 0.5 - 0.25 and 1 - 0.5: mean 0.375, s = 0.17678, t(1) = 12.706, so +- 1.588, cut to +-1
    assert (second["difference"], second["over"]) == (0.375, "2 seeds")
    assert second["difference_ci"] == [-1.0, 1.0]
    # 0.25 and 0.5: s = 0.17678 again
    assert first["ci"] == [0.0, 1.0]
    assert first["tokens_per_example"] == 3.0


def test_with_one_seed_the_difference_is_over_the_test_problems(tmp_path: Path) -> None:
    one = write(tmp_path / "one", [0.5], "0000" * 10)
    two = write(tmp_path / "two", [0.5], "0101" * 10, algorithm="dapo")
    row = compare_runs([one, two])[0]["rows"][1]
    assert (row["difference"], row["over"]) == (0.5, "40 questions")
    low, high = row["difference_ci"]
    assert 0.3 < low < 0.5 < high < 0.7
    assert row["ci"] == [0.4, 0.6]  # that of its own evaluation


def test_other_test_problems_are_not_paired(tmp_path: Path) -> None:
    one = write(tmp_path / "one", [0.5], "0000")
    two = write(tmp_path / "two", [0.5], "0101", digits=2)
    row = compare_runs([one, two])[0]["rows"][1]
    assert (row["difference"], row["difference_ci"], row["over"]) == (0.5, None, None)


def test_the_cost_of_an_accuracy_is_what_was_spent_by_then(tmp_path: Path) -> None:
    quick = [write(tmp_path / "quick0", [0.2, 0.6, 0.7]), write(tmp_path / "quick1", [0.1, 0.2, 0.3, 0.6], seed=1)]
    slow = write(tmp_path / "slow", [0.1, 0.2, 0.3, 0.4, 0.5], algorithm="dapo")
    found = compare_runs([*quick, slow])[0]
    assert (found["reach"], found["split"]) == (0.5, "validation")  # all three have been there
    first, second = found["rows"]
    # steps 2 and 4 of the quick ones, 5 of the slow one; 100 tokens sampled, 30 trained on, 10 s a step
    assert first["cost"] == {"step": 3, "sampled": 300, "trained": 90, "seconds": 30.0}
    assert second["cost"] == {"step": 5, "sampled": 500, "trained": 150, "seconds": 50.0}
    first, second = compare_runs([*quick, slow], reach=0.65)[0]["rows"]
    assert (first["reached"], first["cost"]["step"]) == (1, 3)
    assert (second["reached"], second["cost"]) == (0, None)


def test_a_sweep_is_its_runs(tmp_path: Path) -> None:
    for tau in (1, 2):
        for seed in (0, 1):
            write(tmp_path / "sweep" / f"tau={tau}" / f"seed-{seed}", [0.5], algorithm=f"a{tau}", seed=seed)
    assert len(find_runs([tmp_path / "sweep"])) == 4
    found, _ = compare_runs([tmp_path / "sweep"])
    assert [(row["setting"], row["runs"]) for row in found["rows"]] == [("tau=1", 2), ("tau=2", 2)]


def test_a_run_that_goes_on_is_compared_as_far_as_it_is(tmp_path: Path) -> None:
    one = write(tmp_path / "one", [0.5])
    two = write(tmp_path / "two", [0.25, 0.5], algorithm="dapo")
    (two / "summary.json").unlink()
    row = compare_runs([one, two])[0]["rows"][1]
    assert (row["finished"], row["accuracy"], row["difference"], row["ci"]) == (0, None, None, None)
    assert row["cost"]["step"] == 2


def test_runs_that_were_never_evaluated_have_no_cost(tmp_path: Path) -> None:
    runs = [write(tmp_path / name, [0.5], algorithm=name) for name in ("grpo", "dapo")]
    for run in runs:
        rows = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
        (run / "metrics.jsonl").write_text("".join(row for row in rows if '"eval"' not in row))
    found, _ = compare_runs(runs)
    assert found["reach"] is None
    assert [(row["reached"], row["cost"]) for row in found["rows"]] == [(0, None)] * 2
    assert "Reached: no run was evaluated." in tessera("compare", *runs, "--out", tmp_path / "page.html").out


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    one = write(tmp_path / "one", [0.5])
    with pytest.raises(UserError, match="one run: give two at least"):
        compare_runs([one, one])
    again = write(tmp_path / "again", [0.5])
    with pytest.raises(UserError, match=r"again and .*one are runs of one setting with one seed"):
        compare_runs([one, again])
    with pytest.raises(UserError, match="neither a run folder, nor the folder of a sweep"):
        compare_runs([one, tmp_path / "nothing"])
    other = write(tmp_path / "other", [0.5], algorithm="dapo")
    with pytest.raises(UserError, match=r"cannot write .*: No such file or directory"):
        write_page(*compare_runs([one, other]), tmp_path / "no" / "compare.html")


def test_the_command_prints_a_table_and_writes_a_page(tmp_path: Path) -> None:
    one = write(tmp_path / "one", [0.5], "0000")
    two = write(tmp_path / "two", [0.25, 0.5], "0101", algorithm="dapo")
    done = tessera("compare", one, two, "--out", tmp_path / "page.html")
    assert (done.code, done.err) == (0, "")
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert lines[1] == "one 1 0.0 % -10.0 % to 10.0 % – – – 1 of 1 1 100 30 10.0 s 3 10.0 s"
    assert lines[2].startswith("two 1 50.0 % 40.0 % to 60.0 % +50.0 points ")
    assert lines[2].endswith(" 4 questions 1 of 1 2 200 60 20.0 s 3 20.0 s")
    assert lines[-1] == f"page: {tmp_path / 'page.html'}"
    page = (tmp_path / "page.html").read_text()
    assert page.count("<figure>") >= 3 and "<script" not in page
    told = json.loads(tessera("compare", one, two, "--json", "--reach", "0.25").out)
    assert told["rows"][1]["cost"]["step"] == 1
