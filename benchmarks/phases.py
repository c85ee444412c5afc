"""A step's seconds by phase, and a process's memory by part, with one process and with two.

    python benchmarks/phases.py --json benchmarks/results/phases.json

Trains a recipe (nano/grpo_multiplication_smollm2, without its evaluations) for some steps, by turns with one process
and two of torchrun, each of one thread. Runs of any number of processes sample the same, so their steps are the same
work. Seconds are medians over the steps of all runs, the first of each left out, and are the first process's. With
--cpu-time phases are in seconds of the processor, which are the same when other work takes turns on it; what is sent is
timed by the clock on the wall. Memory is what tensors take: parts that stay by counting them, an update by every
allocation in that of one more step, which is not timed.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peak import peak
from torch import Tensor

from tessera.assess import memory_plan
from tessera.launch import Prepared, prepare, start
from tessera.policy.parts import local
from tessera.recipe import read_recipe
from tessera.training.context import Observer
from tessera.training.interrupt import Interrupt
from tessera.training.planned import Planned
from tessera.training.ranks import Processes, processes
from tessera.training.rl import RLRunner
from tessera.training.step import Learner, Update

RECIPE, STEPS, RUNS, SIZES = "nano/grpo_multiplication_smollm2", 6, 3, (1, 2)
wall = time.perf_counter
QUIET = ("task.validation_size=1", "task.test_size=1", "evaluation.max_new_tokens=1", "report.groups=0")


class Talk:
    """Seconds and bytes of what the process tells the others, by kind. `waiting` is until the last one has come."""

    def __init__(self) -> None:
        self.spent: Counter[str] = Counter()

    def watch(self) -> None:
        """Measure from now on; without other processes nothing is ever sent."""
        gather, total = Processes.gather, Processes.sum

        def gathered(ranks: Processes, value: Any) -> list[Any]:
            self.spent["gather_bytes"] += len(pickle.dumps(value))
            return self._timed(ranks, "gather", lambda: gather(ranks, value))

        def summed(ranks: Processes, tensors: Iterable[Tensor]) -> None:
            given = list(tensors)
            self.spent["sum_bytes"] += sum(t.numel() * t.element_size() for t in given)
            self._timed(ranks, "sum", lambda: total(ranks, given))

        Processes.gather, Processes.sum = gathered, summed  # type: ignore[method-assign]

    def _timed(self, ranks: Processes, kind: str, send: Callable[[], Any]) -> Any:
        began = wall()
        ranks.any(False)
        there = wall()
        found = send()
        self.spent["waiting"] += there - began
        self.spent[kind] += wall() - there
        return found


class Phases(Observer):
    """Every step by phase. What is said while rollouts are shared is taken out of their time."""

    def __init__(self, talk: Talk) -> None:
        self.talk, self.steps = talk, list[dict[str, float]]()
        self._shared = 0.0
        share = Interrupt.share

        def shared(interrupt: Interrupt, work: Callable[[], Any]) -> list[Any]:
            own = 0.0

            def timed() -> Any:
                nonlocal own
                began = time.perf_counter()
                done = work()
                own = time.perf_counter() - began
                return done

            began = time.perf_counter()
            found = share(interrupt, timed)
            self._shared += time.perf_counter() - began - own
            return found

        Interrupt.share = shared  # type: ignore[method-assign]

    def row(self, row: Mapping[str, Any]) -> None:
        """Keep a step's numbers, and begin the next."""
        if row["kind"] == "rl":
            spent = self.talk.spent
            self.steps.append(
                {
                    "step": row["time/step"],
                    "rollout": row["time/rollout"] - self._shared,
                    **{name: row[f"time/{name}"] for name in ("reward", "sync", "scoring", "backward")},
                    **{name: spent[name] for name in ("waiting", "gather", "sum", "gather_bytes", "sum_bytes")},
                    **{name: row[f"tokens/{name}"] for name in ("generated", "scored", "fed")},
                }
            )
        self.talk.spent.clear()
        self._shared = 0.0


class Memory:
    """Bytes of what stays with a process, and the peak of one step's update above it."""

    def __init__(self, step: int) -> None:
        self.step, self.found = step, dict[str, int]()

    def watch(self) -> None:
        """Measure step number `step`, and count what stays when it has ended."""
        Learner.update = self._measured(Learner.update)  # type: ignore[method-assign]
        step = RLRunner.step

        def counted(runner: RLRunner) -> None:
            step(runner)
            if runner.run.state.stage_step == self.step:
                self._count(runner)

        RLRunner.step = counted  # type: ignore[method-assign]

    def _measured(self, update: Callable[[Learner, Planned], Update]) -> Callable[[Learner, Planned], Update]:
        calls = 0

        def measured(learner: Learner, planned: Planned) -> Update:
            nonlocal calls
            calls += 1
            if calls != self.step:
                return update(learner, planned)
            nodes = [len(m.forest) for m in learner._micro_batches(planned, planned.plan.active_BT)]
            with peak() as seen:
                done = update(learner, planned)
            self.found |= {"update": seen.bytes, "nodes": max(nodes), "microbatches": len(nodes)}
            return done

        return measured

    def _count(self, runner: RLRunner) -> None:
        learning = runner.run.policy.trainable_parameters()
        frozen = [p for p in runner.run.policy.model.parameters() if not p.requires_grad]
        moments = [x for state in runner.optimizer.adamw.state.values() for x in state.values() if torch.is_tensor(x)]
        own = {"weights": frozen, "learns": learning, "gradient": learning, "moments": moments}
        self.found |= {name: sum(local(t).nbytes for t in tensors) for name, tensors in own.items()}


def work(out: Path, overrides: list[str], cpu_time: bool) -> None:
    """One run, in as many processes as there are."""
    torch.set_num_threads(1)
    if cpu_time:
        time.perf_counter = time.process_time  # for the library's own counts
    with TemporaryDirectory() as folder:
        prepared = _prepared([*overrides, f"stages.0.steps={STEPS}"], folder)
        talk, memory = Talk(), Memory(STEPS)
        phases = Phases(talk)
        with processes() as ranks:
            talk.watch()
            memory.watch()
            start(prepared, observers=[phases])
            told = ranks.gather(memory.found)
    if ranks.first:
        out.write_text(json.dumps({"steps": phases.steps[1 : STEPS - 1], "memory": told}))


def _prepared(overrides: list[str], folder: str) -> Prepared:
    return prepare(read_recipe(RECIPE, [*QUIET, "model.device=cpu", *overrides, f"run.dir={folder}/run"]))


def measure(overrides: list[str], cpu_time: bool) -> dict[str, Any]:
    """Runs by turns, and what they come to."""
    found: dict[int, list[dict[str, Any]]] = {size: [] for size in SIZES}
    for number in range(RUNS):
        for size in SIZES:
            found[size].append(_launch(size, overrides, cpu_time))
            steps = found[size][-1]["steps"]
            print(f"run {number}, {size} processes: {_median(steps, 'step'):.2f} s a step", flush=True)
    parts = memory_plan(_prepared(overrides, ".")).parts
    return {
        "recipe": RECIPE,
        "overrides": overrides,
        "clock": "processor" if cpu_time else "wall",
        "torch": torch.__version__,
        "cpus": os.cpu_count(),
        "steps": RUNS * (STEPS - 2),
        "estimate": {part.what: part.bytes for part in parts},
        **{f"{size} processes": _told(runs) for size, runs in found.items()},
    }


def _launch(size: int, overrides: list[str], cpu_time: bool) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(size), "--standalone"]
        command = [*launcher, __file__, "--work", str(out), *(["--cpu-time"] if cpu_time else []), *overrides]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
        found: dict[str, Any] = json.loads(out.read_text())
        return found


def _told(runs: list[dict[str, Any]]) -> dict[str, Any]:
    steps = [step for run in runs for step in run["steps"]]
    return {
        "seconds": {name: _median(steps, name) for name in steps[0]},
        "step_seconds": [step["step"] for step in steps],
        "memory": runs[0]["memory"],
    }


def _median(steps: list[dict[str, float]], name: str) -> float:
    return statistics.median(step[name] for step in steps)


def main() -> None:
    """Measure, print and write; `--work` is for the processes that are started."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cpu-time", action="store_true", help="phases in seconds of the processor")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of the recipe")
    given = parser.parse_args()
    if given.work is not None:
        work(given.work, given.overrides, given.cpu_time)
        return
    found = measure(given.overrides, given.cpu_time)
    print(json.dumps(found, indent=1))
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
