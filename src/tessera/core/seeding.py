"""Named random generators derived from one seed.

Every use of randomness asks for a generator by name and counters (`("rollout", stage, step)`), so a run resumed at a
step draws what the uninterrupted run drew, whatever happened in between, and adding one consumer moves no other.
"""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager

import torch


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed that depends on `seed` and every name, equal on every platform and Python build."""
    text = repr((seed, names)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh torch generator for the stream `names` of `seed`."""
    return torch.Generator(device=device).manual_seed(derive(seed, *names))


def forked(device: torch.device) -> AbstractContextManager[None]:
    """Within the context the global generators of the CPU and of `device` may be used; after it they are as before.

    Other devices are left alone: torch would take the generators of all that a machine has, with a warning.
    """
    if device.type == "cpu":
        return torch.random.fork_rng(devices=[])
    return torch.random.fork_rng(devices=[device], device_type=device.type)
