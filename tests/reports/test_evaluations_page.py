"""report.md of an evaluation."""

from __future__ import annotations

from typing import Any

from tessera.reports.evaluations_page import header, markdown, rows, title


def measure(value: float, low: float, high: float) -> dict[str, Any]:
    return {"value": value, "ci": [low, high], "interval": "wilson"}


PART = {
    "name": "a|b", "split": "test", "samples": 1, "temperature": 0.6, "max_new_tokens": 9, "n": 4, "failed": 1,
    "truncation_rate": 0.25, "completion_length": 7.25, "metrics": {"pass@1": measure(0.5, 0.15, 0.85)},
    "by": {"3": {"n": 2, "metrics": {"pass@1": measure(1.0, 0.34, 1.0)}}},
}  # fmt: skip
RESULT = {"model": "m", "run": None, "suite": None, "average": None, "parts": [PART], "skipped": ["c: no file"]}


def test_a_row_a_measure_of_a_set_and_of_its_groups() -> None:
    assert rows(RESULT) == [
        ("a|b", "pass@1", "50.0%", "15.0% to 85.0%", "4"),
        ("a|b: 3", "pass@1", "100.0%", "34.0% to 100.0%", "2"),
    ]


def test_the_page() -> None:
    page = markdown(RESULT).splitlines()
    assert page[0] == "# m on a|b test"
    assert page[2] == "| set | measure | value | 95 % interval | n |"
    assert page[4] == r"| a\|b | pass@1 | 50.0% | 15.0% to 85.0% | 4 |"
    assert r"| a\|b | 4 | 1 | 0.6 | 9 | 25.0% | 7.2 | 1 |" in page
    assert "Not asked: c: no file" in page


def test_what_tools_did_stands_in_the_first_row_of_a_set() -> None:
    told = {"users": 0.75, "turns": 1.25, "calls": 5, "failed": {"timeout": 2, "crash": 1}, "empty": 1}
    result = {**RESULT, "parts": [{**PART, "tools": told}]}
    assert header(result)[5:] == ("with calls", "turns", "calls", "failed", "empty")
    first, group = rows(result)
    assert first[5:] == ("75.0%", "1.25", "5", "3 (crash 1, timeout 2)", "1")
    assert group[5:] == ("",) * 5
    assert "| 75.0% | 1.25 | 5 | 3 (crash 1, timeout 2) | 1 |" in markdown(result)


def test_a_suite_has_an_average() -> None:
    page = markdown({**RESULT, "suite": "s", "run": "runs/r", "average": 0.25})
    assert page.startswith("# runs/r on s\n") and "Average of the sets: 25.0%" in page
    assert title({**RESULT, "suite": "s"}) == "m on s"
