"""One process of test_trl_ranks.py: a training step on its half of the rollouts, compared with Tessera's on all."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch


def main(name: str, folder: str) -> None:
    spec = importlib.util.spec_from_file_location("test_trl", Path(__file__).with_name("test_trl.py"))
    shared = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shared)
    torch.set_num_threads(1)
    on = shared.rollouts_of_three()
    # 12 rows in two micro-batches on each of two processes: three rows at a time, and the second group on both.
    made, watch = shared.trainer(on.groups, shared.SPECS[name], Path(folder), gradient_accumulation_steps=2, ranks=2)
    made.train()
    losses, gradients = shared.tessera_updates(on, shared.SPECS[name], 1)
    shared.same(watch.gradients[0], gradients[0])
    total = made.accelerator.gather(torch.tensor([made.losses[0]])).mean().item()  # as TRL reports it
    assert abs(total - losses[0]) <= shared.EXACT * max(1.0, abs(losses[0])), (total, losses[0])
    print("agreed")


if __name__ == "__main__":
    main(*sys.argv[1:])
