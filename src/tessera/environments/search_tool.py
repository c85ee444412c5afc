"""The search tool: a query in, the best passages out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tessera.environments.retrieval.passages import Retriever
from tessera.environments.tool import text_argument, text_parameters


class SearchTool:
    """Shows the `k` best passages for a query, `snippet` characters of each; an empty text where nothing fits."""

    name = "search"
    main = "query"
    description = "Finds passages of an encyclopedia for a query."
    parameters: Mapping[str, Any] = text_parameters("query", "what to look for, in a few words")

    def __init__(self, retriever: Retriever, k: int = 3, snippet: int = 500) -> None:
        self.retriever, self.k, self.snippet = retriever, k, snippet

    def call(self, arguments: Mapping[str, Any], limit: float) -> str:
        """See Tool."""
        (hits,) = self.retriever.search([text_argument(arguments, self.main)], self.k)
        return "\n".join(
            f"[{n}] {hit.passage.title}: {shortened(hit.passage.text, self.snippet)}" for n, hit in enumerate(hits, 1)
        )

    def close(self) -> None:
        """Nothing is open but a mapped file."""


def shortened(text: str, limit: int) -> str:
    """`text` on one line, cut where it is longer than `limit` characters: between words, unless half would be lost."""
    line = " ".join(text.split())
    if len(line) <= limit:
        return line
    whole = line[: limit - 3]
    words = whole.rpartition(" ")[0]
    return (words if 2 * len(words) >= len(whole) else whole) + "..."  # not every script has spaces
