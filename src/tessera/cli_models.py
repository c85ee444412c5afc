"""The commands for what a run has trained: `merge`, `export`, `chat`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()

Source = Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or a model with model.adapter=FOLDER.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Keys of the recipe, such as model.dtype=bfloat16.")
]
Out = Annotated[Path, typer.Option(help="The folder to write.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the model or adapter that is in the folder.")]


@app.command()
def merge(source: Source, overrides: Overrides = None, *, out: Out, force: Force = False) -> None:
    """Write a run's model with its adapter in its weights: safetensors and tokenizer, for any tool."""
    from tessera.merge import merge as merged

    typer.echo(f"model: {merged(source, overrides or [], out, force=force)}")


@app.command()
def export(
    source: Annotated[str, typer.Argument(metavar="RUN", help="A run folder.")],
    overrides: Overrides = None,
    *,
    out: Out,
    merged: Annotated[bool, typer.Option("--merged", help="Whole weights in place of the adapter.")] = False,
    gguf: Annotated[bool, typer.Option("--gguf", help="Also a GGUF file of the merged weights.")] = False,
    push: Annotated[str | None, typer.Option(metavar="OWNER/NAME", help="Upload it to the hub.")] = None,
    public: Annotated[bool, typer.Option("--public", help="With --push: a new repository is public.")] = False,
    force: Force = False,
) -> None:
    """Write what a run has trained in a folder with a model card."""
    from tessera.core.errors import UserError
    from tessera.export import Wanted
    from tessera.export import export as exported

    if public and push is None:
        raise UserError("--public goes with --push, and would do nothing without")
    wanted = Wanted(source, overrides or [], out, merged=merged, gguf=gguf, push=push, public=public, force=force)
    address = exported(wanted)
    typer.echo(f"export: {out}" + ("" if address is None else f"   {address}"))


@app.command()
def chat(
    source: Annotated[str, typer.Argument(metavar="RUN_OR_MODEL", help="A run folder, a model, or a recipe.")],
    overrides: Overrides = None,
    *,
    system: Annotated[str | None, typer.Option(help="The system message.")] = None,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token.")] = 0.7,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The longest answer.")] = 512,
    seed: Annotated[int, typer.Option(help="Of the answers.")] = 0,
) -> None:
    """Talk with a model in the terminal; from a pipe, every line is a question."""
    from tessera.chat import HELP, Chat, Manner, typed
    from tessera.policy.load import load_policy
    from tessera.subject import read_subject

    subject = read_subject(source, overrides or [], asks=False)
    policy = load_policy(subject.model, seed=subject.seed)
    talk = Chat(policy, Manner(temperature, max_new_tokens, seed), _write, subject.chat_template_kwargs)
    if subject.environment is not None:
        typer.echo("note: the recipe's tools are neither introduced nor called in a chat", err=True)
    if system is not None:
        talk.run([f"/system {system}"])
    if sys.stdin.isatty():
        _write(HELP + "\n")
    talk.run(typed() if sys.stdin.isatty() else sys.stdin)


def _write(text: str) -> None:
    print(text, end="", flush=True)
