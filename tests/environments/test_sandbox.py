"""What code in the sandbox can do: nothing to anybody else, within its limits."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tessera.core.errors import UserError
from tessera.environments.sandbox import MEBIBYTE, Sandbox
from tessera.environments.seccomp import MACHINES
from tessera.environments.tool import ToolFailed

needs_bubblewrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")

LIBC = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return Sandbox(scratch=2 * MEBIBYTE)


@needs_bubblewrap
@pytest.mark.parametrize(
    ("code", "printed"),
    [
        ("2 ** 100", "1267650600228229401496703205376"),
        ("print('a')\nprint('b')\nNone", "a\nb"),
        ("x = 3\nx", "3"),
        ("def f():\n    raise ValueError('no')\nf()", "line 3, in <module>\nline 2, in f\nValueError: no"),
        ("x = (", "File \"<python>\", line 1\n    x = (\n        ^\nSyntaxError: '(' was never closed"),
        ("import sys\nprint('x')\nsys.exit(3)", "x"),
        ("print('a\\0b \\udc00'.encode('utf-8', 'replace').decode())", "a\N{REPLACEMENT CHARACTER}b ?"),
        ("import threading as t\nx = []\na = t.Thread(target=x.append, args=[1])\na.start()\na.join()\nx", "[1]"),
        ("import os\nif os.fork():\n    print(os.wait()[1])\nelse:\n    os._exit(0)", "0"),
        ("open('f', 'w').write('kept')\nopen('f').read()", "'kept'"),
    ],
)
def test_what_is_printed_comes_back(sandbox: Sandbox, code: str, printed: str) -> None:
    assert sandbox.run(code, 10) == printed


@needs_bubblewrap
@pytest.mark.parametrize(
    ("attack", "said"),
    [
        ("open('/etc/passwd').read()", "FileNotFoundError"),
        ("import os\nos.symlink('/etc/passwd', 'l')\nopen('l').read()", "FileNotFoundError"),
        ("import os\nsorted(set(os.listdir('/')) - {'dev', 'lib', 'lib64', 'proc', 'root', 'tmp', 'usr'})", "[]"),
        ("import os\nsorted(os.environ)", "['HOME', 'LC_CTYPE', 'OMP_NUM_THREADS', 'PWD']"),
        ("import socket\nsocket.create_connection(('127.0.0.1', PORT), 1)", "ConnectionRefusedError"),
        ("import socket\nsocket.getaddrinfo('pypi.org', 443)", "gaierror"),
        ("open('/usr/x', 'w')", "Read-only file system"),
        ("open('/x', 'w')", "Read-only file system"),
        ("open('big', 'w').write('a' * 10**8)", "File too large"),
        ("for i in range(9):\n    open(f'f{i}', 'w').write('a' * 10**6)", "No space left"),
        ("open('/dev/shm/f', 'w')", "Read-only file system"),
        ("open('/dev/f', 'w')", "Read-only file system"),
        ("open('/dev/null', 'w').write('a')", "1"),
        ("bytearray(10**10)", "MemoryError"),
        ("x = [0]\nwhile True:\n    x = x * 2", "MemoryError"),
        ("print('a' * 10**9)", "MemoryError"),
        ("import resource\nresource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40))", "not allowed"),
        ("import os, time\nfor n in range(20):\n    if os.fork() == 0:\n        time.sleep(60)", "BlockingIO"),
        ("import os\nos.open('/proc/self/fd/0', os.O_RDWR)", "PermissionError"),
        ("import os\nos.setuid(0)", "Error"),
        ("import os\nos.memfd_create('m')", "PermissionError"),
        (LIBC + "libc.shmget(0, 4096, 0o1600), ctypes.get_errno()", "(-1, 1)"),
        (LIBC + "libc.msgget(0, 0o1600), ctypes.get_errno()", "(-1, 1)"),
        (LIBC + "libc.unshare(0x10000000), ctypes.get_errno()", "(-1, 1)"),
        (LIBC + "libc.syscall(CLONE, 0x10000011, 0, 0, 0, 0), ctypes.get_errno()", "(-1, 1)"),
    ],
)  # fmt: skip
def test_an_attack_fails(sandbox: Sandbox, attack: str, said: str, tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        clone = str(MACHINES[platform.machine()].numbers["clone"])
        found = sandbox.run(attack.replace("PORT", str(server.getsockname()[1])).replace("CLONE", clone), 10)
    assert said in found


@needs_bubblewrap
def test_too_much_output_is_cut(sandbox: Sandbox) -> None:
    began = time.monotonic()
    found = sandbox.run("while True:\n    print('a' * 1000)", 20)
    assert found.endswith("[cut after 10000 bytes]") and len(found) < 10_100
    assert time.monotonic() - began < 15


@needs_bubblewrap
@pytest.mark.parametrize(
    "code",
    [
        "while True:\n    pass",
        "import time\ntime.sleep(99)",
        "import signal, time\nfor n in range(1, 32):\n    try:\n        signal.signal(n, signal.SIG_IGN)\n"
        "    except OSError:\n        pass\ntime.sleep(99)",
        "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass",
        "import os, time\nos.close(1)\nos.close(2)\ntime.sleep(99)",
    ],
)
def test_what_takes_too_long_is_killed_with_all_it_started(sandbox: Sandbox, code: str) -> None:
    began = time.monotonic()
    with pytest.raises(ToolFailed) as failed:
        sandbox.run(code + "  # mark-7351", 1)
    assert failed.value.reason == "timeout" and "1 s" in str(failed.value)
    assert time.monotonic() - began < 10
    assert not left_over()


@needs_bubblewrap
def test_no_signal_reaches_this_process_and_nothing_outlives_the_call(sandbox: Sandbox) -> None:
    signals = "import os\nfor pid in [os.getppid(), *range(2, 400)]:\n    try:\n        os.kill(pid, 9)\n"
    with pytest.raises(ToolFailed, match="killed"):
        sandbox.run(signals + "    except OSError:\n        pass", 5)  # it finds itself
    forks = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(99)\nprint('done')"
    assert sandbox.run(forks, 5) == "done"
    assert not left_over()


@needs_bubblewrap
def test_code_that_crashes_the_interpreter_is_a_failed_call(sandbox: Sandbox) -> None:
    with pytest.raises(ToolFailed, match="killed") as failed:
        sandbox.run("import ctypes\nctypes.string_at(0)", 5)
    assert failed.value.reason == "crash"


def test_a_machine_without_bubblewrap_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="apt install bubblewrap"):
        _ = Sandbox().interpreter


def test_a_sandbox_that_does_not_start_says_what_the_machine_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with TemporaryDirectory() as folder:  # one that everybody can read
        broken = Path(folder) / "bwrap"
        broken.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace'\nexit 1\n")
        broken.chmod(0o755)
        Path(folder).chmod(0o755)
        monkeypatch.setenv("PATH", folder, prepend=os.pathsep)
        with pytest.raises(UserError, match=r"does not start here: .* new namespace"):
            _ = Sandbox().interpreter


def left_over() -> list[str]:
    """Processes of a sandbox that are still there a second later."""
    for _ in range(20):
        found = subprocess.run(["pgrep", "-f", "bwrap --unshare-all"], capture_output=True, text=True, check=False)
        if not found.stdout.strip():
            return []
        time.sleep(0.1)
    return found.stdout.split()
