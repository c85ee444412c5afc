"""Runs in_verl.py with the interpreter that `make verl` sets up: verl cannot live beside math-verify."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("VERL_PYTHON", ROOT / ".venv-verl" / "bin" / "python"))


@pytest.mark.skipif(not PYTHON.is_file(), reason="verl is not there: make verl")
def test_the_plugin_agrees_with_score_group_through_verls_own_functions():
    tests = ROOT / "tests" / "plugins" / "in_verl.py"
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [str(PYTHON), "-m", "pytest", "--noconftest", "-W", "ignore", str(tests)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout
