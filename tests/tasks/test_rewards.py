import pytest

from tessera.core.errors import UserError
from tessera.core.types import Problem
from tessera.tasks.rewards import REWARDS, reward_by_name

LAST = reward_by_name("last_integer")
EXACT = reward_by_name("exact_match")


def problem(answer: object, prefill: str = "") -> Problem:
    return Problem("p", "2 + 3?", answer, prefill)


@pytest.mark.parametrize(
    ("answer", "text", "expected"),
    [
        (56088, "123 * 456 = 56,088.", 1.0),
        (56088, "56088 - 1 = 56087", 0.0),
        (-7, "3 - 10 = -7", 1.0),
        (7, "3 - 10 = -7", 0.0),
        ("56,088", "56088", 1.0),
        (145.0, "145", 1.0),
        (2.5, "2.5", 0.0),  # not an integer: never paid
        (5, "", 0.0),
        (5, "no number", 0.0),
    ],
)
def test_last_integer_pays_the_gold_integer_only(answer: object, text: str, expected: float) -> None:
    assert LAST(problem(answer), text) == expected


def test_exact_match_compares_what_follows_the_prefill() -> None:
    assert EXACT(problem("Paris"), "  Paris\n") == 1.0
    assert EXACT(problem("Paris"), "paris") == 0.0
    assert EXACT(problem("Paris"), "It is Paris") == 0.0
    assert EXACT(problem("Paris", prefill="It is"), "It is Paris") == 1.0
    assert EXACT(problem(5), "5") == 1.0
    assert EXACT(problem("Paris"), "") == 0.0


def test_gold_answers_are_read_into_the_form_that_is_compared() -> None:
    assert LAST.read_answer("1,234") == 1234
    assert LAST.read_answer(145.0) == 145
    assert EXACT.read_answer(" Paris ") == "Paris"
    assert EXACT.read_answer(5) == "5"


@pytest.mark.parametrize("answer", [2.5, "five", None, True, "9" * 5000])
def test_an_answer_that_last_integer_could_never_match_is_refused(answer: object) -> None:
    with pytest.raises(ValueError, match=r"integer"):
        LAST.read_answer(answer)


@pytest.mark.parametrize("answer", [None, "", "  ", ["a"]])
def test_an_answer_that_exact_match_could_never_match_is_refused(answer: object) -> None:
    with pytest.raises(ValueError, match="it needs a text or a number"):
        EXACT.read_answer(answer)


def test_an_unknown_reward_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown reward 'last_interger' \(did you mean 'last_integer'\?\)"):
        reward_by_name("last_interger")


def test_the_registry_holds_each_reward_under_its_name() -> None:
    assert {name: reward.name for name, reward in REWARDS.items()} == {
        "last_integer": "last_integer",
        "exact_match": "exact_match",
    }
