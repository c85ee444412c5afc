"""An index is a folder: passages, and what each retriever keeps of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

from tessera.core.errors import UserError, unknown
from tessera.environments.retrieval import bm25, dense
from tessera.environments.retrieval.bm25 import Bm25
from tessera.environments.retrieval.dense import NO_PROMPTS, Dense, Prompts
from tessera.environments.retrieval.hybrid import Hybrid
from tessera.environments.retrieval.passages import Passage, PassageFile, Progress, Retriever

Kind = Literal["bm25", "dense", "hybrid"]
KINDS: tuple[Kind, ...] = get_args(Kind)
ABOUT = "index.json"


def build(
    folder: Path, passages: Sequence[Passage], model: str | None, progress: Progress, prompts: Prompts = NO_PROMPTS
) -> None:
    """Write an index into `folder`, an empty one; with a `model` of sentence-transformers, a dense one too."""
    PassageFile.write(folder, passages)
    bm25.build(folder, passages)
    if model is not None:
        dense.build(folder, passages, model, progress, prompts)
    with (folder / PassageFile.TEXT).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    about = {"passages": len(passages), "sha256": digest, "dense": model, "prompts": list(prompts)}
    (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def open_index(folder: Path, kind: Kind = "bm25") -> Retriever:
    """A retriever over an index; UserError where there is none, none of this kind, or not all of it."""
    if kind not in KINDS:
        raise unknown("retriever", kind, KINDS)
    if not (folder / ABOUT).is_file():
        raise UserError(f"{folder} is no index; make one with: tessera index CORPUS --out {folder}")
    again = f"tessera index CORPUS --out {folder} --force"
    try:
        if kind != "bm25" and json.loads((folder / ABOUT).read_text(encoding="utf-8"))["dense"] is None:
            raise UserError(f"{folder} has no dense vectors; make them with: {again} --dense MODEL")
        return _open(folder, kind)
    except (OSError, ValueError, LookupError, RuntimeError) as error:  # the last is what faiss raises
        why = " ".join(str(error).split())
        raise UserError(f"the index {folder} is broken ({why:.200}); make it again with: {again}") from None


def _open(folder: Path, kind: Kind) -> Retriever:
    made: dict[Kind, Callable[[], Retriever]] = {
        "bm25": lambda: Bm25(folder),
        "dense": lambda: Dense(folder),
        "hybrid": lambda: Hybrid(Bm25(folder), Dense(folder)),
    }
    return made[kind]()
