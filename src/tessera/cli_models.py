"""The commands for what a run has trained: `merge`."""

from __future__ import annotations

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
