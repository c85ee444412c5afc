"""The peak of memory that tensors take, above what there was: by CUDA's allocator, or every allocation on the CPU.

The CPU's count is the sum of bytes that torch's allocator has handed out and not taken back, which the resident set of
the process (pages, libraries, allocator caches) hides.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Peak:
    """`bytes` is known when the context of `peak` has ended."""

    bytes: int = 0


@contextmanager
def peak() -> Iterator[Peak]:
    """Measure what runs inside the context."""
    found = Peak()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield found
        torch.cuda.synchronize()
        found.bytes = torch.cuda.max_memory_allocated() - before
        return
    activity = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[activity], profile_memory=True, acc_events=True) as profile:
        yield found
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        found.bytes = max(found.bytes, now)
