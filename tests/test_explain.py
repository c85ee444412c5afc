"""`tessera explain`: the composition, and each token's advantage, weight, selection and gradient."""

from __future__ import annotations

import pytest
from rich.console import Console
from rich.table import Table

from command import tessera
from tessera.algorithms import registered
from tessera.core.errors import UserError
from tessera.explain import COMPLETIONS, explain, render


def printed(spec: object, **how: object) -> str:
    console = Console(width=400, record=True, color_system=None)
    for part in render(explain(spec, **how)):  # type: ignore[arg-type]
        console.print(part, markup=False, highlight=False)
    return console.export_text()


@pytest.mark.parametrize("name", registered())
def test_every_method_is_explained(name: str) -> None:
    found = explain(name)
    assert found.gradient.any()
    text = printed(name)
    assert found.algorithm.describe() in text
    assert "Differs from the paper:" in text
    assert text.count("advantage") >= len(COMPLETIONS)


def test_the_tables_say_what_score_group_says() -> None:
    found = explain({"name": "t_spmo"}, [1.0, 0.0])
    # completions 0 and 1 part at their fourth token; before it A is 0, after it the other tokens are alone
    assert found.loss.selected.tolist() == [[False] * 3 + [True] + [False] * 4, [False] * 3 + [True] + [False] * 4]
    assert found.loss.advantage[0, 3].item() == 0.5
    tables = [part for part in render(found) if isinstance(part, Table)]
    assert [str(cell) for cell in tables[0].columns[4].cells] == [
        "+0.500",
        "1.00",
        f"{-found.gradient[0, 3].item():+.3f}",
    ]
    assert [str(cell) for cell in tables[0].columns[1].cells] == ["-", "-", "-"]
    styles = [[cell.style for cell in table.columns[4].cells] for table in tables]  # type: ignore[union-attr]
    assert styles == [["green", "", "green"], ["red", "", "red"]]


def test_the_number_of_rewards_is_that_of_the_completions() -> None:
    for rewards in ([1.0], [0.0] * 7):
        with pytest.raises(UserError, match=r"--rewards takes 2 to 6 numbers"):
            explain("grpo", rewards)


def test_the_seed_draws() -> None:
    spec = {"name": "s_grpo", "cutoff": 0, "probability": 0.5}
    assert (explain(spec, seed=1).loss.selected != explain(spec, seed=2).loss.selected).any()


def test_on_the_command_line() -> None:
    done = tessera("explain", "tr_grpo", "tau=0.5", "clip_form=ratio", "--rewards", "1,0,0")
    assert done.code == 0, done.err
    assert "token_regulated(alpha=2.0, mu=0.25, lower=1.0, upper=1.4, tau=0.5" in done.out
    assert done.out.count("\nadvantage") + done.out.count("\n advantage") == 3 + 1  # and the piece


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["gropo"], "unknown algorithm 'gropo'"),
        (["grpo", "taus=1"], "unknown key of algorithm grpo 'taus'"),
        (["grpo", "--rewards", "1,x"], "--rewards takes numbers with commas"),
        (["gspo", "selection=random_fraction"], "sums over every token of a completion"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: list[str], says: str) -> None:
    done = tessera("explain", *arguments)
    assert done.code == 2
    assert says in done.err
    assert len(done.err.strip().splitlines()) == 1
