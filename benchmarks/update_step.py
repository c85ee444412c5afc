"""An update's time and memory against TRL's GRPOTrainer, on the same rollouts.

    python benchmarks/update_step.py --json benchmarks/results/update_step.json

Both sides run as processes of their own that take turns, a run of one and then a run of the other, on the embedded
SmolLM2-135M with rank-16 adapters on q and v of the last third. TRL's settings are tried once each (every batch size
that divides the group, without gradient checkpointing and with; on groups of 50 with, only if it was faster on 8 of
the same workload); the fastest is the one that is compared, in time and in memory. `ratios` are with the frozen
layers' output kept from sampling, `ratios_from_ids` without.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from pathlib import Path
from typing import Any

import torch
from sides import Side
from workloads import MODELS

RUNS = 5
# Our settings: larger micro-batches would be a few per cent faster still, and need more memory.
COMPUTE: dict[str, dict[str, Any]] = {
    "grpo": {"tokens_per_microbatch": 768},
    "s_grpo": {"tokens_per_microbatch": 640},
    "t_spmo": {"tokens_per_microbatch": 512, "gradient_checkpointing": True},
}
BATCHES = {8: (1, 2, 4, 8), 50: (1, 2, 5, 10, 50)}  # those of 4 and 8 do not divide 50
METHODS = {8: ("grpo", "s_grpo"), 50: ("t_spmo",)}
MIB = 2**20


def best_setting(
    model: str, workload: str, size: int, ways: tuple[bool, ...]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Every setting of TRL with the seconds of one update, and the fastest."""
    tried = []
    for checkpointing in ways:
        for batch in BATCHES[size]:
            side = trl(model, workload, size, batch, checkpointing)
            seconds = side.ask(group=0, memory=False)["seconds"]
            side.close()
            tried.append({"batch": batch, "checkpointing": checkpointing, "seconds": seconds})
            print(f"{workload} {size}: TRL batch {batch}, checkpointing {checkpointing}: {seconds:.2f} s", flush=True)
    return tried, min(tried, key=lambda setting: setting["seconds"])


def trl(model: str, workload: str, size: int, batch: int, checkpointing: bool) -> Side:
    """A process of TRL."""
    return Side("trl_side.py", model, workload, str(size), str(batch), *(["--checkpointing"] if checkpointing else []))


def compare(model: str, workload: str, size: int, ours: Side, ways: tuple[bool, ...]) -> dict[str, Any]:
    """Seconds and bytes of both sides; every run is of one group, and each side sees the same groups."""
    tried, best = best_setting(model, workload, size, ways)
    setting = (best["batch"], best["checkpointing"])
    theirs = trl(model, workload, size, *setting)
    wishes = [(method, trunk) for method in METHODS[size] for trunk in (True, False)]
    count = {8: 6, 50: 2}[size]
    seconds: dict[str, list[float]] = {"trl": []}
    seen: dict[str, Any] = {}
    for run in range(RUNS + 1):  # the first warms up
        group = run % count
        found = {"trl": theirs.ask(group=group, memory=False)}
        for method, trunk in wishes:
            wish = {"workload": workload, "size": size, "group": group, "method": method, "trunk": trunk}
            name = method if trunk else f"{method} from ids"
            found[name] = ours.ask(do="update", **wish, compute=COMPUTE[method], memory=False)
        if run:
            for name, answer in found.items():
                seconds.setdefault(name, []).append(answer["seconds"])
            seen = {name: answer for name, answer in found.items() if name != "trl"}
        print(f"{workload} {size}: " + ", ".join(f"{k} {v['seconds']:.2f} s" for k, v in found.items()), flush=True)
    theirs.close()
    theirs = trl(model, workload, size, *setting)
    memory = {"trl": theirs.ask(group=0, memory=True)}
    theirs.close()
    for method, trunk in wishes:
        fresh = Side("tessera_side.py", model)
        wish = {"workload": workload, "size": size, "group": 0, "method": method, "trunk": trunk}
        name = method if trunk else f"{method} from ids"
        memory[name] = fresh.ask(do="update", **wish, compute=COMPUTE[method], memory=True)
        fresh.close()
    print(f"{workload} {size}: " + ", ".join(f"{k} {v['bytes'] / MIB:.0f} MiB" for k, v in memory.items()), flush=True)
    return {"settings": tried, "best": best, "seconds": seconds, "memory": memory, "positions": seen}


def machine() -> str:
    """The device, in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{os.cpu_count()} cores, {names[0].partition(': ')[2] if names else platform.machine()}"


def outcome(model: str, found: dict[str, Any]) -> dict[str, Any]:
    """What the file holds of the runs so far."""
    return {
        "ratios": ratios(found, ""),
        "ratios_from_ids": ratios(found, " from ids"),
        "model": model,
        "machine": machine(),
        "torch": torch.__version__,
        "runs": found,
    }


def write(path: Path, result: dict[str, Any]) -> None:
    """Write the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def kept(path: Path, model: str) -> dict[str, Any]:
    """The runs that a file holds; it has to be of the same model, machine and torch."""
    known = json.loads(path.read_text(encoding="utf-8"))
    here = {"model": model, "machine": machine(), "torch": torch.__version__}
    if {name: known[name] for name in here} != here:
        raise SystemExit(f"{path} is not of {here}")
    runs: dict[str, Any] = known["runs"]
    return runs


def ratios(found: dict[str, Any], suffix: str) -> dict[str, Any]:
    """{workload: {method: {time: TRL / ours, memory: ours / TRL}}}."""
    table: dict[str, Any] = {}
    for workload, sizes in found.items():
        table[workload] = {}
        for size, methods in METHODS.items():
            if str(size) not in sizes:
                continue
            of = sizes[str(size)]
            theirs = statistics.median(of["seconds"]["trl"])
            for method in methods:
                own = statistics.median(of["seconds"][method + suffix])
                bytes_ = of["memory"][method + suffix]["bytes"] / of["memory"]["trl"]["bytes"]
                table[workload][method] = {"time": round(theirs / own, 2), "memory": round(bytes_, 3)}
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="where the result goes")
    parser.add_argument("--model", choices=MODELS, default=MODELS[0])
    parser.add_argument("--workloads", nargs="+", default=["svamp", "multiplication"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[8, 50], help="group sizes")
    parser.add_argument("--go-on", action="store_true", help="measure what the file lacks, on the same machine")
    asks = parser.parse_args()
    ours = Side("tessera_side.py", asks.model)
    found = kept(asks.json, asks.model) if asks.go_on else {}
    for size in asks.sizes:
        for workload in asks.workloads:
            known = found.setdefault(workload, {})
            if str(size) in known:
                continue
            without = [run["best"]["checkpointing"] is False for run in known.values()]
            known[str(size)] = compare(asks.model, workload, size, ours, (False,) if any(without) else (False, True))
            write(asks.json, outcome(asks.model, found))
    result = {**outcome(asks.model, found), "keeping": ours.ask(do="keeping")}
    write(asks.json, result)
    print(json.dumps({name: result[name] for name in ("ratios", "ratios_from_ids", "keeping")}, indent=1))


if __name__ == "__main__":
    main()
