"""Worked episodes to learn the form of a search from: two rows a question, a call, and an answer after its result.

    python examples/search_traces.py data/nq/test.jsonl data/index data/search_traces.jsonl --first 300

The query is the question; a question is kept if one of its answers stands in what the search shows. The result stands
in the prompt of the second row, so that no token of a tool is trained on. With `--direct 0.7` so many of the questions
are answered without a call, in one row: a policy that calls now and then, from which reinforcement can learn when to.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

from tessera.core.types import Problem
from tessera.environments.retrieval.index import open_index
from tessera.environments.search_tool import SearchTool
from tessera.tasks.data import read_jsonl
from tessera.tasks.search_qa import SearchQA
from tessera.tasks.squad import normalised

Row = dict[str, Any]


def asked(problem: Problem) -> Row:
    """The turn that asks."""
    (message,) = problem.prompt
    return {"role": "user", "content": message.content}


def direct(problem: Problem) -> list[Row]:
    """An answer from memory."""
    return [{"prompt": [asked(problem)], "completion": f"<answer>{problem.answer[0]}</answer>"}]


def searched(problem: Problem, query: str, search: SearchTool) -> list[Row]:
    """A call, and the answer that its result holds; nothing where it holds none."""
    shown = search.call({"query": query}, 10)
    known = [answer for answer in problem.answer if normalised(answer) in normalised(shown)]
    call = f"<search>{query}</search>"
    read = {"role": "assistant", "content": f"{call}\n<information>{shown}</information>\n"}
    return [
        {"prompt": [asked(problem)], "completion": call},
        {"prompt": [asked(problem), read], "completion": f"<answer>{known[0]}</answer>"},
    ] if known else []  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", help="JSON Lines with question and answers; rows that are trained on")
    parser.add_argument("index", type=Path, help="made by tessera index")
    parser.add_argument("out", type=Path)
    parser.add_argument("--first", type=int, default=None, help="only so many questions")
    parser.add_argument(
        "--direct", type=float, default=0.0, help="share of the questions that are answered without a call"
    )
    parser.add_argument("--k", type=int, default=1, help="passages that a search shows")
    parser.add_argument("--snippet", type=int, default=400, help="characters of each")
    asks = parser.parse_args()
    search, task, drawn = (
        SearchTool(open_index(asks.index), asks.k, asks.snippet),
        SearchQA(train=asks.questions),
        random.Random(0),
    )
    rows: list[Row] = []
    for row in read_jsonl(asks.questions)[: asks.first]:
        problem = task.problem_of(row)
        rows += direct(problem) if drawn.random() < asks.direct else searched(problem, row.values["question"], search)
    asks.out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"{len(rows)} rows in {asks.out}")


if __name__ == "__main__":
    main()
