"""The command line. What a user got wrong is one line on stderr and exit code 2; a run that stopped itself exits 1."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from tessera.core.errors import RunStopped, TesseraError, UserError

if TYPE_CHECKING:
    from tessera.launch import Prepared

app = typer.Typer(
    help="Token-level credit assignment for RL on language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()
errors = Console(stderr=True)

Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Override keys of the recipe.")]


@app.command()
def train(
    recipe: Annotated[str | None, typer.Argument(help="A recipe file, or the name of a shipped recipe.")] = None,
    overrides: Overrides = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder.")] = None,
) -> None:
    """Train as a recipe says."""
    from tessera.launch import start
    from tessera.progress import ConsoleObserver
    from tessera.training.interrupt import Interrupted

    prepared = _prepared(recipe, overrides or [], resume)
    run_dir = prepared.recipe.run.dir
    console.print(f"run folder {run_dir}", highlight=False, soft_wrap=True)
    with ConsoleObserver(console) as observer:
        try:
            summary = start(prepared, resume=resume is not None, observers=[observer])
        except Interrupted:
            observer.close()
            errors.print(f"stopped and saved; go on with: tessera train --resume {run_dir}", soft_wrap=True)
            raise typer.Exit(130) from None
    _print_summary(summary, Path(run_dir))


@app.command(name="eval")
def evaluate(
    source: Annotated[str, typer.Argument(metavar="RECIPE_OR_RUN", help="A recipe, or a run folder.")],
    overrides: Overrides = None,
    split: Annotated[str, typer.Option(help="test, validation or train")] = "test",
    out: Annotated[Path | None, typer.Option(help="Write result and completions to this JSON file.")] = None,
) -> None:
    """Greedy accuracy of a run's final adapter, or of a recipe's model as it is, on held-out problems."""
    from tessera.assess import assess

    result = assess(source, overrides or [], split)
    low, high = result["ci"]
    console.print(
        f"{result['model']} on {result['task']} {split}: {result['value']:.1%} "
        f"(95 % interval {low:.1%} to {high:.1%}, n = {result['n']})",
        highlight=False,
        soft_wrap=True,
    )
    if out is not None:
        import json

        from tessera.reports.files import atomic_write, stops_run

        with stops_run(out):
            atomic_write(out, json.dumps(result, indent=2, ensure_ascii=False) + "\n")


@app.command()
def check(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped recipe.")],
    overrides: Overrides = None,
) -> None:
    """Say what a recipe will run, its sizes, and an estimate of the memory it needs. Loads no weights."""
    from tessera.assess import memory_plan

    prepared = _prepared(recipe, overrides or [], None)
    console.print(prepared.recipe.text(), markup=False, highlight=False, end="")
    for stage, algorithm in zip(prepared.recipe.stages, prepared.algorithms, strict=True):
        if algorithm is not None:
            console.print(f"\nstage {stage.name} composes {algorithm.name}:\n{algorithm.describe()}", highlight=False)
    task = prepared.task
    console.print(f"\n{len(task.train)} train, {len(task.validation)} validation, {len(task.test)} test problems\n")
    table = Table("memory", "estimate", "formula", box=None)
    for part in memory_plan(prepared):
        table.add_row(part.what, f"{part.bytes / 2**20:,.0f} MiB", part.formula)
    console.print(table)


@app.command()
def tasks(
    name: Annotated[str | None, typer.Argument(help="A task's name, or path.py:Class.")] = None,
    options: Overrides = None,
    validate: Annotated[bool, typer.Option("--validate", help="Check the rewards of the task (or of all).")] = False,
) -> None:
    """List the tasks and their options, or check that a task's reward grades what it should."""
    from tessera.tasks.registry import list_tasks

    if validate:
        _validate_tasks(name, options or [])
        return
    for task in list_tasks():
        if name in (None, task.name):
            console.print(f"[bold]{task.name}[/]  {task.summary}")
            for option in task.options:
                default = "required" if option.default is None else option.default
                console.print(f"    {option.name} = {default!s}  {option.description}", markup=False, highlight=False)


@app.command()
def models() -> None:
    """List the models that come with the package and the kinds of names that are accepted."""
    from tessera.policy.load import list_models

    table = Table("name", "source", "state", "description", box=None)
    for entry in list_models():
        table.add_row(entry.name, entry.source, entry.state, entry.description)
    console.print(table)


@app.command()
def recipes() -> None:
    """List the shipped recipes."""
    from tessera.recipe import shipped_recipes

    for name in shipped_recipes():
        console.print(name, highlight=False)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="A run folder, finished or not.")]) -> None:
    """Write report.html for a run and say where it is."""
    from tessera.reports.run import RunFolder

    console.print(str(RunFolder.open(run).write_report()), highlight=False, soft_wrap=True)


def main() -> None:
    """The `tessera` command."""
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING, stream=sys.stderr)
    try:
        app()
    except UserError as error:
        errors.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    except RunStopped as error:
        errors.print(f"run stopped: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    except TesseraError as error:
        errors.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)


def _prepared(source: str | None, overrides: list[str], resume: Path | None) -> Prepared:
    from tessera.launch import prepare
    from tessera.recipe import read_recipe

    if source is not None and resume is not None and "=" in source and not Path(source).exists():
        source, overrides = None, [source, *overrides]
    if resume is not None:
        if not resume.is_dir():
            raise UserError(f"--resume {resume}: there is no such run folder")
        source = source or str(resume / "recipe.yaml")
        overrides = [*overrides, f"run.dir={resume}"]
    if source is None:
        raise UserError("give a recipe: a file, or a name that `tessera recipes` lists")
    recipe, folder = read_recipe(source, overrides)
    return prepare(recipe, folder)


def _validate_tasks(name: str | None, options: list[str]) -> None:
    import yaml

    from tessera.tasks.registry import TASKS, load_task
    from tessera.tasks.validate import validate_task

    given: dict[str, Any] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise UserError(f"option {option!r} must be key=value")
        given[key] = yaml.safe_load(value)
    chosen = [name] if name else [n for n, task in TASKS.items() if not _required(task)]
    sound = True
    for task in chosen:
        found = validate_task(load_task({"name": task, **given}))
        sound = sound and found.ok
        console.print(f"{task}\n{found}", markup=False, highlight=False)
    for left in sorted(set(TASKS) - set(chosen)) if name is None else ():
        console.print(f"{left}\n-     needs options: tessera tasks {left} KEY=VALUE --validate", highlight=False)
    if not sound:
        raise typer.Exit(1)


def _required(task: Any) -> bool:
    return any(field.is_required() for field in task.model_fields.values())


def _print_summary(summary: dict[str, Any], folder: Path) -> None:
    table = Table("accuracy", "", "95 % interval", "n", box=None)
    for label, found in summary["accuracy"].items():
        low, high = found["ci"]
        table.add_row(label, f"{found['value']:.1%}", f"{low:.1%} to {high:.1%}", str(found["n"]))
    if summary["accuracy"]:
        console.print(table)
    gain = summary["gain"]
    if gain:
        low, high = gain["ci"]
        console.print(
            f"{gain['from']} -> {gain['to']}: {100 * gain['difference']:+.1f} points "
            f"(95 % paired interval {100 * low:+.1f} to {100 * high:+.1f})",
            highlight=False,
        )
    per_example = summary["tokens"]["contributing_per_example"]
    if per_example is not None:
        console.print(f"{per_example:.1f} contributing tokens an example", highlight=False)
    console.print(f"report: {folder / 'report.html'}   adapter: {folder / 'adapter'}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
