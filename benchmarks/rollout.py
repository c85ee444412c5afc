"""Sampling against transformers' `generate` as TRL 1.16 calls it: tokens a second on the same prompts, in turn.

    python benchmarks/rollout.py --json benchmarks/results/rollout.json
    OMP_NUM_THREADS=1 python benchmarks/rollout.py --against float32 --clock processor \\
        --json benchmarks/results/rollout_bfloat16.json

The second is the bfloat16 copy that `engine.dtype: bfloat16` samples from, synced before every rollout, against the
float32 model itself. Both sides sample from the embedded SmolLM2-135M with the same adapter, at most so many rows at a
time: `g8` and `g50` are groups of 8 and 50 on real SVAMP prompts whose completions end between 40 and 150 tokens,
`long` is 8 rows of 300. Where a completion ends is drawn beforehand, the same for both sides, since where the model
itself would end depends on what it draws; only tokens up to there count. The share of the roofline is the time that the
products of a step take alone, measured in the same process, over the time that a step takes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList
from update_step import machine
from workloads import groups, policy

from tessera.policy.load import Policy
from tessera.policy.prefix import causal_lm
from tessera.policy.products import adopt, linear, release
from tessera.rollout.copied import CopyEngine
from tessera.rollout.engine import Request, Sampling
from tessera.rollout.hf import HFEngine

RUNS = 5
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
Clock = Callable[[], float]
TEMPERATURE = 1.0


class Case(NamedTuple):
    """`prompts` prompts with `size` completions each, of `shortest` to `longest` tokens, `rows` at a time."""

    prompts: int
    size: int
    rows: int
    shortest: int
    longest: int

    def lengths(self) -> list[int]:
        """Tokens of every completion, prompt after prompt."""
        noise = torch.Generator().manual_seed(0)
        return torch.randint(self.shortest, self.longest + 1, (self.prompts * self.size,), generator=noise).tolist()


CASES = {"g8": Case(2, 8, 8, 40, 150), "g50": Case(1, 50, 50, 40, 150), "long": Case(1, 8, 8, 300, 300)}


def ours(engine: HFEngine, case: Case, prompts: list[tuple[int, ...]], clock: Clock) -> float:
    """Seconds for a sync and all completions."""
    lengths = case.lengths()
    requests = [Request(prompts[i // case.size], i, max_new_tokens=length) for i, length in enumerate(lengths)]
    began = clock()
    engine.sync()
    found = engine.generate(requests, Sampling(max_new_tokens=case.longest, keep_trunk=True))
    seconds = clock() - began
    assert [len(c.ids) for c in found] == lengths
    return seconds


class _Ends(StoppingCriteria):
    """Tells `generate` which rows are done, as their end tokens would."""

    def __init__(self, lengths: list[int], prompt: int) -> None:
        self.ends_B = torch.tensor(lengths) + prompt

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return self.ends_B <= input_ids.shape[1]


def theirs(on: Policy, case: Case, prompts: list[tuple[int, ...]], clock: Clock) -> float:
    """Seconds by transformers as it is, `rows` at a time: a batch is done when its longest row is."""
    lengths = case.lengths()
    every = [prompts[i // case.size] for i in range(len(lengths))]
    config = GenerationConfig(  # what GRPOConfig's defaults come to
        max_new_tokens=case.longest, do_sample=True, temperature=TEMPERATURE, top_p=1.0, top_k=0,
        pad_token_id=on.pad_id, eos_token_id=None, disable_compile=True,
    )  # fmt: skip
    release(on.model)
    began = clock()
    for start in range(0, len(every), case.rows):
        rows = every[start : start + case.rows]
        width = max(map(len, rows))
        ids = torch.tensor([[on.pad_id] * (width - len(r)) + list(r) for r in rows])
        mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])
        ends = StoppingCriteriaList([_Ends(lengths[start : start + case.rows], width)])
        with torch.no_grad():
            on.model.generate(input_ids=ids, attention_mask=mask, generation_config=config, stopping_criteria=ends)
    seconds = clock() - began
    adopt(on.model)
    return seconds


def roofline(on: Policy, rows: int, clock: Clock) -> dict[str, float]:
    """Seconds in which the products of a step are done alone, by oneDNN and by torch's default, and bytes a second."""
    weights = [m.weight for m in causal_lm(on.model).modules() if type(m) is nn.Linear and not m.weight.requires_grad]
    inputs = {w.shape[1]: torch.randn(rows, w.shape[1]) for w in weights}
    best = {"onednn": float("inf"), "default": float("inf")}
    with torch.inference_mode():
        for name, product in {"onednn": linear, "default": nn.functional.linear}.items():
            for _ in range(RUNS):
                began = clock()
                for w in weights:
                    product(inputs[w.shape[1]], w)
                best[name] = min(best[name], clock() - began)
    seconds = min(best.values())
    return {**best, "seconds": seconds, "bytes_per_second": sum(w.nbytes for w in weights) / seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="where the result goes")
    parser.add_argument("--against", choices=("generate", "float32"), default="generate", help="the other side")
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall", help="processor: with other work beside it")
    given = parser.parse_args()
    out, against, clock = given.json, given.against, CLOCKS[given.clock]
    on = policy()
    endless = replace(on, eos_ids=frozenset())
    prompts = [group.prompt_ids for group in groups("svamp", 8)]
    about = {"machine": machine(), "torch": torch.__version__, "threads": torch.get_num_threads(), "clock": given.clock}
    result: dict[str, Any] = {"ratios": {}, **about, "runs": {}}
    for name, case in CASES.items():
        tokens, seconds = sum(case.lengths()), {"tessera": [], against: []}
        engine = HFEngine(endless, case.rows)
        copy = CopyEngine(endless, torch.bfloat16, case.rows) if against == "float32" else None
        for run in range(RUNS + 1):  # the first warms up
            own = ours(copy or engine, case, prompts, clock)
            other = ours(engine, case, prompts, clock) if copy else theirs(on, case, prompts, clock)
            if run:
                seconds["tessera"].append(own)
                seconds[against].append(other)
            print(f"{name}: {tokens / own:.0f} tokens/s, {against} {tokens / other:.0f}", flush=True)
        medians = {side: statistics.median(times) for side, times in seconds.items()}
        result["ratios"][name] = round(medians[against] / medians["tessera"], 2)
        result["runs"][name] = {**case._asdict(), "tokens": tokens, "seconds": seconds}
    if not copy:
        floor = roofline(on, CASES["long"].rows, clock)
        step = statistics.median(result["runs"]["long"]["seconds"]["tessera"]) / CASES["long"].longest
        result["roofline_share"] = round(floor["seconds"] / step, 3)
        result["roofline"] = floor
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: found for name, found in result.items() if name != "runs"}))


if __name__ == "__main__":
    main()
