"""Run the tests of the objectives against changed copies of the source.

A small server: it imports what is slow to import once, then reads one JSON line for each mutation,
`[file, old text, new text]` or `null` for none, forks, and lets the child test its own changed copy. It answers
with one JSON line: `[outcome, test]`, where outcome is `passed`, `failed` (and the test that failed first), `timeout`,
or `broken` when the tests could not run at all.
"""

import gc
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

import hypothesis
import pydantic  # noqa: F401  (imported here so that no child has to)
import pytest
import torch

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "tessera"
PACKAGES = ("core", "pieces", "algorithms")
TESTS = ("core", "pieces", "algorithms", "contract")
LIMIT_S = 240
# Stop at the first failure; load nothing that costs more than a test; tests/conftest.py is cut off for the same reason.
OPTIONS = ("-x", f"--rootdir={ROOT}", "-p", "no:unraisableexception", "-p", "no:threadexception")


class FirstFailure:
    """A pytest plugin that remembers which test failed."""

    test = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the name of the first failure."""
        if report.failed and not self.test:
            self.test = report.nodeid


def changed_copy(folder: Path, mutation: list[str] | None) -> None:
    """Copy the packages under test into `folder`, one text exchanged for another."""
    for path in [SOURCE / "__init__.py", *(p for name in PACKAGES for p in (SOURCE / name).glob("*.py"))]:
        text = path.read_text(encoding="utf-8")
        if mutation and path == SOURCE / mutation[0]:
            text = text.replace(mutation[1], mutation[2])
        target = folder / "tessera" / path.relative_to(SOURCE)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")


def stages(mutation: list[str] | None) -> list[tuple[Path, Path]]:
    """What to run, each with its folder, likeliest to fail first: the test file beside the changed one, then all."""
    everything = [(ROOT / "tests" / name, ROOT / "tests" / name) for name in TESTS]
    if mutation is None:
        return everything
    changed = Path(mutation[0])
    folder = ROOT / "tests" / changed.parent
    beside = folder / f"test_{changed.name}"
    return [(beside, folder), *everything] if folder.name in TESTS and beside.exists() else everything


def examine(mutation: list[str] | None, path: Path, tests: Path) -> list[str]:
    """In a child: test the changed copy, quietly and without shrinking."""
    generate = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile("mutation", phases=generate, derandomize=True, database=None)
    hypothesis.settings.load_profile("mutation")
    with tempfile.TemporaryDirectory() as folder:
        changed_copy(Path(folder), mutation)
        sys.path.insert(0, folder)
        seen = FirstFailure()
        code = pytest.main([*OPTIONS, f"--confcutdir={tests}", str(path)], plugins=[seen])
        import tessera

        if not str(tessera.__file__).startswith(folder):
            return ["broken", "the tests ran on another copy"]
    outcome = {pytest.ExitCode.OK: "passed", pytest.ExitCode.TESTS_FAILED: "failed"}.get(code, "broken")
    return [outcome, seen.test or str(code)]


def in_child(*task) -> list[str]:
    """Fork, examine, and read the verdict; a child that takes too long is ended by its alarm."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(LIMIT_S)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        os.write(writing, json.dumps(examine(*task)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        verdict = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM:
        return ["timeout", ""]
    return json.loads(verdict) if verdict else ["broken", f"exit status {status}"]


def answer(mutation: list[str] | None) -> list[str]:
    """The first verdict that is not `passed`; a stage has a child of its own, and sees no other's state."""
    verdicts = (in_child(mutation, *stage) for stage in stages(mutation))
    return next((verdict for verdict in verdicts if verdict[0] != "passed"), ["passed", ""])


def main() -> None:
    """Serve until the input ends."""
    os.chdir(ROOT)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    torch.set_num_threads(1)
    sys.path.insert(0, str(ROOT / "tests"))  # the twins
    gc.freeze()
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
