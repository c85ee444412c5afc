"""Runs of the command line that are stopped at a chosen point, and gone on with until they finish.

    python resume_driver.py FOLDER < PLAN

PLAN is JSON: `recipe` and `model`, paths, `size`, and `runs`, for each name a list of stops `[where, when, signal]`. A
run is started, sends itself the signal when it is there for the `when`-th time (a whole number, or a share of how often
an uninterrupted run is), is resumed with the next stop, and at last without one; a stop that is null lets it finish.
Every start is a process of its own, forked from this one, which has only imported what there is to import. Prints JSON:
for each name the outcome `[code, what it printed]` of every start. Run `whole`, uninterrupted, is always made.

With a `size` above 1 every start is so many processes, as a launcher would start them. The last one alone sends itself
the signal, and the outcome is a list: of each, by rank.

where   token    in the middle of sampling: before a token is computed
        score    before a micro-batch of an update
        update   after the backward pass, before the optimiser's step
        half     in the middle of a checkpoint: the optimiser's file is half written
        sync     later in it, while its files are forced to disk and it gets its name
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import tessera.launch
import tessera.progress  # noqa: F401  (imported here, so that no child has to)
from processes import environment, free_port
from tessera import cli
from tessera.policy.load import ModelConfig, load_policy
from tessera.policy.slots import Slots
from tessera.training import checkpoint
from tessera.training.optimizer import Optimizer
from tessera.training.step import Learner

Stop = tuple[str, int, str] | None
counts: Counter[str] = Counter()
stop: Stop = None


def here(where: str, first: Callable[[], object] = lambda: None) -> None:
    """Count a visit; at the chosen one do `first` and send the signal."""
    counts[where] += 1
    if stop and stop[0] == where and stop[1] == counts[where]:
        first()
        os.kill(os.getpid(), signal.Signals[stop[2]])


def watched(where: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*given: Any, **named: Any) -> Any:
        here(where)
        return function(*given, **named)

    return run


def half_written(save: Callable[..., None], content: Any, path: Path) -> None:
    whole = io.BytesIO()
    save(content, whole)
    path.write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])


def watch_saving(save: Callable[..., None]) -> Callable[..., None]:
    def run(content: Any, path: Any, **named: Any) -> None:
        if isinstance(path, Path):  # processes send each other tensors by the same function
            here("half", lambda: half_written(save, content, path))
        save(content, path, **named)

    return run


def install() -> None:
    Slots.grow = watched("token", Slots.grow)
    Learner._micro_batch = watched("score", Learner._micro_batch)
    Optimizer.update = watched("update", Optimizer.update)
    checkpoint._sync = watched("sync", checkpoint._sync)
    torch.save = watch_saving(torch.save)


def child(log: Path, arguments: list[str], chosen: Stop, place: dict[str, str]) -> int:
    global stop
    stop = chosen
    os.environ.update(place)
    with log.open("wb") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    install()
    sys.argv = ["tessera", "train", *arguments]
    code = 0
    try:
        cli.main()
    except SystemExit as left:
        code = int(left.code or 0)
    log.with_suffix(".counts").write_text(json.dumps(counts))
    return code


def fork(log: Path, arguments: list[str], chosen: Stop, place: dict[str, str]) -> int:
    process = os.fork()
    if process == 0:
        code = 70  # a crash: its traceback is in the log
        with contextlib.suppress(BaseException):
            try:
                code = child(log, arguments, chosen, place)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                raise
        os._exit(code)
    return process


def ended(process: int, log: Path) -> tuple[int, str]:
    """The exit code (negative: killed by that signal) and what it printed."""
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status), log.read_text()


def start(log: Path, arguments: list[str], chosen: Stop, size: int) -> Any:
    """Run in forks, and wait for them."""
    if size == 1:
        return ended(fork(log, arguments, chosen, {}), log)
    port, logs = free_port(), [log.with_suffix(f".{rank}.log") for rank in range(size)]
    started = [
        fork(logs[rank], arguments, chosen if rank == size - 1 else None, environment(rank, size, port))
        for rank in range(size)
    ]
    return [ended(process, own) for process, own in zip(started, logs, strict=True)]


def main(folder: Path) -> None:
    plan = json.load(sys.stdin)
    torch.set_num_threads(1)  # a fork inherits no threads
    load_policy(ModelConfig(name=plan["model"], device="cpu"))  # transformers imports much of itself only now
    outcomes: dict[str, list[Any]] = {}
    size = plan.get("size", 1)
    totals: dict[str, int] = {}
    for name, stops in {"whole": [], **plan["runs"]}.items():
        run = folder / name
        outcomes[name] = []
        for n, chosen in enumerate([*stops, None]):
            log = folder / f"{name}.{n}.log"
            if chosen and isinstance(chosen[1], float):
                chosen = [chosen[0], 1 + int(chosen[1] * totals[chosen[0]]), chosen[2]]
            arguments = ["--resume", str(run)] if n else [plan["recipe"], f"run.dir={run}"]
            outcomes[name].append(start(log, arguments, chosen, size))
        if name == "whole":
            counts = sorted(folder.glob("whole.0.*counts"))
            if len(counts) < size or not (run / "adapter").exists():
                sys.exit(str(outcomes))
            totals = json.loads(counts[-1].read_text())  # the last process's, which is the one that will be stopped
    json.dump({"totals": totals, "outcomes": outcomes}, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
