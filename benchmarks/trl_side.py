"""TRL's side of a comparison: GRPOTrainer's own training steps, fed with completions that were sampled before.

The trainer runs as it is. Its `rollout_func` returns stored ids at once and its reward function stored rewards, so a
step is scoring of reference and policy, loss, backward and optimiser.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import Any

import torch
from datasets import Dataset
from peak import peak
from peft import LoraConfig
from sides import answer, asked
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from workloads import TEMPERATURE, groups, policy

from tessera.core.types import Group
from tessera.policy.adapters import LoraSettings
from tessera.policy.products import release


class Turns(TrainerCallback):
    """Waits before each step for a wish, and answers it when the step is done."""

    def __init__(self) -> None:
        self.wishes = asked()
        self.group = 0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        wish = next(self.wishes, None)
        if wish is None:
            raise SystemExit
        self.group, self.memory = wish["group"], wish["memory"]
        if self.memory:
            self.context = peak()
            self.found = self.context.__enter__()
        self.began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - self.began
        if self.memory:
            self.context.__exit__(None, None, None)
            answer({"bytes": self.found.bytes})
        else:
            answer({"seconds": seconds})


def trainer(model: str, kept: list[Group], batch: int, checkpointing: bool, folder: str) -> GRPOTrainer:
    """A GRPOTrainer that takes `batch` rows at a time. Its turns come from stdin."""
    on = policy(model)
    base, size = on.model.unload(), len(kept[0].rollouts)
    release(base)  # as transformers loads it
    depth = base.config.num_hidden_layers
    layers = list(LoraSettings(last_fraction="1/3").adapted_layers(depth))
    lora = LoraConfig(
        r=16, lora_alpha=32, target_modules=["q_proj", "v_proj"], layers_to_transform=layers, task_type="CAUSAL_LM"
    )
    turns = Turns()

    def rollouts(prompts: list[Any], *_: Any) -> dict[str, list[Any]]:
        found = kept[turns.group].rollouts
        return {
            "prompt_ids": [list(r.prompt_ids) for r in found],
            "completion_ids": [list(r.ids) for r in found],
            "logprobs": [[0.0] * len(r.ids) for r in found],
        }

    def reward(completions: list[Any], **_: Any) -> list[float]:
        return [float(r.reward or 0) for r in kept[turns.group].rollouts]

    arguments = GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=size // batch,
        num_generations=size,
        max_completion_length=max(len(r.ids) for group in kept for r in group.rollouts),
        max_steps=10_000,
        beta=0.01,
        loss_type="grpo",
        temperature=TEMPERATURE,
        learning_rate=1e-6,
        gradient_checkpointing=checkpointing,
        bf16=base.dtype is torch.bfloat16,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
    )
    prompts = Dataset.from_list([{"prompt": "a"}] * 16)
    made = GRPOTrainer(
        base,
        reward,
        args=arguments,
        train_dataset=prompts,
        processing_class=on.tokenizer,
        callbacks=[turns],
        peft_config=lora,
        rollout_func=rollouts,
    )
    answer("ready")
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("workload")
    parser.add_argument("size", type=int)
    parser.add_argument("batch", type=int)
    parser.add_argument("--checkpointing", action="store_true")
    asks = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trainer(asks.model, groups(asks.workload, asks.size), asks.batch, asks.checkpointing, folder).train()


if __name__ == "__main__":
    main()
