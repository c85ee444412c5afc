"""A process that sees nothing of this one: bubblewrap's namespaces, limits, and an empty folder in memory.

Inside there is no network, no file but an interpreter and its libraries (read-only), no environment variable, no
process but its own, and `scratch` bytes of memory to write files to. Whatever it starts ends with it. System calls that
would get around these limits are refused (tessera.environments.seccomp).
"""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tessera.core.errors import UserError
from tessera.environments.seccomp import rules
from tessera.environments.tool import ToolFailed
from tessera.tasks.pool import readable

MEBIBYTE = 2**20
NOBODY = 65534
RUNNER = Path(__file__).with_name("sandboxed.py")
START = 20.0  # seconds for the first, which finds an interpreter


@dataclass(frozen=True)
class Sandbox:
    """Limits of one call. `memory` is each process's, `processes` how many there may be at once."""

    memory: int = 512 * MEBIBYTE
    scratch: int = 16 * MEBIBYTE
    processes: int = 4
    output: int = 10_000

    def run(self, code: str, limit: float) -> str:
        """What `code` prints, at most `output` bytes of it; raises ToolFailed after `limit` seconds."""
        return self._run(self.interpreter, code, limit)

    @cached_property
    def interpreter(self) -> Path:
        """The root of an interpreter that runs in the sandbox: this one's, else the system's.

        Raises UserError where there is no sandbox on this machine.
        """
        if shutil.which("bwrap") is None:
            raise UserError("the python tool needs bubblewrap, which is not installed: apt install bubblewrap (Linux)")
        said: list[str] = []
        for root in (Path(sys.base_prefix), Path("/usr")):
            try:
                said.append(self._run(root, "6 * 7", START))
            except ToolFailed as failed:
                said.append(str(failed))
            if said[-1] == "42":
                return root
        raise UserError(f"the sandbox of the python tool does not start here: {' '.join(said[-1].split())[:300]}")

    def _run(self, root: Path, code: str, limit: float) -> str:
        # The kernel holds anybody to a number of processes but the superuser.
        other: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as refused:
            for file, content in ((given, code.encode("utf-8", "replace")), (refused, rules(platform.machine()))):
                file.write(content)
                file.seek(0)
            process = subprocess.Popen(
                ["bwrap", "--seccomp", str(refused.fileno()), *self._command(root, limit)],
                stdin=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=[refused.fileno()], **other,
            )  # fmt: skip
            try:
                said = self._read(process, time.monotonic() + limit)
                if len(said) <= self.output and process.wait(1) != 0:
                    raise ToolFailed(
                        "crash", f"the process was killed: {said[:200].decode('utf-8', 'replace')}".strip(": \n")
                    )
            except (TimeoutError, subprocess.TimeoutExpired):
                raise ToolFailed("timeout", f"no result within {limit:g} s") from None
            finally:
                process.kill()  # and with it whatever runs inside
                process.communicate()
        text = said[: self.output].decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}").strip()
        return f"{text}\n[cut after {self.output} bytes]" if len(said) > self.output else text

    def _read(self, process: subprocess.Popen[bytes], until: float) -> bytes:
        """What is printed until the end, or until it is too much."""
        assert process.stdout is not None
        descriptor, said = process.stdout.fileno(), b""
        while len(said) <= self.output:
            left = until - time.monotonic()
            if left <= 0 or not readable(descriptor, left):
                raise TimeoutError
            part = os.read(descriptor, 65536)
            if not part:
                break
            said += part
        return said

    def _command(self, root: Path, limit: float) -> list[str]:
        shown = [path for path in (Path("/usr"), Path("/lib"), Path("/lib64"), root) if path.exists()]
        limits = {
            "memory": self.memory,
            "seconds": 2 * math.ceil(limit) + 10,  # the caller's clock ends it earlier
            "file_bytes": self.scratch,
            "processes": self.processes + 1,  # the first is bubblewrap's
        }
        return [
            "--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL",
            *(part for path in shown for part in _shown(path)),
            "--proc", "/proc", "--dev", "/dev", "--size", str(self.scratch), "--tmpfs", "/tmp", "--chdir", "/tmp",
            "--setenv", "HOME", "/tmp", "--setenv", "OMP_NUM_THREADS", "1", "--remount-ro", "/dev", "--remount-ro", "/",
            str(root / "bin" / "python3"), "-I", "-c", RUNNER.read_text(encoding="utf-8"), json.dumps(limits),
        ]  # fmt: skip


def _shown(path: Path) -> list[str]:
    return ["--symlink", str(path.readlink()), str(path)] if path.is_symlink() else ["--ro-bind", str(path), str(path)]
