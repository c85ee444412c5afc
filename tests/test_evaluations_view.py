"""What is printed while an evaluation goes on and in the end."""

from __future__ import annotations

from tessera.evaluations_view import EVERY, ProgressLines, comparison_notes, comparison_table


def test_a_line_now_and_then_and_when_a_set_is_done() -> None:
    now, said = [0.0], list[str]()
    progress = ProgressLines(said.append, clock=lambda: now[0])
    for seconds, asked in ((1, 8), (EVERY + 1, 16), (EVERY + 2, 24), (EVERY + 3, 32)):
        now[0] = seconds
        progress("svamp", asked, 32, 0.25)
    assert said == ["svamp 16/32: 25.0% at 11 s", "svamp 32/32: 25.0% at 13 s"]


def test_a_comparison_says_what_it_left_out() -> None:
    part = {"name": "sums", "n": 3, "first": 0.5, "second": 0.75, "difference": 0.25, "ci": [-0.1, 0.6],
            "p_bootstrap": 0.1234, "mcnemar": None, "only_in_first": 2, "only_in_second": 0}  # fmt: skip
    found = {"parts": [part], "left_out": ["logic"]}
    assert comparison_notes(found) == [
        "sums: only the 3 common questions; 2 are in the first alone, 0 in the second alone",
        "logic: not compared, no common questions",
    ]
    cells = [next(iter(column.cells)) for column in comparison_table(found).columns]
    assert cells == ["sums", "3", "50.0%", "75.0%", "+25.0 points", "-10.0 to +60.0", "0.123", "-", "-"]
