"""The prefix trie of a recorded group as the page draws it: a branch is a run of tokens that no completion leaves."""

from __future__ import annotations

from typing import Any

from tessera.core.trie import ROOT, Trie, build_trie
from tessera.reports.summary import Row
from tessera.reports.text import visible

LONGEST = 28  # characters of a branch's text


def branches(row: Row) -> list[list[Any]]:
    """Parents first, [parent, text, tokens, completions, mean reward, advantage of its first token, and one completion
    that takes it with the place of that token]; the first is the prompt, without parent (-1)."""
    rollouts = row["rollouts"]
    trie = build_trie([rollout["ids"] for rollout in rollouts], [rollout["reward"] for rollout in rollouts])
    found: list[list[Any]] = [[-1, "", 0, len(rollouts), _mean(trie, ROOT), 0.0, 0, -1]]
    at: dict[int, int] = {}  # by the node that a branch begins with
    for i, path in enumerate(trie.paths):
        branch = 0
        for t, node in enumerate(path):
            if trie.count[node] == trie.count[trie.parent[node]] and branch:
                continue  # every completion goes on: the same branch
            if node not in at:
                at[node] = len(found)
                length = _length(trie, path, t)
                text = visible("".join(rollouts[i]["texts"][t : t + length])[: LONGEST + 1])
                advantage = float(f"{trie.advantage(node):.4g}")
                found.append([branch, cut_short(text), length, trie.count[node], _mean(trie, node), advantage, i, t])
            branch = at[node]
    return found


def cut_short(text: str) -> str:
    """The beginning of a text, on one line."""
    line = text.replace("\n", "↵").replace("\t", "⇥")
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def _length(trie: Trie, path: tuple[int, ...], begin: int) -> int:
    """Tokens from `begin` that every completion there shares."""
    end = begin + 1
    while end < len(path) and trie.count[path[end]] == trie.count[path[begin]]:
        end += 1
    return end - begin


def _mean(trie: Trie, node: int) -> float:
    return float(f"{trie.total[node] / (trie.count[node] * trie.denominator):.4g}")
