"""The commands that show what is there: `compare`, `report`, `view`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tessera.core.errors import UserError

if TYPE_CHECKING:
    from tessera.reports.credit import Method

app = typer.Typer()
console = Console()

Run = Annotated[Path, typer.Argument(help="A run folder, finished or not.")]
Algorithms = Annotated[
    str, typer.Option(help="Others, A,B,C: what each makes of the same rollouts stands beside the run's own.")
]
Reach = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Of runs: tell the cost of this accuracy; the highest that all reached."),
]


@app.command()
def compare(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help="Two evaluations; or runs, and folders of sweeps.")
    ],
    reach: Reach = None,
    out: Annotated[Path | None, typer.Option(help="Of runs: the page; compare.html.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare two evaluations on the questions that both asked (McNemar's exact test, the paired bootstrap); or
    training runs by setting and seed: accuracy, paired differences, the cost to reach an accuracy, and curves."""
    from tessera.comparison import are_evaluations

    if not are_evaluations(folders):
        _compare_runs(folders, reach, out or Path("compare.html"), as_json)
    elif reach is not None or out is not None:
        raise UserError("--reach and --out go with training runs, and these are evaluations")
    else:
        _compare_evaluations(folders, as_json)


@app.command()
def report(run: Run, algorithms: Algorithms = "") -> None:
    """Write report.html for a run and say where it is."""
    from tessera.reports.run import RunFolder

    folder = RunFolder.open(run)
    _say(str(folder.write_report(_methods(algorithms))))


@app.command()
def view(
    run: Run,
    algorithms: Algorithms = "",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of this machine; 0: any that is free.")] = 8411,
) -> None:
    """Serve the report on this machine alone while the run trains; new rows appear by themselves. Ctrl-C ends."""
    from tessera.reports.run import RunFolder
    from tessera.reports.serve import LivePage, serve

    serve(LivePage(RunFolder.open(run), _methods(algorithms)), port, _say)


def _compare_evaluations(folders: list[Path], as_json: bool) -> None:
    from tessera.comparison import compare as compared
    from tessera.evaluations_view import comparison_notes, comparison_table

    found = compared(folders[0], folders[1])
    if as_json:
        _say(json.dumps(found, indent=2))
        return
    _show(comparison_table(found))
    for note in comparison_notes(found):
        _say(note)


def _compare_runs(folders: list[Path], reach: float | None, out: Path, as_json: bool) -> None:
    from tessera.comparison_runs import compare_runs, write_page
    from tessera.reports.runs_page import HEAD, cells, notes

    found, settings = compare_runs(folders, reach)
    if as_json:
        _say(json.dumps(found, indent=2))
        return
    table = Table(*HEAD, box=None)
    for row in found["rows"]:
        table.add_row(*map(escape, cells(row)))
    _show(table)
    for note in notes(found):
        _say(note)
    _say(f"page: {write_page(found, settings, out)}")


def _methods(names: str) -> dict[str, Method]:
    """The algorithms of `--algorithms`. They need torch; a page without them does not."""
    if not names:
        return {}
    from tessera.reports.methods import methods

    return methods([name.strip() for name in names.split(",")])


def _say(text: str) -> None:
    """Print text as it is, on lines as long as they are."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _show(table: Table) -> None:
    """Print a table, as wide as it is where no terminal limits it."""
    (console if console.is_terminal else Console(width=1000)).print(table)
