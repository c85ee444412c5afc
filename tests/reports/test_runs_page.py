"""The page of runs compared: a line and a band a setting."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

from tessera.reports.runs_page import HEAD, cells, render

ROW: dict[str, Any] = {
    "setting": "<b>one",
    "runs": 3,
    "finished": 2,
    "accuracy": 0.5,
    "ci": [0.4, 0.6],
    "difference": -0.05,
    "difference_ci": [-0.1, 0.02],
    "over": "3 seeds",
    "reached": 2,
    "cost": {"step": 12.5, "sampled": 123456.0, "trained": 7890.0, "seconds": 130.0},
    "tokens_per_example": 16.25,
    "seconds": 260.0,
}
FOUND = {"split": "validation", "reach": 0.4, "rows": [ROW]}


def test_a_row_of_the_table() -> None:
    assert dict(zip(HEAD[:4], cells(ROW), strict=False)) == {
        "Setting": "<b>one",
        "Runs": "3, 2 finished",
        "Accuracy": "50.0 %",
        "95 % interval": "40.0 % to 60.0 %",
    }
    assert cells(ROW)[4:] == [
        "-5.0 points", "-10.0 to +2.0", "3 seeds", "2 of 3", "12.5", "123.5k", "7890", "2 min 10 s", "16.25",
        "4 min 20 s",
    ]  # fmt: skip
    nothing = dict.fromkeys(
        ("accuracy", "ci", "difference", "difference_ci", "over", "cost", "tokens_per_example", "seconds")
    )
    assert cells({**ROW, **nothing, "finished": 3, "reached": 0})[1:] == ["3", *"–––––", "0 of 3", *"––––––"]


def test_a_band_goes_from_the_lowest_run_to_the_highest(made: SimpleNamespace) -> None:
    def rows(reward: float) -> list[dict[str, Any]]:
        return [{**made.rl(step), "reward/mean": reward * step} for step in (1, 2)]

    page = render(FOUND, {"<b>one": [rows(1.0), rows(3.0)], "two": [rows(2.0)]})
    figure = re.search(r"<figure>(?:(?!<figure>).)*>Reward<.*?</figure>", page, re.DOTALL)
    assert figure is not None
    assert figure[0].count('class="band c0"') == 1 and 'class="band c1"' not in figure[0]
    # the means of 1 and 3, and 2 and 6; with their ends
    assert "step 1\n&lt;b&gt;one: 2 [1, 3]\ntwo: 2" in figure[0]
    assert "step 2\n&lt;b&gt;one: 4 [2, 6]\ntwo: 4" in figure[0]


def test_accuracy_is_that_of_the_split_compared(made: SimpleNamespace) -> None:
    rows = [made.evaluation(5, "", 0.25, (0, "rl"), "validation"), made.evaluation(5, "final", 0.75, (0, "rl"), "test")]
    page = render(FOUND, {"one": [rows], "two": [[]]})
    assert "Accuracy on validation" in page
    assert "one: 25 %" in page and "75 %" not in page


def test_the_page_is_whole_and_escapes_names(made: SimpleNamespace) -> None:
    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attributes: Any) -> None:
            seen.append(tag)

    seen: list[str] = []
    page = render(FOUND, {"<script>": [list(made.all_rows())], "two": [list(made.all_rows())]})
    Tags().feed(page)
    assert not {"script", "b", "link", "img"} & set(seen)
    assert seen.count("figure") >= 10
    assert render(FOUND, {"one": [[]]}).count("<figure>") == 0
