"""Dense vectors of a sentence-transformers model, in a FAISS index of inner products."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tessera.core.errors import UserError
from tessera.environments.retrieval.passages import Hit, Passage, PassageFile, Progress

FOLDER = "dense"
BATCH = 64


class Prompts(NamedTuple):
    """What stands before a query and a passage when it is embedded; without, what the model itself names, if anything.

    Some models are trained with such words and say so in their card alone: E5's are `query: ` and `passage: `.
    """

    query: str = ""
    passage: str = ""


NO_PROMPTS = Prompts()


def build(
    folder: Path, passages: Sequence[Passage], model: str, progress: Progress, prompts: Prompts = NO_PROMPTS
) -> None:
    """Embed `passages` with `model` and write the index into `folder`, by length, so that little is padded."""
    import numpy as np

    faiss, encoder = _package(), _encoder(model, prompts)
    texts = [f"{passage.title}\n{passage.text}" for passage in passages]
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    vectors = np.empty((len(texts), encoder.get_embedding_dimension()), dtype=np.float32)
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        vectors[rows] = encoder.encode_document([texts[i] for i in rows], batch_size=BATCH, normalize_embeddings=True)
        progress(start + len(rows), len(order))
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    (folder / FOLDER).mkdir()
    faiss.write_index(index, str(folder / FOLDER / "index.faiss"))
    named = str(Path(model).resolve()) if Path(model).is_dir() else model  # it is searched from anywhere
    (folder / FOLDER / "model.json").write_text(
        json.dumps({"model": named, **prompts._asdict()}) + "\n", encoding="utf-8"
    )


class Dense:
    """Searches the index in `folder`, with the model that made it."""

    def __init__(self, folder: Path) -> None:
        faiss = _package()
        self.passages = PassageFile(folder)
        self.index = faiss.read_index(str(folder / FOLDER / "index.faiss"), faiss.IO_FLAG_MMAP)
        about = json.loads((folder / FOLDER / "model.json").read_text(encoding="utf-8"))
        self.encoder = _encoder(about["model"], Prompts(about.get("query", ""), about.get("passage", "")))
        self._lock = threading.Lock()  # a tokenizer serves one thread at a time

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """See Retriever."""
        return [[Hit(self.passages[place], score) for place, score in found] for found in self.places(queries, k)]

    def places(self, queries: Sequence[str], k: int) -> list[list[tuple[int, float]]]:
        """Positions and scores, the best first."""
        with self._lock:
            asked = self.encoder.encode_query(list(queries), normalize_embeddings=True)
        scores, places = self.index.search(asked, min(k, len(self.passages)))
        rows = zip(places.tolist(), scores.tolist(), strict=True)
        return [[(place, score) for place, score in zip(*row, strict=True) if place >= 0] for row in rows]


def _encoder(model: str, prompts: Prompts = NO_PROMPTS) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise UserError("dense retrieval needs sentence-transformers: pip install 'tessera-rl[dense]'") from None
    try:
        named = {"query": prompts.query, "document": prompts.passage} if any(prompts) else None
        return SentenceTransformer(_path(model), prompts=named)
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())
        raise UserError(f"{model} is no sentence-transformers model that can be loaded: {why}") from None


def _path(model: str) -> str:
    """Where a model lies that a Python package ships (`package:NAME`), else its name or path as given."""
    kind, _, package = model.partition(":")
    if kind != "package":
        return model
    from importlib.util import find_spec

    spec = find_spec(package.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise UserError(f"no package {package} is installed, whose model is to embed")
    return str(Path(spec.origin).parent / "model")


def _package() -> Any:
    try:
        import faiss
    except ImportError:
        raise UserError("dense retrieval needs faiss: pip install 'tessera-rl[dense]'") from None
    return faiss
