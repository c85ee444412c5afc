from collections.abc import Sequence

import pytest

from tessera.environments.retrieval.passages import Hit, Passage
from tessera.environments.search_tool import SearchTool, shortened
from tessera.environments.tool import Tool, ToolFailed


class Two:
    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        hits = [Hit(Passage("a", "Ant", "An ant is\n an insect."), 2.0), Hit(Passage("b", "Bee", "b " * 400), 1.0)]
        return [hits[:k] if "insect" in query else [] for query in queries]


def test_titles_and_snippets_on_a_line_each() -> None:
    tool = SearchTool(Two(), k=2, snippet=20)
    assert isinstance(tool, Tool)
    assert tool.call({"query": "insect"}, 1) == "[1] Ant: An ant is an insect.\n[2] Bee: b b b b b b b b..."
    assert SearchTool(Two(), k=1).call({"query": "insect"}, 1) == "[1] Ant: An ant is an insect."
    assert tool.call({"query": "whale"}, 1) == ""
    with pytest.raises(ToolFailed):
        tool.call({"q": "insect"}, 1)


def test_cut_between_words() -> None:
    assert shortened("one two three", 13) == "one two three"
    assert shortened("one two three", 12) == "one two..."
    assert (
        shortened("\N{CJK UNIFIED IDEOGRAPH-6771}" * 30, 12) == "\N{CJK UNIFIED IDEOGRAPH-6771}" * 9 + "..."
    )  # no space
    assert shortened("A " + "b" * 30, 12) == "A bbbbbbb..."  # rather than "A..."
