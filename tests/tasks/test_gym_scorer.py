from __future__ import annotations

import json

import pytest

pytest.importorskip("reasoning_gym", reason="the optional package reasoning-gym is not installed")

from tessera.tasks.gym_scorer import make, packed, score


def scored(dataset: str, answer: str, entry: dict[str, object]) -> dict[str, object]:
    return score(dataset, json.dumps({}), answer, packed(entry))


def test_the_packages_scorer_is_asked() -> None:
    entry = make("chain_sum", {}, seed=1, size=3)[0]
    assert scored("chain_sum", entry["answer"], entry) == {"score": 1.0}
    wrong = scored("chain_sum", "0", entry)["score"]
    assert isinstance(wrong, float) and wrong < 1


def test_what_a_scorer_raises_is_text() -> None:
    entry = make("prime_factorization", {}, seed=1, size=3)[0]
    assert str(scored("prime_factorization", "two", entry)["error"]).startswith("ValueError: invalid literal")


@pytest.mark.parametrize(
    "answer",
    [
        "9**9**9**9",
        "(9**9)**9",
        "2**99999",
        "2**-(9999)",
        "open('x')",
        "exec(chr(49))",
        "x.__class__",
        "[1][0]",
        "eval(1)",
    ],
)
def test_what_sympy_must_not_evaluate_earns_nothing(answer: str) -> None:
    entry = make("countdown", {}, seed=1, size=3)[0]
    assert scored("countdown", entry["answer"], entry) == {"score": 1.0}
    assert scored("countdown", answer, entry) == {"score": 0.0}


def test_eval_reads_literals_alone() -> None:
    entry = make("spiral_matrix", {}, seed=1, size=3)[0]
    values = entry["answer"].split()
    assert scored("spiral_matrix", f"[{', '.join(values)}]", entry)["score"] != 0.0
    assert scored("spiral_matrix", f"__import__('os').environ and [{', '.join(values)}]", entry) != {"score": 1.0}
