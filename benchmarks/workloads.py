"""The rollouts that updates are measured on, sampled once from the embedded model and kept beside this file as ids.

    python benchmarks/workloads.py --svamp data/svamp

samples them anew. Rewards are drawn once, half of a group's rollouts 1 and half 0: what an update costs does not ask
who earned them, and a model of 135M weights would earn none on long products.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from tessera.core.types import Group, Problem, Rollout
from tessera.policy.adapters import LoraSettings
from tessera.policy.load import ModelConfig, Policy, load_policy
from tessera.policy.prompting import render
from tessera.rollout.engine import Request, Sampling
from tessera.rollout.hf import HFEngine
from tessera.tasks.registry import load_task

FOLDER = Path(__file__).parent / "rollouts"
MODELS = ("smollm2-135m-instruct", "qwen2-1.5b-random")
TEMPERATURE = 1.0


class Shape(NamedTuple):
    """Tokens of a completion, at least and at most, and groups by size."""

    shortest: int
    longest: int
    groups: dict[int, int]


SHAPES = {
    "svamp": Shape(40, 150, {8: 6, 50: 2}),
    "multiplication": Shape(150, 300, {8: 6, 50: 2}),
}
SVAMP = {"style": "chat", "system": "Solve it step by step.", "template": "{question}"}
MULTIPLICATION = {"style": "chat", "system": "Explain every step of a calculation in detail."}


def policy(model: str = MODELS[0]) -> Policy:
    """A model with rank-16 adapters on q and v of its last third: the embedded one in float32, on the CPU or a GPU; or
    Qwen2-1.5B's architecture with random weights in bfloat16, with the embedded model's tokenizer, whose ids it has."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    lora = LoraSettings(targets=("q_proj", "v_proj"), last_fraction="1/3", rank=16, alpha=32)
    embedded = load_policy(ModelConfig(name=MODELS[0], dtype="float32", device=device, lora=lora))
    if model == MODELS[0]:
        return embedded
    return Policy.from_objects(qwen2().to(device), embedded.tokenizer, lora=lora, name=model)


def qwen2(layers: int = 28, dtype: torch.dtype = torch.bfloat16) -> Qwen2ForCausalLM:
    """Qwen2-1.5B's architecture, with random weights that depend on nothing."""
    config = Qwen2Config(
        vocab_size=151_936,
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=layers,
        num_attention_heads=12,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    return Qwen2ForCausalLM(config).to(dtype)


def groups(workload: str, size: int) -> list[Group]:
    """The kept groups of `size` rollouts of a workload."""
    kept = json.loads((FOLDER / f"{workload}.json").read_text(encoding="utf-8"))
    return [_group(g) for g in kept if len(g["completions"]) == size]


def _group(kept: dict[str, Any]) -> Group:
    prompt = tuple(kept["prompt"])
    rollouts = [
        Rollout(prompt, tuple(ids), (True,) * len(ids), (0.0,) * len(ids), "stop", "", float(reward))
        for ids, reward in zip(kept["completions"], kept["rewards"], strict=True)
    ]
    return Group(Problem(kept["id"], "", None), prompt, tuple(rollouts))


def _sample(workload: str, prompts: dict[str, tuple[int, ...]], engine: HFEngine) -> list[dict[str, Any]]:
    shape, found, draw = SHAPES[workload], [], random.Random(0)
    wanted = [size for size, count in shape.groups.items() for _ in range(count)]
    for number, (size, (name, prompt)) in enumerate(zip(wanted, prompts.items(), strict=False)):
        completions: list[list[int]] = []
        for round_ in range(40):
            requests = [Request(prompt, 10_000 * number + 100 * round_ + i) for i in range(2 * size)]
            sampled = engine.generate(requests, Sampling(max_new_tokens=shape.longest, temperature=TEMPERATURE))
            completions += [list(c.ids) for c in sampled if len(c.ids) >= shape.shortest]
            if len(completions) >= size:
                break
        rewards = [1] * (size // 2) + [0] * (size - size // 2)
        draw.shuffle(rewards)
        found.append({"id": name, "prompt": list(prompt), "completions": completions[:size], "rewards": rewards})
        lengths = sorted(map(len, completions[:size]))
        print(f"{workload} {name}: prompt {len(prompt)}, {size} completions of {lengths[0]} to {lengths[-1]} tokens")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--svamp", required=True, type=Path, help="folder with SVAMP's train.jsonl and test.jsonl")
    svamp = parser.parse_args().svamp
    tasks = {
        "svamp": {
            "name": "svamp",
            "train": str(svamp / "train.jsonl"),
            "test": str(svamp / "test.jsonl"),
            "prompt": SVAMP,
        },
        "multiplication": {"name": "multiplication", "prompt": MULTIPLICATION},
    }
    model = policy()
    engine = HFEngine(model)
    FOLDER.mkdir(exist_ok=True)
    for workload, spec in tasks.items():
        problems = load_task(spec).train[: sum(SHAPES[workload].groups.values())]
        prompts = {p.id: tuple(render(model, p, {})) for p in problems}
        lines = ",\n".join(json.dumps(group) for group in _sample(workload, prompts, engine))
        (FOLDER / f"{workload}.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
