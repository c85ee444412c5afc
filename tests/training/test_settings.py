"""What a stage takes, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from tessera.training.settings import (
    EvalStage,
    EvaluationSettings,
    HarvestSettings,
    OptimizerSettings,
    PlateauSettings,
    ReplaySettings,
    RLStage,
    RunSettings,
    SentinelSettings,
    SFTStage,
)


@pytest.mark.parametrize(
    ("model", "given"),
    [
        (OptimizerSettings, {"lr": 0}),
        (OptimizerSettings, {"lr": float("inf")}),
        (OptimizerSettings, {"lr": float("nan")}),
        (OptimizerSettings, {"betas": (0.9, 1.0)}),
        (OptimizerSettings, {"betas": (-0.1, 0.9)}),
        (OptimizerSettings, {"max_grad_norm": 0}),
        (OptimizerSettings, {"weight_decay": -0.1}),
        (OptimizerSettings, {"schedule": "step"}),
        (OptimizerSettings, {"learning_rate": 0.1}),
        (ReplaySettings, {"successes": -1}),
        (ReplaySettings, {"capacity": 0}),
        (PlateauSettings, {"window": 0}),
        (SentinelSettings, {"reward_failures": 1.5}),
        (EvaluationSettings, {"success": float("nan")}),
        (RunSettings, {"dir": "x", "save_every": 0}),
        (RunSettings, {"dir": "x", "keep_checkpoints": 0}),
        (SFTStage, {"steps": 0}),
        (SFTStage, {"epochs": 0}),
        (HarvestSettings, {"most": 0}),
        (HarvestSettings, {"pick": "longest"}),
        (EvalStage, {"split": "train"}),
        (EvalStage, {"steps": 1}),
        (SFTStage, {"steps": 1, "name": "base"}),
        (SFTStage, {"steps": 1, "name": "a b"}),
        (SFTStage, {"steps": 1, "stop_accuracy": 1.5}),
        (RLStage, {"steps": 1, "algorithm": "grpo", "temperature": 0}),
        (RLStage, {"steps": 1, "algorithm": "grpo", "temperature": float("inf")}),
        (RLStage, {"steps": 1, "algorithm": "grpo", "score_temperature": 0}),
        (RLStage, {"steps": 1, "algorithm": "grpo", "score_temperature": float("nan")}),
        (RLStage, {"steps": 1, "algorithm": "grpo", "score_temperature": "same"}),
        (RLStage, {"steps": 1, "algorithm": "grpo", "reference": ""}),
        (RLStage, {"steps": 1, "algorithm": "grpo", "name": "final"}),
        (RLStage, {"steps": 1}),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(model: type[BaseModel], given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as error:
        model(**given)
    assert all(set(map(str, e["loc"])) & {*given, "algorithm"} for e in error.value.errors())


@pytest.mark.parametrize("given", [{}, {"steps": 1, "epochs": 1}])
def test_a_supervised_stage_is_of_so_many_steps_or_epochs(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="give either steps or epochs"):
        SFTStage(**given)


def test_an_algorithm_is_a_name_or_a_mapping() -> None:
    assert RLStage(steps=1, algorithm="grpo").algorithm == {"name": "grpo"}
    assert RLStage(steps=1, algorithm={"name": "grpo", "beta": 0.1}).algorithm == {"name": "grpo", "beta": 0.1}


def test_the_score_temperature_is_the_samplers_or_a_number() -> None:
    assert RLStage(steps=1, algorithm="grpo").score_temperature == "sampling"
    assert RLStage(steps=1, algorithm="grpo", score_temperature=1).score_temperature == 1.0


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        OptimizerSettings().lr = 1.0
