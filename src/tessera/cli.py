"""The command line. What a user got wrong is one line on stderr and exit code 2; a run that stopped itself exits 1."""

from __future__ import annotations

import json
import logging
import sys
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.table import Table

from tessera import cli_models, cli_reports
from tessera.core.errors import RunStopped, TesseraError, UserError, unknown
from tessera.core.launcher import place

if TYPE_CHECKING:
    from tessera.launch import Prepared

app = typer.Typer(
    help="Token-level credit assignment for RL on language models.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(cli_models.app)
app.add_typer(cli_reports.app)
tools = typer.Typer(help="Tools that models call.", no_args_is_help=True)
app.add_typer(tools, name="tools")
console = Console()

USER_ERROR, STOPPED, INTERRUPTED = 2, 1, 130
_UsageError: Any = typer.BadParameter.__base__  # typer carries click inside or depends on it, by version


class WarningLines(logging.Handler):
    """Log records as lines on stderr, above the bar where there is one (which takes stderr's place)."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print `record`; of several processes the first speaks for all."""
        if place().rank == 0 or record.levelno > logging.WARNING:
            print(f"{record.levelname.lower()}: {record.getMessage()}", file=sys.stderr)


Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Override keys of the recipe.")]


@app.callback(invoke_without_command=True)
def tessera(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Token-level credit assignment for RL on language models."""
    from tessera import __version__

    if version:
        _say(__version__)
    elif context.invoked_subcommand is None:
        _say(context.get_help())
    elif context.invoked_subcommand != "train" and place().size > 1:
        raise UserError(f"{context.invoked_subcommand} runs in one process: start it without a launcher")


@app.command()
def train(
    recipe: Annotated[str | None, typer.Argument(help="A recipe file, or the name of a shipped recipe.")] = None,
    overrides: Overrides = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Delete the run that is in the folder.")] = False,
) -> None:
    """Train as a recipe says."""
    from tessera.launch import start
    from tessera.progress import ConsoleObserver
    from tessera.training.interrupt import Interrupted

    if resume is not None and force:
        raise UserError("--resume goes on with a run, --force deletes it: give one of them")
    prepared = _prepared(recipe, overrides or [], resume)
    folder = Path(prepared.recipe.run.dir)
    first = place().rank == 0
    try:
        with ConsoleObserver(console) if first else nullcontext() as observer:
            observers = [observer] if observer else []
            summary = start(prepared, resume=resume is not None, observers=observers, force=force)
    except Interrupted:
        if first:
            _complain(f"stopped and saved; go on with: tessera train --resume {folder}")
        raise typer.Exit(INTERRUPTED) from None
    if first:
        _print_summary(summary, folder)


@app.command()
def sweep(
    source: Annotated[str, typer.Argument(metavar="SWEEP_OR_RECIPE", help="A sweep file, or a recipe to vary.")],
    vary: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=A,B,C]... [seeds=N]", help="Axes of the grid, and seeds.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where the runs are kept; runs/sweeps/NAME.")] = None,
    only_table: Annotated[bool, typer.Option("--table", help="Run nothing; show what is there.")] = False,
) -> None:
    """Train a grid of settings and seeds, and compare them in one table. The same command goes on with what is left."""
    from tessera.sweep import read_sweep, run_sweep, table, write_table

    grid = read_sweep(source, vary or [])
    folder = out or Path("runs") / "sweeps" / Path(source).stem
    code = 0 if only_table else run_sweep(grid, folder, _say)
    _say(write_table(table(grid, folder), folder))
    if code:
        _complain("stopped and saved; the same command goes on")
        raise typer.Exit(code)


@app.command(name="eval")
def evaluate(
    source: Annotated[
        str, typer.Argument(metavar="MODEL_OR_RUN_OR_RECIPE", help="A model, a run folder, or a recipe.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="task.name=NAME, and other keys of a recipe.")
    ] = None,
    *,
    suite: Annotated[str | None, typer.Option(help="Evaluate a suite of sets: `tessera suites` lists them.")] = None,
    data: Annotated[Path, typer.Option(help="Where a suite's files lie: NAME/test.jsonl or .jsonl.gz.")] = Path("data"),
    split: Annotated[str | None, typer.Option(help="Of the task: test (default), validation or train.")] = None,
    samples: Annotated[int | None, typer.Option(help="Attempts at each question.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 takes the likeliest token.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="The longest completion.")] = None,
    first: Annotated[int | None, typer.Option(help="Ask the first so many questions of each set.")] = None,
    at_once: Annotated[int, typer.Option(min=1, help="Completions sampled, and then kept, at a time.")] = 32,
    out: Annotated[Path | None, typer.Option(help="Folder of the evaluation; runs/evaluations/NAME.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Delete the evaluation that is in the folder.")] = False,
) -> None:
    """Evaluate a model, a run's final adapter or a recipe's model as it is. The same command goes on after a stop."""
    from tessera.evaluations import Wanted, run_evaluation
    from tessera.evaluations_view import ProgressLines, result_table
    from tessera.reports.evaluations_page import title

    wanted = Wanted(
        source, overrides or [], suite=suite, data=data, split=split, samples=samples, temperature=temperature,
        max_new_tokens=max_new_tokens, first=first, at_once=at_once, out=out, force=force,
    )  # fmt: skip
    folder, result, _ = run_evaluation(wanted, ProgressLines(_say))
    _say(title(result))
    _show(result_table(result))
    for line in result["skipped"]:
        _complain(f"not asked: {line}")
    _say(f"evaluation: {folder}")


@app.command()
def suites() -> None:
    """List the suites of `tessera eval --suite`, with the sets of each and how they are asked."""
    from tessera.evaluation.suites import SUITES

    for name, suite in SUITES.items():
        _say(f"{name}  {suite.summary}")
        for part in suite.parts:
            _say(f"    {part.name}: {part.samples} x, temperature {part.temperature:g}, {part.max_new_tokens} tokens")


@app.command()
def check(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped recipe.")],
    overrides: Overrides = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Processes that share the run, one a device: the memory is that of each.")
    ] = 1,
) -> None:
    """Say what a recipe will run, its sizes, and an estimate of the memory it needs. Loads no weights."""
    from tessera.assess import memory_plan

    prepared = _prepared(recipe, overrides or [], None)
    plan = memory_plan(prepared, processes)
    _say(prepared.recipe.text())
    for stage, algorithm in zip(prepared.stages, prepared.algorithms, strict=True):
        if algorithm is not None:
            _say(f"stage {stage.name} composes {algorithm.name}:\n{algorithm.describe()}\n")
    task = prepared.task
    _say(f"{len(task.train)} train, {len(task.validation)} validation, {len(task.test)} test problems\n")
    _say(f"memory{' of each process' if processes > 1 else ''} where it is most needed, {plan.phase}:")
    table = Table("what", "estimate", "formula", box=None)
    for part in plan.parts:
        table.add_row(part.what, f"{part.bytes / 2**20:,.1f} MiB", part.formula)
    _show(table)


@app.command()
def tasks(
    name: Annotated[str | None, typer.Argument(help="A task's name; with --validate also path.py:Class.")] = None,
    options: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="With --validate: the task's options.")
    ] = None,
    validate: Annotated[bool, typer.Option("--validate", help="Check the rewards of the task (or of all).")] = False,
    data: Annotated[
        Path | None, typer.Option(help="With --validate and no name: also every row of the files NAME/*.jsonl in it.")
    ] = None,
    rows: Annotated[int | None, typer.Option(help="With --data: the first so many rows of each file.")] = None,
) -> None:
    """List the tasks and their options, or check that a task's reward grades what it should."""
    if (data is not None and (name is not None or not validate)) or (rows is not None and data is None):
        raise UserError("--data goes with --validate and without a task's name, --rows with --data")
    if validate:
        _validate_tasks(name, options or [], data, rows)
    elif options:
        raise UserError(f"options ({', '.join(options)}) go with --validate")
    else:
        _list_tasks(name)


@app.command()
def models() -> None:
    """List the models that come with the package and the kinds of names that are accepted."""
    from tessera.policy.load import list_models

    table = Table("name", "source", "state", "description", box=None)
    for entry in list_models():
        table.add_row(entry.name, entry.source, entry.state, entry.description)
    _show(table)


@app.command()
def recipes() -> None:
    """List the shipped recipes."""
    from tessera.recipe import headline, shipped_recipes, shipped_sweeps

    shipped = shipped_recipes()
    for name, path in shipped.items():
        _say(f"{name:<{max(map(len, shipped))}}  {headline(path)}")
    for name, path in shipped_sweeps().items():
        _say(f"{name:<{max(map(len, shipped))}}  {headline(path)} (tessera sweep)")


@app.command()
def explain(
    source: Annotated[str, typer.Argument(metavar="ALGORITHM", help="An algorithm's name, or a recipe.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Keys of the algorithm, or of the recipe.")
    ] = None,
    rewards: Annotated[str, typer.Option(help="A reward for each completion shown, up to six.")] = "1,0,0,1",
    seed: Annotated[int, typer.Option(help="Of random selections and weights.")] = 0,
    old_shift: Annotated[
        float, typer.Option(help="How far the policy has moved since it sampled: 0 not at all, 2 twice as far.")
    ] = 1.0,
) -> None:
    """Show what an algorithm is composed of, and what it does to every token of a small made-up group."""
    from tessera.explain import explain_source, read_rewards
    from tessera.explain_view import render

    for found in explain_source(source, overrides or [], rewards=read_rewards(rewards), seed=seed, old_shift=old_shift):
        _show(render(found))


@app.command()
def index(
    corpus: Annotated[str, typer.Argument(help="JSON Lines or Parquet with id, text and, if there is one, title.")],
    out: Annotated[Path, typer.Option(help="The folder of the index.")] = Path("index"),
    dense: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Embed with this sentence-transformers model too.")
    ] = None,
    query_prompt: Annotated[str, typer.Option(help="With --dense: put before queries, as in 'query: ' for E5.")] = "",
    passage_prompt: Annotated[str, typer.Option(help="With --dense: put before passages: 'passage: ' for E5.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace the index that is there.")] = False,
) -> None:
    """Index passages for the search tool: BM25, and dense vectors with a model."""
    from tessera.environments.retrieval.dense import Prompts
    from tessera.tooling import embedding_lines, make_index

    prompts = Prompts(query_prompt, passage_prompt)
    count = make_index(corpus, out, dense, force, embedding_lines(_say), prompts)
    _say(f"{count} passages in {out}")


@tools.command()
def serve(
    named: Annotated[
        list[str],
        typer.Argument(
            metavar="TOOL[.KEY=VALUE]...", help="search.index=DIR, python, sql.database=FILE; as in a recipe."
        ),
    ],
    http: Annotated[bool, typer.Option("--http", help="Streamable HTTP; standard input and output otherwise.")] = False,
    host: Annotated[str, typer.Option(help="Where HTTP is served.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Of HTTP.")] = 8377,
    token_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="The variable with the token that HTTP callers need.")
    ] = None,
) -> None:
    """Serve tools over the Model Context Protocol."""
    from tessera import __version__
    from tessera.tooling import Address, serve_tools

    serve_tools(named, Address(host, port, token_env) if http else None, __version__, _say)


def main() -> None:
    """The `tessera` command."""
    logging.basicConfig(level=logging.WARNING, handlers=[WarningLines()])
    # It tells of a kernel that it would rather have, at every start, whether or not anything is in few bits.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    sys.exit(_exit_code())


def _exit_code() -> int:
    try:
        return int(app(standalone_mode=False) or 0)
    except (UserError, _UsageError) as error:
        text = error.format_message() if isinstance(error, _UsageError) else str(error)
        _complain(f"error: {text}")
        return USER_ERROR
    except RunStopped as error:
        _complain(f"run stopped: {error}")
        return STOPPED
    except TesseraError as error:
        _complain(f"error: {error}")
        return STOPPED
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED


def _prepared(source: str | None, overrides: list[str], resume: Path | None) -> Prepared:
    from tessera.launch import prepare
    from tessera.recipe import read_recipe

    if resume is not None:
        if source and "=" in source and not Path(source).is_file():  # no recipe, and the first override in its place
            overrides, source = [source, *overrides], None
        follows = source is not None and place().rank > 0  # the first process has the folder, maybe it alone
        if not (resume / "recipe.yaml").is_file() and not follows:
            raise UserError(f"--resume {resume}: there is no run in this folder")
        source = source or str(resume / "recipe.yaml")
        overrides = [*overrides, f"run.dir={json.dumps(str(resume))}"]
    if source is None:
        raise UserError("give a recipe: a file, or a name that `tessera recipes` lists")
    return prepare(read_recipe(source, overrides))


def _list_tasks(name: str | None) -> None:
    from tessera.tasks.registry import TASKS, list_tasks

    name = name and name.partition(":")[0]  # reasoning_gym:NAME has the options of reasoning_gym
    if name is not None and name not in TASKS:
        raise unknown("task", name, TASKS)
    for task in list_tasks():
        if name in (None, task.name):
            _say(f"{task.name}  {task.summary}")
            for option in task.options:
                default = "required" if option.default is None else option.default
                _say(f"    {option.name} = {default}  {option.description}")


def _validate_tasks(name: str | None, options: list[str], data: Path | None, rows: int | None) -> None:
    from tessera.recipe import apply_overrides
    from tessera.tasks.examples import example, missing
    from tessera.tasks.registry import TASKS, load_task
    from tessera.tasks.validate import validate_task
    from tessera.tasks.validate_data import validate_data

    files = () if data is None else validate_data(data, rows)  # what is wrong with the folder is said first
    sound = True
    with TemporaryDirectory() as folder:
        made = [example(task, Path(folder)) for task in sorted(TASKS)] if name is None else [{"name": name}]
        for spec in made:
            if name is None and (package := missing(spec["name"])):
                _say(f"{spec['name']}\n-     needs the package {package}")
                continue
            found = validate_task(load_task(apply_overrides(spec, options)))
            sound = sound and found.ok
            _say(f"{spec['name']}\n{found}")
    for report in files:
        sound = sound and report.ok
        _say(str(report))
    if not sound:
        raise typer.Exit(1)


def _print_summary(summary: dict[str, Any], folder: Path) -> None:
    table = Table("accuracy", "", "95 % interval", "n", box=None)
    for label, whole in summary["accuracy"].items():
        for name, found in {label: whole, **{f"  {part}": own for part, own in whole.get("parts", {}).items()}}.items():
            low, high = found["ci"]
            table.add_row(name, f"{found['value']:.1%}", f"{low:.1%} to {high:.1%}", str(found["n"]))
    if summary["accuracy"]:
        _show(table)
    if gain := summary["gain"]:
        paired = (
            " (95 % paired interval {:+.1f} to {:+.1f})".format(*(100 * b for b in gain["ci"])) if gain["ci"] else ""
        )
        _say(f"{gain['from']} -> {gain['to']}: {100 * gain['difference']:+.1f} points{paired}")
    per_example = summary["tokens"]["contributing_per_example"]
    if per_example is not None:
        _say(f"{per_example:.1f} contributing tokens an example")
    kept = "model" if (folder / "model").is_dir() else "adapter"
    _say(f"report: {folder / 'report.html'}   {kept}: {folder / kept}")


def _say(text: str) -> None:
    """Print text as it is, on lines as long as they are."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _show(shown: RenderableType) -> None:
    """Print a table or the like, as wide as it is where no terminal limits it."""
    (console if console.is_terminal else Console(width=1000)).print(shown)


def _complain(text: str) -> None:
    rank, size, _ = place()
    print(f"process {rank} of {size}: {text}" if size > 1 else text, file=sys.stderr)


if __name__ == "__main__":
    main()
