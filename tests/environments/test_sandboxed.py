"""The runner inside, run here without the sandbox: it needs nothing but the standard library."""

import json
import subprocess
import sys
from pathlib import Path

from tessera.environments import sandboxed

LIMITS = {"memory": 2**30, "seconds": 10, "file_bytes": 1000, "processes": 10_000}


def run(code: bytes) -> subprocess.CompletedProcess[str]:
    source = Path(sandboxed.__file__).read_text()
    command = [sys.executable, "-I", "-S", "-c", source, json.dumps(LIMITS)]
    done = subprocess.run(command, input=code, capture_output=True, check=False)
    return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())


def test_the_last_value_is_printed_as_at_a_prompt() -> None:
    done = run(b"a = 1\nprint('one')\na + 1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "one\n2\n", "")
    assert run(b"None").stdout == "" and run(b"").stdout == ""


def test_code_that_is_no_utf_8_is_read_all_the_same() -> None:
    assert "SyntaxError" in run(b"\xff\xfe").stdout


def test_a_module_of_its_own() -> None:
    assert run(b"__name__").stdout == "'__main__'\n"
    assert "NameError" in run(b"limit_resources").stdout


def test_file_sizes_are_held_to_the_limit(tmp_path: Path) -> None:
    code = f"file = open({str(tmp_path / 'f')!r}, 'w')\nfile.write('a' * 5000)\nfile.flush()"
    assert "File too large" in run(code.encode()).stdout
