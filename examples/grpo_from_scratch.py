"""GRPO from scratch: a small model learns two-digit sums, the whole loop in one file.

    python examples/grpo_from_scratch.py --steps 20

Sample a group of answers to each question, reward them, compare each with its group, and make what was better
likelier. Everything that Tessera's trainer does with care (checkpoints, sentinels, micro-batches, shared prompts) is
left out; the loss is the library's, to the last digit, which the first step checks.
"""

from __future__ import annotations

import argparse
import random
from typing import Any

import torch
from torch import Tensor

import tessera
from tessera.policy.adapters import LoraSettings
from tessera.policy.load import ModelConfig, Policy, load_policy

EVERY_PROJECTION = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def question(draw: random.Random) -> tuple[str, str]:
    """A prompt and its answer."""
    a, b = draw.randint(10, 99), draw.randint(10, 99)
    return f"{a} + {b} =", f" {a + b}"


def log_probs(policy: Policy, rows: list[list[int]], prompt_lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Log-prob of every token after each row's prompt [B,T], and where there is one [B,T]; padded on the right."""
    width = max(map(len, rows))
    ids = torch.tensor([row + [policy.pad_id] * (width - len(row)) for row in rows], device=policy.device)
    there = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=policy.device)
    logits = policy.model(input_ids=ids, attention_mask=there).logits[:, :-1].float()
    logp = torch.log_softmax(logits, dim=-1).gather(2, ids[:, 1:, None])[:, :, 0]
    place = torch.arange(width - 1, device=policy.device)[None]
    starts = torch.tensor(prompt_lengths, device=policy.device)[:, None] - 1
    return logp, (place >= starts) & there[:, 1:].bool()


def sft_step(policy: Policy, optimizer: torch.optim.Optimizer, draw: random.Random, size: int) -> float:
    """One step on gold answers: as shipped, the model answers in sentences and never earns a reward."""
    rows, lengths = [], []
    for prompt, answer in (question(draw) for _ in range(size)):
        prompt_ids = policy.tokenizer(prompt)["input_ids"]
        rows.append(prompt_ids + policy.tokenizer(answer)["input_ids"] + [min(policy.eos_ids)])
        lengths.append(len(prompt_ids))
    logp, mask = log_probs(policy, rows, lengths)
    loss = -logp[mask].mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


@torch.no_grad()
def sample(policy: Policy, prompt_ids: list[int], size: int, tokens: int, greedy: bool = False) -> list[list[int]]:
    """`size` completions of a prompt, each up to an end-of-sequence token or `tokens` tokens."""
    out = policy.model.generate(
        input_ids=torch.tensor([prompt_ids] * size, device=policy.device),
        attention_mask=torch.ones(size, len(prompt_ids), dtype=torch.long, device=policy.device),
        do_sample=not greedy,
        temperature=None if greedy else 1.0,
        top_k=None if greedy else 0,
        top_p=None if greedy else 1.0,
        max_new_tokens=tokens,
        eos_token_id=sorted(policy.eos_ids),
        pad_token_id=policy.pad_id,
    )
    completions = []
    for row in out[:, len(prompt_ids) :].tolist():
        ends = [t for t, token in enumerate(row) if token in policy.eos_ids]
        completions.append(row[: ends[0] + 1] if ends else row)
    return completions


def reward(policy: Policy, completion: list[int], answer: str) -> float:
    """1 for the right number and nothing else."""
    return float(policy.tokenizer.decode(completion, skip_special_tokens=True).strip() == answer.strip())


def advantages(rewards: Tensor) -> Tensor:
    """How much better than its group, in standard deviations: (R - mean) / (std + 1e-4); 0 where all are equal."""
    if (rewards == rewards[0]).all():
        return torch.zeros_like(rewards)
    return (rewards - rewards.mean()) / (rewards.std() + 1e-4)


def grpo_loss(logp: Tensor, mask: Tensor, advantage: Tensor) -> Tensor:
    """-1/G sum_i 1/|y_i| sum_t ratio A_i. Right after sampling the ratio is 1, but its gradient is that of log pi."""
    ratio = torch.exp(logp - logp.detach())
    per_token = torch.where(mask, ratio * advantage[:, None], 0.0)
    return -(per_token.sum(1) / mask.sum(1)).mean()


def check_against_the_library(logp: Tensor, mask: Tensor, rewards: Tensor, loss: Tensor) -> None:
    """The same group through tessera.score_group."""
    group: dict[str, Any] = {"rewards": rewards, "tokens": torch.zeros_like(mask, dtype=torch.long), "mask": mask}
    lengths = torch.full((len(mask),), mask.shape[1])
    theirs = tessera.score_group("grpo", logp=logp.detach(), lengths=lengths, **group).value
    torch.testing.assert_close(loss.detach(), theirs, rtol=1e-5, atol=1e-6)


def rl_step(
    policy: Policy, optimizer: torch.optim.Optimizer, draw: random.Random, options: argparse.Namespace
) -> float:
    """Sample, reward, compare, update; returns the mean reward."""
    earned = []
    optimizer.zero_grad()
    for _ in range(options.prompts):
        prompt, answer = question(draw)
        prompt_ids = policy.tokenizer(prompt)["input_ids"]
        completions = sample(policy, prompt_ids, options.group, options.tokens)
        rewards = torch.tensor([reward(policy, c, answer) for c in completions])
        earned.append(rewards.mean().item())
        if (rewards == rewards[0]).all():
            continue  # nothing to learn from, so nothing to compute
        logp, mask = log_probs(policy, [prompt_ids + c for c in completions], [len(prompt_ids)] * len(completions))
        loss = grpo_loss(logp, mask, advantages(rewards).to(logp.device))
        check_against_the_library(logp, mask, rewards, loss)
        (loss / options.prompts).backward()
    torch.nn.utils.clip_grad_norm_(policy.trainable_parameters(), 1.0)
    optimizer.step()
    return sum(earned) / len(earned)


def accuracy(policy: Policy, size: int, tokens: int) -> float:
    """Greedy accuracy on questions of their own."""
    draw, right = random.Random("test"), 0.0
    for prompt, answer in (question(draw) for _ in range(size)):
        (completion,) = sample(policy, policy.tokenizer(prompt)["input_ids"], 1, tokens, greedy=True)
        right += reward(policy, completion, answer)
    return right / size


def main(arguments: list[str] | None = None) -> list[float]:
    """Train as the command line says; returns the mean reward of every step."""
    parser = argparse.ArgumentParser(description="GRPO on two-digit sums, from scratch")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="embedded name, folder, or hub id")
    parser.add_argument("--warmup", type=int, default=32, help="supervised steps")
    parser.add_argument("--steps", type=int, default=20, help="GRPO steps")
    parser.add_argument("--prompts", type=int, default=4, help="questions a step")
    parser.add_argument("--group", type=int, default=8, help="completions of each")
    parser.add_argument("--tokens", type=int, default=8, help="of a completion")
    parser.add_argument("--test", type=int, default=50, help="held-out questions")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    draw = random.Random("train")
    lora = LoraSettings(targets=EVERY_PROJECTION)
    policy = load_policy(ModelConfig(name=options.model, lora=lora), seed=0)
    warm = torch.optim.AdamW(policy.trainable_parameters(), lr=1e-3, weight_decay=0.0)
    for _ in range(options.warmup):
        sft_step(policy, warm, draw, 24)
    print(f"after the warm-up: {accuracy(policy, options.test, options.tokens):.0%} right")
    optimizer = torch.optim.AdamW(policy.trainable_parameters(), lr=3e-4, weight_decay=0.0)
    curve = []
    for step in range(options.steps):
        curve.append(rl_step(policy, optimizer, draw, options))
        print(f"step {step + 1}: mean reward {curve[-1]:.2f}")
    print(f"after {options.steps} steps: {accuracy(policy, options.test, options.tokens):.0%} right")
    return curve


if __name__ == "__main__":
    main()
