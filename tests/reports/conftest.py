"""A made-up run with every kind of row, for the tests of what reads run folders."""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tessera.reports.run import RunFolder
from tessera.reports.summary import summarise

RECIPE = """\
model: {path: nano}
task: {name: multiplication, digits: 3}
run: {dir: runs/demo, seed: 7}
stages:
- {name: warm-up, kind: sft, steps: 20, learning_rate: 0.0001}
- {name: rl, kind: rl, steps: 60, algorithm: {name: s_grpo, cutoff: 50, max_selected: 100}}
"""


def evaluation(step: int, label: str, value: float, stage: tuple[int, str], split: str = "test") -> dict[str, Any]:
    """An evaluation of 300 problems with an interval of plus or minus 0.05."""
    return {
        "kind": "eval",
        "step": step,
        "stage": stage[1],
        "stage_index": stage[0],
        "seconds": 2.0 * step,
        "split": split,
        "label": label,
        "accuracy/value": value,
        "accuracy/ci_low": value - 0.05,
        "accuracy/ci_high": value + 0.05,
        "accuracy/n": 300,
        "truncation_rate": 0.02,
        "completion_length/mean": 118.5,
    }


def sft_row(step: int, noise: float = 0.0) -> dict[str, Any]:
    """A supervised step of the stage `warm-up`."""
    return {
        "kind": "sft",
        "step": step,
        "stage": "warm-up",
        "stage_index": 0,
        "seconds": 2.0 * step,
        "loss": 2.0 * math.exp(-step / 8) + 0.4 + 0.05 * noise,
        "accuracy/token": 0.9 - 0.5 * math.exp(-step / 10),
        "learning_rate": 1e-4,
        "grad_norm": 1.5 + 0.2 * noise,
        "tokens/trained": 900,
        "time/step": 1.1,
    }


def rl_row(step: int, progress: float = 0.0, noise: float = 0.0) -> dict[str, Any]:
    """A step of the stage `rl`, `progress` runs from 0 to 1."""
    reward = 0.3 + 0.5 * progress + 0.08 * noise
    return {
        "kind": "rl",
        "step": step,
        "stage": "rl",
        "stage_index": 1,
        "seconds": 2.0 * step,
        "reward/mean": reward,
        "reward/std": 0.3,
        "reward/correct": reward - 0.1,
        "reward/format": 0.1,
        "accuracy": min(1.0, max(0.0, reward - 0.05)),
        "truncation_rate": max(0.0, 0.2 - 0.2 * progress + 0.03 * noise),
        "completion_length/mean": 150 - 40 * progress + 8 * noise,
        "completion_length/max": 256,
        "groups/total": 4,
        "groups/zero_spread": 1 + (noise > 1),
        "rollouts/failed": int(noise > 1.5),
        "tokens/generated": 4800,
        "tokens/contributing": 2400,
        "tokens/contributing_per_example": 560 - 120 * progress + 40 * noise,
        "tokens/scored": 2600,
        "updates": 1,
        "replay/success": 0,
        "replay/failure": 0,
        "replay/skipped": 0,
        "loss": -0.02 * noise,
        "kl": 0.004 + 0.05 * progress * progress + 0.003 * abs(noise),
        "entropy": 1.2 - 0.6 * progress + 0.05 * noise,
        "grad_norm": 0.8 + 0.3 * abs(noise),
        "clip_fraction/low": 0.0,
        "clip_fraction/high": 0.0,
        "weight/min": 1.0,
        "weight/mean": 1.0,
        "weight/max": 1.0,
        "advantage/mean": 0.0,
        "advantage/std": 0.93,
        "mismatch/mean": 2e-6 * (1 + abs(noise)),
        "mismatch/max": 3e-5 * (1 + abs(noise)),
        "mismatch/kl": 1e-9,
        "learning_rate": 1e-4,
        "time/rollout": 3.1,
        "time/reward": 0.05,
        "time/scoring": 0.9,
        "time/backward": 1.4,
        "time/sync": 0.02,
        "time/step": 5.6,
        "speed/rollout": 1548.4,
        "memory/peak_bytes": 1_234_567_890,
    }


def completion(step: int, reward: float | None, text: str = "12 * 3 = 36", **more: Any) -> dict[str, Any]:
    """A row of completions.jsonl."""
    return {
        "step": step,
        "stage": "rl",
        "problem_id": f"p{step}",
        "prompt": "What's 12 multiplied by 3?",
        "text": text,
        "reward": reward,
        "components": {"correct": reward},
        "finish_reason": "stop",
        "error": None,
        "tokens": 11,
        "group": 0,
    } | more


def rollout(texts: Sequence[str], reward: float = 1.0, **lines: Any) -> dict[str, Any]:
    """A completion of a row of groups.jsonl: a token a text, whose id is the length of that. `lines` of what training
    made of the tokens; where not given, every token is selected with weight 1, advantage and push are the reward, and
    log-probs are -0.5."""
    n = len(texts)
    return {
        "reward": reward,
        "components": {},
        "correct": reward > 0,
        "finish_reason": "stop",
        "ids": [len(text) for text in texts],
        "texts": list(texts),
        "sampled": [1] * n,
        "sampler": [-0.5] * n,
        "advantage": [reward] * n,
        "selected": [1] * n,
        "new": [-0.5] * n,
        "old": [-0.5] * n,
        "ref": [None] * n,
        "entropy": [1.0] * n,
        "weight": [1.0] * n,
        "push": [reward] * n,
    } | lines


def group(step: int, *rollouts: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A row of groups.jsonl."""
    told = {"step": step, "stage": "rl", "replay": False, "group": 0, "groups": 1, "problem_id": f"p{step}"}
    return {**told, "prompt": "What's 12 multiplied by 3?", "rollouts": list(rollouts), **more}


def all_rows(sft_steps: int = 20, rl_steps: int = 60) -> Iterator[dict[str, Any]]:
    """The rows of a whole run, deterministic."""
    noise = random.Random(3)
    warm, rl = (0, "warm-up"), (1, "rl")
    yield evaluation(0, "base", 0.31, warm)
    yield from (sft_row(step, noise.gauss(0, 1)) for step in range(1, sft_steps + 1))
    yield evaluation(sft_steps, "after warm-up", 0.42, warm)
    for i in range(1, rl_steps + 1):
        yield rl_row(sft_steps + i, i / rl_steps, noise.gauss(0, 1))
        if i % 15 == 0:
            yield evaluation(sft_steps + i, "", 0.42 + 0.3 * i / rl_steps, rl, "validation")
    yield evaluation(sft_steps + rl_steps, "final", 0.703, rl)


@pytest.fixture
def made() -> SimpleNamespace:
    """The functions above, for tests to build rows with."""
    return SimpleNamespace(
        evaluation=evaluation,
        sft=sft_row,
        rl=rl_row,
        completion=completion,
        rollout=rollout,
        group=group,
        all_rows=all_rows,
        recipe=RECIPE,
    )


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunFolder]:
    """Writes a run of two stages and gives it back closed; `finished=False` leaves it without a summary."""

    def make(name: str = "demo", finished: bool = True, texts: tuple[str, ...] = ("a", "b")) -> RunFolder:
        return write_run(tmp_path / name, finished, texts)

    return make


def write_run(path: Path, finished: bool = True, texts: tuple[str, ...] = ("a", "b")) -> RunFolder:
    """The run that `make_run` makes, in `path`."""
    rows = list(all_rows())
    with RunFolder.create(path, RECIPE, "print-1") as run:
        for row in rows:
            run.log(row)
        for step in (21, 22, 50, 79, 80):
            run.log_completions(completion(step, float(i), text) for i, text in enumerate(texts))
            run.log_completions([completion(step, None, "?", error="ValueError: no number", components={})])
        if finished:
            gain = {"from": "base", "to": "final", "difference": 0.393, "ci": [0.32, 0.46]}
            named = {"algorithm": "s_grpo", "model": "nano", "task": "multiplication"}
            run.write_summary(summarise(rows, **named, composition="advantage    group_normalized", gain=gain))
    return run


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A headless Chromium; a module's own, since the event loop behind it would be in the way of other tests' loops."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("needs a chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class Watched:
    """A page of a browser, with what it logged and asked for."""

    def __init__(self, browser: Any, **options: Any) -> None:
        self.page = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options}).new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def open(self, url: str) -> Any:
        """Load `url`, and return playwright's page."""
        self.page.goto(url)
        return self.page


@pytest.fixture
def watched(chromium: Any) -> Iterator[Callable[..., Watched]]:
    """Makes pages that must log nothing, throw nothing, and ask for nothing but themselves."""
    opened: list[Watched] = []

    def make(**options: Any) -> Watched:
        opened.append(Watched(chromium, **options))
        return opened[-1]

    yield make
    for one in opened:
        one.page.context.close()
        assert one.said == []
        assert all(url.startswith(("file:", "http://127.0.0.1:")) for url in one.asked), one.asked
        assert sum(url.startswith("file:") for url in one.asked) <= 1, one.asked
