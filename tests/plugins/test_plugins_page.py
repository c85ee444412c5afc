"""The page's TRL example runs as it stands, with a tiny model and without a GPU; its keys are there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tessera.algorithms import registered
from tessera.plugins.verl_fit import MODES, check_fits, default_spec

PAGE = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text(encoding="utf-8")


def test_the_trl_example_runs(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl", minversion="1.16")
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.chdir(tmp_path)
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "GRPOConfig" in block]
    swaps = {
        '"HuggingFaceTB/SmolLM2-135M-Instruct"': repr(str(tiny_folder)),
        '"runs/trl", ': '"runs/trl", use_cpu=True, bf16=False, report_to=[], save_strategy="no", logging_steps=1, ',
    }
    for written, here in swaps.items():
        assert code.count(written) == 1
        code = code.replace(written, here)
    names: dict[str, Any] = {}
    exec(code, names)
    rows = names["trainer"].state.log_history
    assert [row["tokens/contributing"] > 0 for row in rows[:2]] == [True, True]
    assert all(row["kl"] >= 0 for row in rows[:2])


def test_the_verl_table_says_which_methods_fit_and_their_mean() -> None:
    from tessera.algorithms import build

    table = PAGE.partition("| `tessera_NAME` |")[2].partition("\n\n")[0]
    rows = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| `")]
    said = {name: mode.strip(" `") for names, mode in rows for name in re.findall(r"`(\w+)`", names)}
    assert said.keys() == registered().keys()
    for name, mode in said.items():
        algorithm = build(default_spec(name))
        if mode:
            check_fits(algorithm)
            assert MODES[algorithm.aggregation.name] == mode


def test_the_trl_table_names_every_method() -> None:
    table = PAGE.partition("| method | in TRL |")[2].partition("\n\n")[0]
    spelt = {word.lower().replace(".", "").replace(" ", "_").replace("-", "_").replace("λ", "lambda") for word in
             re.findall(r"[A-Z][\w.]*(?:[- ][A-Zλ]\w*)*", table.replace("Dr. GRPO", "Dr_GRPO"))}  # fmt: skip
    assert registered().keys() <= spelt
