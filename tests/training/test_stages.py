"""What stages say of one another: names resolved, files found, contradictions refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tessera.core.errors import UserError
from tessera.policy.adapters import save_adapter
from tessera.training.settings import EvalStage, RLStage, SFTStage
from tessera.training.stages import harvests, last_trained, settle
from tiny import tiny_policy


def rl(name: str, **more: Any) -> RLStage:
    return RLStage(name=name, steps=1, algorithm="grpo", **more)


def sft(name: str = "sft", **more: Any) -> SFTStage:
    return SFTStage(name=name, steps=1, **more)


def test_a_harvest_is_of_the_nearest_rl_stage_before_or_of_the_one_it_names() -> None:
    stages = settle(
        [rl("a"), rl("b"), sft("x", harvest={}), sft("y", harvest={"stage": "a", "most": 1}), rl("c")], None
    )
    assert [stage.harvest.stage for stage in stages[2:4]] == ["b", "a"]
    assert {name: [h.most for h in found] for name, found in harvests(stages).items()} == {"b": [4], "a": [1]}


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ([sft(harvest={}), rl("a")], "stage sft harvests, and no rl stage comes before it"),
        ([rl("abc"), sft(harvest={"stage": "abd"})], r"harvest.stage of sft 'abd' \(did you mean 'abc'\?\)"),
        ([rl("a"), sft(harvest={"stage": "b"}), rl("b")], "unknown rl stage in harvest.stage of sft 'b'"),
        ([EvalStage(), rl("a", optimizer={"carry": True})], "stage a: optimizer.carry needs a stage before it that"),
        (
            [sft(optimizer={"kind": "adamw_8bit"}), rl("a", optimizer={"carry": True})],
            "optimizer.carry cannot take the moments of adamw_8bit into adamw",
        ),
        ([rl("a", reference="inital")], "stage a: reference 'inital' is neither start_of_stage nor initial nor the"),
        ([sft(data="nowhere.jsonl")], "no such file: 'nowhere.jsonl'"),
    ],
)
def test_what_cannot_be_is_refused(stages: list[Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        settle(stages, None)


def test_files_are_found_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}")
    save_adapter(tiny_policy().model, tmp_path / "adapter")
    first, second = settle([sft(data="rows.jsonl"), rl("a", reference="adapter")], tmp_path)
    assert (first.data, second.reference) == (str(tmp_path / "rows.jsonl"), str(tmp_path / "adapter"))


def test_the_last_stage_that_trains_is_not_an_evaluation() -> None:
    assert last_trained([rl("a"), sft(), EvalStage()]) == 1
