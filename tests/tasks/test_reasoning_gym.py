from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

pytest.importorskip("reasoning_gym", reason="the optional package reasoning-gym is not installed")

import reasoning_gym
from reasoning_gym.factory import DATASETS

from tessera.core.errors import UserError
from tessera.tasks.base import SPLITS, LoadedTask
from tessera.tasks.reasoning_gym import SYSTEM
from tessera.tasks.registry import grade, load_task
from tessera.tasks.validate import validate_task

SMALL = {"train_size": 6, "validation_size": 1, "test_size": 3}
# Scorers that pay for any text, or for another question's answer, refuse a gold one, or raise: see docs/recipes.md.
UNSOUND = {"game_of_life_halting", "gsm_symbolic", "n_queens", "prime_factorization", "puzzle24", "sokoban"}


def load(name: str, **options: Any) -> LoadedTask:
    return load_task({"name": f"reasoning_gym:{name}", **SMALL, **options})


def test_the_prompt_is_the_packages() -> None:
    assert reasoning_gym.utils.SYSTEM_PROMPTS["default"] == SYSTEM
    system, user = load("chain_sum").train[0].prompt
    assert system.content == SYSTEM and user.content.startswith("State the final answer to the following arithmetic")


def test_splits_share_no_question_and_follow_the_seed() -> None:
    task = load("chain_sum", train_size=300, test_size=100)
    questions = {s: {p.metadata["question"] for p in task.problems(s)} for s in SPLITS}
    assert [len(questions[s]) for s in SPLITS] == [300, 1, 100]
    assert all(questions[one].isdisjoint(questions[other]) for one, other in combinations(SPLITS, 2))
    small = load("chain_sum", train_size=10, test_size=100)
    assert (small.train, small.test) == (task.train[:10], task.test)
    assert load("chain_sum", seed=1).test != load("chain_sum").test


def test_options_reach_the_package_and_are_checked() -> None:
    problem = load("chain_sum", options={"min_terms": 7, "max_terms": 7}).train[0]
    assert problem.metadata["metadata"]["num_terms"] == 7
    for options, message in (
        ({"min_term": 7}, r"unknown option of reasoning_gym:chain_sum 'min_term' .did you mean 'min_terms'"),
        ({"seed": 1}, "seed is the task's own"),
        ({"min_terms": -1}, "reasoning_gym:chain_sum with options"),
    ):
        with pytest.raises(UserError, match=message):
            load("chain_sum", options=options)
    with pytest.raises(UserError, match=r"unknown data set of reasoning_gym 'chainsum' .did you mean 'chain_sum'"):
        load("chainsum")
    with pytest.raises(UserError, match="names its data set after the colon"):
        load("chain_sum", dataset="gcd")


def test_an_entry_of_the_package_is_a_row() -> None:
    entry = reasoning_gym.create_dataset("chain_sum", seed=3, size=1)[0]
    right = grade("reasoning_gym:chain_sum", entry, f"So it is <answer>{entry['answer']}</answer>")
    assert (right.value, right.correct) == (1.0, True)
    assert grade("reasoning_gym:chain_sum", entry, entry["answer"]).value == 0.0  # no tags
    assert grade("reasoning_gym:chain_sum", entry, f"<answer>{'9' * 10_001}</answer>").value == 0.0


def test_a_scorer_that_raises_or_hangs_is_an_error_of_the_rollout() -> None:
    entry = reasoning_gym.create_dataset("prime_factorization", seed=3, size=1)[0]
    with pytest.raises(UserError, match="the scorer of prime_factorization raised ValueError"):
        grade("reasoning_gym:prime_factorization", entry, "<answer>two</answer>")
    entry = reasoning_gym.create_dataset("countdown", seed=3, size=1)[0]
    with pytest.raises(UserError, match=r"the scorer of countdown gave no score .timeout"):
        grade("reasoning_gym:countdown", entry, "<answer>factorial(999999999)</answer>", seconds=1)
    assert grade("reasoning_gym:countdown", entry, f"<answer>{entry['answer']}</answer>").correct


def test_a_set_without_answers_has_no_gold() -> None:
    report = validate_task(load("graph_color"), sample=2, size=10_000)
    assert report.ok and [c.ok for c in report.checks if "gold" in c.name] == [None, None, None]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(DATASETS))
def test_every_set_of_the_package_loads_and_validates(name: str) -> None:
    parts = {"datasets": [{"name": "chain_sum"}, {"name": "gcd"}]}
    report = validate_task(load(name, options=parts if name == "composite" else {}), sample=6, size=100_000)
    assert report.ok is (name not in UNSOUND), str(report)
