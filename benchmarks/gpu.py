"""On a CUDA device: log-probs and gradients in bfloat16 against float32, and what an update costs beside TRL's.

    python benchmarks/gpu.py --out benchmarks/results

The model is Qwen2-1.5B's architecture with random weights. Writes gpu_correctness.json and gpu_update_step.json.
`--layers 2 --device cpu` tries the check on a small model without a GPU, and leaves the comparison out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from workloads import MODELS, groups, policy, qwen2

from tessera.core.types import Group
from tessera.policy.adapters import LoraSettings
from tessera.policy.forest import Row
from tessera.policy.load import Policy
from tessera.policy.logprobs import score


def loaded(layers: int, dtype: torch.dtype, device: str, tokenizer: Any) -> Policy:
    """The same weights in either precision, with the same adapter, whose B is not zero."""
    model = qwen2(layers, torch.bfloat16).to(dtype).to(device)
    on = Policy.from_objects(model, tokenizer, lora=LoraSettings(), name=str(dtype))
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in on.trainable_parameters():
            p.add_((0.02 * torch.randn(p.shape, generator=noise)).to(p.device))
    return on


def scored(on: Policy, group: Group) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs of every token of a group, and the gradient of their mean."""
    rows = [Row(r.prompt_ids, r.ids, tuple(range(len(r.ids)))) for r in group.rollouts]
    logp_N = score(on.model, rows).logp_N
    logp_N.mean().backward()
    gradient = torch.cat([p.grad.flatten().float() for p in on.trainable_parameters() if p.grad is not None])
    return logp_N.detach().cpu(), gradient.cpu()


def whole(on: Policy, group: Group) -> torch.Tensor:
    """The same log-probs by one forward of every row."""
    found = []
    for r in group.rollouts:
        ids = torch.tensor([[*r.prompt_ids, *r.ids]], device=on.device)
        with torch.no_grad():
            log_TV = torch.log_softmax(on.model(ids).logits[0, len(r.prompt_ids) - 1 : -1].float(), dim=-1)
        found.append(log_TV.gather(1, ids[0, len(r.prompt_ids) :, None])[:, 0].cpu())
    return torch.cat(found)


def correctness(layers: int, device: str) -> dict[str, float]:
    """float32 against a forward of whole rows in float32, and bfloat16 against float32."""
    group, tokenizer = groups("svamp", 8)[0], policy().tokenizer
    exact = loaded(layers, torch.float32, device, tokenizer)
    logp, gradient = scored(exact, group)
    rows = whole(exact, group)
    del exact
    half_logp, half_gradient = scored(loaded(layers, torch.bfloat16, device, tokenizer), group)
    return {
        "float32: largest difference from whole rows": float((logp - rows).abs().max()),
        "bfloat16: mean difference from float32": float((half_logp - logp).abs().mean()),
        "bfloat16: largest difference from float32": float((half_logp - logp).abs().max()),
        "bfloat16: cosine of the gradients": float(torch.cosine_similarity(half_gradient, gradient, dim=0)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--device", default="cuda")
    asks = parser.parse_args()
    if asks.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device here; --device cpu --layers 2 tries the check without one")
    asks.out.mkdir(parents=True, exist_ok=True)
    found = correctness(asks.layers, asks.device)
    (asks.out / "gpu_correctness.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))
    if asks.device == "cuda":
        result = str(asks.out / "gpu_update_step.json")
        script = str(Path(__file__).parent / "update_step.py")
        subprocess.run([sys.executable, script, "--model", MODELS[1], "--json", result], check=True)


if __name__ == "__main__":
    main()
