import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tessera.tasks.pool import CheckFailed, CheckPool, readable

# What the processes run: their own file, found through the path that the pool hands on.
CHECKS = """
import os, signal, time

def check(what, number=0):
    if what == "hang":
        while True:
            pass
    if what == "deaf":  # in C, with the interpreter held
        9**9**9**9
    if what == "exit":
        os._exit(3)
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "memory":
        [bytearray(2**24) for _ in range(2**20)]
    if what == "raise":
        raise ZeroDivisionError
    if what == "print":
        print('"not a reply"', flush=True)
    if what == "pid":
        return os.getpid()
    return number + 1
"""


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CheckPool]:
    folder = tmp_path_factory.mktemp("checks")
    (folder / "injected_checks.py").write_text(CHECKS)
    sys.path.insert(0, str(folder))
    pool = CheckPool("injected_checks:check", size=2, memory=2**29)
    yield pool
    pool.close()
    sys.path.remove(str(folder))


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("hang", "timeout"),
        ("deaf", "timeout"),
        ("exit", "crash"),
        ("killed", "crash"),
        ("raise", "crash"),
        ("memory", "memory"),
    ],
)
def test_a_check_that_fails_costs_its_limit_at_most_and_the_next_is_answered(
    pool: CheckPool, what: str, reason: str
) -> None:
    assert pool.run("plus one", 1, limit=20) == 2
    before = pool.failures[reason]
    limit = 0.7 if reason == "timeout" else 20
    started = time.monotonic()
    with pytest.raises(CheckFailed) as failure:
        pool.run(what, limit=limit)
    assert time.monotonic() - started < limit + 1
    assert failure.value.reason == reason
    assert pool.failures[reason] == before + 1
    assert pool.run("plus one", 41, limit=20) == 42


def test_a_process_that_was_killed_while_idle_is_replaced(pool: CheckPool) -> None:
    first = pool.run("pid", limit=20)
    assert pool.run("pid", limit=20) == first  # one process serves many checks
    os.kill(first, signal.SIGKILL)
    time.sleep(0.2)
    assert pool.run("pid", limit=20) != first


def test_what_a_check_prints_is_no_reply(pool: CheckPool) -> None:
    assert pool.run("print", 6, limit=20) == 7


def test_threads_share_the_pool_and_each_gets_its_own_reply(pool: CheckPool) -> None:
    with ThreadPoolExecutor(8) as threads:
        replies = list(threads.map(lambda n: pool.run("plus one", n, limit=20), range(200)))
    assert replies == list(range(1, 201))


def test_no_more_processes_than_its_size(pool: CheckPool) -> None:
    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(lambda _: pool.run("pid", limit=20), range(100)))) <= 2


def test_hanging_checks_of_several_threads_end_together(pool: CheckPool) -> None:
    pool.run("plus one", 1, limit=20)
    failed = []

    def hang() -> None:
        with pytest.raises(CheckFailed):
            pool.run("hang", limit=0.5)
        failed.append(1)

    threads = [threading.Thread(target=hang) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert failed == [1, 1]


def test_a_closed_pool_kills_its_processes_and_starts_again(pool: CheckPool) -> None:
    process = pool.run("pid", limit=20)
    pool.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    assert pool.run("plus one", 1, limit=20) == 2


def test_a_fork_has_processes_of_its_own(pool: CheckPool) -> None:
    ours = pool.run("pid", limit=20)
    child = os.fork()
    if child == 0:  # a wrong exit code, or none at all, is the failure
        theirs = pool.run("pid", limit=20)
        pool.close()
        os._exit(0 if theirs != ours else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert pool.run("pid", limit=20) == ours


def test_a_function_that_is_not_there_is_said_at_once() -> None:
    with pytest.raises(RuntimeError, match="did not start"):
        CheckPool("no_such_module:check", size=1).run(limit=1)


def test_a_hanging_check_ends_soon_after_its_run_was_killed(tmp_path: Path) -> None:
    """Nobody is left to kill it: the alarm that it set does."""
    (tmp_path / "injected_checks.py").write_text(CHECKS)
    code = (
        "import sys, threading; from tessera.tasks.pool import CheckPool\n"
        "pool = CheckPool('injected_checks:check', size=1)\n"
        "print(pool.run('pid', limit=30), flush=True)\n"
        "pool.run('hang', limit=1)\n"
    )
    package = str(Path(__file__).parents[2] / "src")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((package, str(tmp_path)))}
    run = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    assert run.stdout is not None
    process = int(run.stdout.readline())
    time.sleep(0.3)  # the check has begun
    run.kill()
    run.wait()
    run.stdout.close()
    until = time.monotonic() + 20
    while time.monotonic() < until and Path(f"/proc/{process}").exists():
        time.sleep(0.1)
    assert not Path(f"/proc/{process}").exists() or "Z" in Path(f"/proc/{process}/stat").read_text().split()[2]


def test_who_does_not_want_to_wait_for_a_place_is_told_in_time(pool: CheckPool) -> None:
    with ThreadPoolExecutor(2) as others:
        busy = [others.submit(pool.run, "hang", limit=2) for _ in range(2)]
        while pool._places._value:  # type: ignore[attr-defined]
            time.sleep(0.01)
        began = time.monotonic()
        with pytest.raises(CheckFailed, match="timeout"):
            pool.run("plus one", 1, limit=20, patience=0.2)
        assert time.monotonic() - began < 1.5
        assert all(isinstance(hung.exception(), CheckFailed) for hung in busy)
    assert pool.run("plus one", 1, limit=20, patience=20) == 2


def test_a_program_with_more_than_a_thousand_files_open_is_served(pool: CheckPool) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2000:
        pytest.skip("this machine lets nobody open so many")
    pool.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        assert pool.run("plus one", 1, limit=20) == 2
        assert not readable(pool._idle[0].process.stdout.fileno(), 0.01)  # type: ignore[union-attr]
    finally:
        pool.close()
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
