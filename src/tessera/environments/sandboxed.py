"""What runs inside the sandbox: limits on itself first, then the code that came in. Of the standard library alone.

    python -I -c SOURCE '{"memory": ..., "seconds": ..., "file_bytes": ..., "processes": ...}' < code

The value of a last expression is printed, as at a prompt. A traceback shows the frames of the given code.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import resource
import sys
import traceback
from types import TracebackType

NAME = "<python>"


def limit_resources(memory: int, seconds: int, file_bytes: int, processes: int) -> None:
    """Hold this process and its children to these; they cannot be raised again."""
    for what, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NPROC, processes),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


def run(code: str) -> None:
    """Run `code` as a module, and print the value of its last expression."""
    tree = ast.parse(code, NAME)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    names: dict[str, object] = {"__name__": "__main__"}
    exec(compile(tree, NAME, "exec"), names)
    if isinstance(last, ast.Expr):
        value = eval(compile(ast.Expression(last.value), NAME, "eval"), names)
        if value is not None:
            print(repr(value))


def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The traceback of the code, without the frames around it; it is a result like another."""
    frames = [frame for frame in traceback.extract_tb(trace) if frame.filename == NAME]
    lines = [f"line {frame.lineno}, in {frame.name}" for frame in frames]
    print("\n".join([*lines, "".join(traceback.format_exception_only(kind, error))]).rstrip(), flush=True)
    os._exit(0)


def main() -> None:
    """Limit this process, then run what comes in."""
    limit_resources(**json.loads(sys.argv[1]))
    sys.excepthook = show
    code = sys.stdin.buffer.read().decode("utf-8", "replace")
    with contextlib.suppress(SystemExit):
        run(code)


if __name__ == "__main__":
    main()
