"""What two processes of a run tell each other in a step: bytes and seconds, over gloo on one machine.

    torchrun --nproc_per_node 2 benchmarks/exchange.py --json benchmarks/results/exchange.json

The rollouts are the stored ones of the embedded model, shared by rows; the gradients those of its adapter (rank 16, q
and v of the last third), and of as many numbers as it has weights. Medians of 20 rounds after three.
"""

from __future__ import annotations

import argparse
import json
import pickle
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from workloads import groups, policy

from tessera.training.ranks import Ranks, processes

ROUNDS, WARM = 20, 3


def seconds(work: Callable[[], object], ranks: Ranks) -> float:
    """The median time of `work`, which all processes begin together."""
    took = []
    for _ in range(ROUNDS + WARM):
        ranks.any(False)
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return statistics.median(took[WARM:])


def measure(ranks: Ranks) -> dict[str, Any]:
    """The row of the results."""
    found: dict[str, Any] = {"processes": ranks.size, "torch": torch.__version__}
    for task in ("svamp", "multiplication"):
        rollouts = [replace(r, text="x" * 4 * len(r.ids)) for r in groups(task, 8)[0].rollouts]
        own = [rollouts[i] for i in ranks.mine(len(rollouts))]
        found[task] = {
            "tokens": sum(len(r.ids) for r in rollouts),
            "bytes": len(pickle.dumps(rollouts)),
            "gather_seconds": seconds(lambda own=own: ranks.gather(own), ranks),
        }
    gradients = [torch.ones_like(p) for p in policy().trainable_parameters()]
    found["adapter"] = {
        "numbers": sum(g.numel() for g in gradients),
        "bytes": sum(g.numel() * g.element_size() for g in gradients),
        "sum_seconds": seconds(lambda: ranks.sum(gradients), ranks),
    }
    whole = [torch.ones(sum(p.numel() for p in policy().model.parameters()))]
    found["all weights"] = {
        "numbers": whole[0].numel(),
        "bytes": 4 * whole[0].numel(),
        "sum_seconds": seconds(lambda: ranks.sum(whole), ranks),
    }
    found["nothing"] = {"any_seconds": seconds(lambda: ranks.any(False), ranks)}
    return found


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    where = parser.parse_args().json
    torch.set_num_threads(1)
    with processes() as ranks:
        found = measure(ranks)
        if ranks.first:
            print(json.dumps(found, indent=1))
            if where is not None:
                where.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
