"""Worked episodes to learn the form of a search from: two rows a question, a call, and an answer after its result.

    python examples/search_traces.py data/nq/test.jsonl data/index data/search_traces.jsonl --first 300

The query is the question; a question is kept if one of its answers stands in what the search shows. The result stands
in the prompt of the second row, so that no token of a tool is trained on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tessera.environments.retrieval.index import open_index
from tessera.environments.search_tool import SearchTool
from tessera.tasks.data import read_jsonl
from tessera.tasks.search_qa import SearchQA
from tessera.tasks.squad import normalised


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", help="JSON Lines with question and answers; rows that are trained on")
    parser.add_argument("index", type=Path, help="made by tessera index")
    parser.add_argument("out", type=Path)
    parser.add_argument("--first", type=int, default=None, help="only so many questions")
    asks = parser.parse_args()
    search = SearchTool(open_index(asks.index), k=2, snippet=300)
    task = SearchQA(train=asks.questions)
    rows: list[dict[str, object]] = []
    for row in read_jsonl(asks.questions)[: asks.first]:
        problem = task.problem_of(row)
        (asked,) = problem.prompt
        query = row.values["question"]
        shown = search.call({"query": query}, 10)
        known = [answer for answer in problem.answer if normalised(answer) in normalised(shown)]
        if known:
            turn = {"role": "user", "content": asked.content}
            call = f"<search>{query}</search>"
            read = {"role": "assistant", "content": f"{call}\n<information>{shown}</information>\n"}
            rows.append({"prompt": [turn], "completion": call})
            rows.append({"prompt": [turn, read], "completion": f"<answer>{known[0]}</answer>"})
    asks.out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"{len(rows)} rows of {len(rows) // 2} questions in {asks.out}")


if __name__ == "__main__":
    main()
