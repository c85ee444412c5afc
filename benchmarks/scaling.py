"""What an update's time and memory follow: length, group size, kept fraction, adapter depth, vocabulary, frozen depth.

    python benchmarks/scaling.py --out benchmarks/results

writes scaling.json and scaling.svg. The models are random Llamas with the widths of SmolLM2-135M, since their shape is
what varies; GRPO with a KL penalty is what is updated, from rollouts whose frozen layers' output was kept.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tessera_side import update, with_trunk
from transformers import AutoModelForCausalLM, LlamaConfig
from workloads import policy

from tessera.core.types import Group, Problem, Rollout
from tessera.policy.adapters import LoraSettings
from tessera.policy.load import Policy
from tessera.training.settings import ComputeSettings

RUNS = 5
WHOLE = {"tokens_per_microbatch": 10**6}
MIB = 2**20


class Case(NamedTuple):
    """One model and one group: G completions of T tokens after a prompt of P, of which the first `planned` learn."""

    rows: int = 8
    length: int = 96
    planned: int | None = None
    prompt: int = 48
    frozen: int = 4
    trained: int = 2
    vocabulary: int = 16_384

    @property
    def positions(self) -> int:
        """Planned positions, all told."""
        return self.rows * (self.planned or self.length)


SWEEPS: dict[str, list[Case]] = {
    "length": [Case(length=n) for n in (24, 48, 96, 192, 384)],
    "group size": [Case(rows=n) for n in (2, 4, 8, 16, 32)],
    "kept fraction": [Case(length=384, planned=n) for n in (24, 48, 96, 192, 384)],
    "trained layers": [Case(trained=n, frozen=6 - n) for n in (1, 2, 4, 6)],
    "vocabulary": [Case(vocabulary=n) for n in (4_096, 16_384, 65_536, 131_072)],
    "vocabulary, 384 tokens": [Case(vocabulary=n, length=384) for n in (4_096, 16_384, 65_536, 131_072)],
    "frozen layers": [Case(frozen=n) for n in (4, 8, 16)],
}


def model(case: Case, tokenizer: Any) -> Policy:
    """A random Llama whose upper `trained` layers carry adapters."""
    config = LlamaConfig(
        vocab_size=case.vocabulary,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=case.frozen + case.trained,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    lora = LoraSettings(last_fraction=f"{case.trained}/{case.frozen + case.trained}", rank=16, alpha=32)
    return Policy.from_objects(AutoModelForCausalLM.from_config(config), tokenizer, lora=lora)


def group(case: Case) -> Group:
    """Random tokens; half of the rollouts are rewarded. A row ends where nothing more of it is planned."""
    noise = torch.Generator().manual_seed(0)
    prompt = tuple(torch.randint(case.vocabulary, (case.prompt,), generator=noise).tolist())
    rollouts = []
    for i in range(case.rows):
        ids = tuple(torch.randint(case.vocabulary, (case.length,), generator=noise).tolist())
        ones = (True,) * case.length
        rollouts.append(Rollout(prompt, ids, ones, (0.0,) * case.length, "stop", "", float(i % 2)))
    return Group(Problem("random", "", None), prompt, tuple(rollouts))


def spec(case: Case) -> dict[str, Any]:
    """GRPO on the first `planned` tokens: S-GRPO that draws none after them."""
    planned = case.planned or case.length
    return {"name": "s_grpo", "cutoff": planned, "max_selected": planned, "probability": 0.0, "beta": 0.01}


def measure(case: Case, tokenizer: Any) -> dict[str, Any]:
    """Median seconds of an update, and the peak of its memory."""
    on = model(case, tokenizer)

    def once(memory: bool) -> dict[str, Any]:
        return update(on, spec(case), with_trunk(on.model, group(case)), ComputeSettings(**WHOLE), memory)

    once(memory=False)
    runs = [once(memory=False) for _ in range(RUNS)]
    peak = once(memory=True)
    seconds = statistics.median(run["seconds"] for run in runs)
    return {**case._asdict(), "positions": case.positions, "seconds": seconds, "bytes": peak["bytes"]}


def line(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Least squares of seconds on planned positions: a second's worth of positions, the intercept, and R squared."""
    x, y = [row["positions"] for row in rows], [row["seconds"] for row in rows]
    slope, intercept = statistics.linear_regression(x, y)
    return {"slope": slope, "intercept": intercept, "r_squared": statistics.correlation(x, y) ** 2}


def plot(found: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Time and memory against planned positions, and against what else was varied."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(9, 6.5), constrained_layout=True)
    for name in ("length", "group size", "kept fraction"):
        rows = found[name]
        x = [row["positions"] for row in rows]
        axes[0, 0].plot(x, [row["seconds"] for row in rows], "o-", label=f"by {name}")
        axes[0, 1].plot(x, [row["bytes"] / MIB for row in rows], "o-", label=f"by {name}")
    for axis in axes[0]:
        axis.set_xlabel("planned positions")
        axis.legend(frameon=False)
    axes[0, 0].set_ylabel("seconds an update")
    axes[0, 1].set_ylabel("peak memory above the model, MiB")
    for name, label in (("vocabulary", "8 x 96 tokens"), ("vocabulary, 384 tokens", "8 x 384 tokens")):
        rows = found[name]
        axes[1, 0].plot([r["vocabulary"] / 1000 for r in rows], [r["bytes"] / MIB for r in rows], "o-", label=label)
    axes[1, 0].set_xlabel("vocabulary, thousands")
    axes[1, 0].set_ylabel("peak memory above the model, MiB")
    axes[1, 0].legend(frameon=False)
    for name, label in (("trained", "trained layers"), ("frozen", "frozen layers")):
        rows = found[label]
        axes[1, 1].plot([row[name] for row in rows], [row["seconds"] for row in rows], "o-", label=label)
    axes[1, 1].set_xlabel("layers")
    axes[1, 1].set_ylabel("seconds an update")
    axes[1, 1].legend(frameon=False)
    for axis in axes.flat:
        axis.set_ylim(bottom=0)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for scaling.json and scaling.svg")
    out = parser.parse_args().out
    tokenizer = policy().tokenizer
    found: dict[str, list[dict[str, Any]]] = {}
    for name, cases in SWEEPS.items():
        found[name] = []
        for case in cases:
            found[name].append(measure(case, tokenizer))
            row = found[name][-1]
            cost = f"{row['seconds']:.3f} s, {row['bytes'] / MIB:.0f} MiB"
            print(f"{name}: {row['positions']} positions, {cost}", flush=True)
    lines = {name: line(found[name]) for name in ("length", "group size", "kept fraction")}
    out.mkdir(parents=True, exist_ok=True)
    result = {"lines": lines, "sweeps": found}
    (out / "scaling.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    plot(found, out / "scaling.svg")
    print(json.dumps(lines, indent=1))


if __name__ == "__main__":
    main()
