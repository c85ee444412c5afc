"""The process in which checks run: JSON lines in, JSON lines out. Started by `tessera.tasks.pool`, killed by it too.

A function is named by `module:function` on the command line, called with what each line holds, and its result
written back. What it raises ends the process: the pool counts it and starts another.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import sys

OUT_OF_MEMORY = 77


def serve(function: str, memory: int) -> None:
    """Answer requests `[seconds, arguments]` until the input ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a check prints is no reply
    module, _, name = function.partition(":")
    check = getattr(importlib.import_module(module), name)
    with contextlib.suppress(ValueError, OSError):  # a lower limit is there already
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    print(json.dumps("ready"), file=replies, flush=True)
    for line in sys.stdin:
        seconds, arguments = json.loads(line)
        # The pool kills a check that takes too long. Should the pool be gone, the kernel does, whatever runs here.
        signal.setitimer(signal.ITIMER_REAL, 2 * seconds + 1)
        try:
            reply = check(*arguments)
        except MemoryError:
            os._exit(OUT_OF_MEMORY)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    serve(sys.argv[1], int(sys.argv[2]))
