import time

import pytest

from tessera.core.errors import UserError
from tessera.core.types import Problem
from tessera.tasks.base import Reward
from tessera.tasks.rewards import REWARDS, read_grader, reward_by_name

LAST = read_grader("last_integer")
EXACT = read_grader("exact_match")
NUMBER = read_grader("number")


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
    assert all(name == reward.name and reward.summary for name, reward in REWARDS.items())
    assert {name for name, reward in REWARDS.items() if reward.read_answer is None} == {
        "format_think",
        "format_answer",
        "format_boxed",
    }


@pytest.mark.parametrize(
    ("answer", "text", "expected"),
    [
        ("1,234", "#### 1234", 1.0),
        (2.5, "The answer is 5/2", 1.0),
        ("18", "The answer is $18.00 a day, of 7 days", 1.0),
        ("18", "118", 0.0),
        ("18", "The answer is 18 or 19", 0.0),
        ("18", "", 0.0),
        ("no number", "no number", 0.0),  # never paid
    ],
)
def test_number_pays_the_gold_number_only(answer: object, text: str, expected: float) -> None:
    assert NUMBER(problem(answer), text) == expected


def test_a_gold_number_is_kept_exactly() -> None:
    assert [NUMBER.read_answer(a) for a in ("1,234", 2.5, "-7.0", 3)] == ["1234", "5/2", "-7", "3"]
    with pytest.raises(ValueError, match="it needs a number"):
        NUMBER.read_answer("five")


TAGGED = "<think>2 + 3</think> \\boxed{5}"


def test_a_sum_weighs_its_parts_and_is_right_by_the_answer_alone() -> None:
    both = read_grader({"number": 1.0, "format_think": 0.25})
    assert (both.name, both.full_marks) == ("number + format_think", 1.25)
    assert both(problem("5"), TAGGED) == Reward(1.25, {"number": 1.0, "format_think": 1.0}, True)
    assert both(problem("5"), "5") == Reward(1.0, {"number": 1.0, "format_think": 0.0}, True)
    assert both(problem("6"), TAGGED) == Reward(0.25, {"number": 0.0, "format_think": 1.0}, False)
    assert both.read_answer("5.0") == "5"


def test_several_rewards_of_the_answer_must_all_be_earned_to_be_right() -> None:
    two = read_grader({"exact_match": 0.5, "last_integer": 0.5, "format_boxed": 1})
    assert two.read_answer("5") == "5"  # each reads it in its own way
    assert two(problem("5"), "so 5") == Reward(
        0.5, {"exact_match": 0.0, "last_integer": 1.0, "format_boxed": 0.0}, False
    )
    with pytest.raises(ValueError, match="it needs an integer"):
        two.read_answer("five")


def test_layouts_alone_are_right_when_all_are_kept() -> None:
    layout = read_grader({"format_think": 1.0, "format_boxed": 1.0})
    assert layout(problem("9"), TAGGED) == Reward(2.0, {"format_think": 1.0, "format_boxed": 1.0}, True)
    assert layout(problem("9"), "\\boxed{5}") == Reward(1.0, {"format_think": 0.0, "format_boxed": 1.0}, False)
    assert read_grader("format_answer")(problem("9"), "<answer>1</answer>") == 1.0


def test_one_reward_with_a_weight_is_a_number() -> None:
    double = read_grader({"number": 2})
    assert (double(problem("5"), "5"), double(problem("5"), "6"), double.full_marks) == (2.0, 0.0, 2.0)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "the reward is an empty mapping"),
        ({"number": 0}, "the weight of reward number is 0; it must be a positive number"),
        ({"number": -1.0}, "must be a positive number"),
        ({"number": float("nan")}, "must be a positive number"),
        ({"number": float("inf")}, "must be a positive number"),
        ({"number": "1"}, "must be a positive number"),
        ({"numbr": 1.0}, r"unknown reward 'numbr' .did you mean 'number'"),
        ("numbr", r"unknown reward 'numbr' .did you mean 'number'"),
    ],
)
def test_weights_that_mean_nothing_are_refused(weights: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_grader(weights)  # type: ignore[arg-type]


HOSTILE = ["a", "9", "<answer>", "<think>", "\\boxed{", "(", "[{", "\0", "The answer is ", "5" + " " * 99]


@pytest.mark.parametrize("unit", HOSTILE)
@pytest.mark.parametrize("name", REWARDS)
def test_ten_megabytes_of_anything_earn_nothing_in_a_moment(name: str, unit: str) -> None:
    text = unit * (10_000_000 // len(unit))
    started = time.perf_counter()
    assert read_grader(name)(problem("18"), text) == 0.0
    assert time.perf_counter() - started < 5
