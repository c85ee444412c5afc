from fractions import Fraction

import pytest

from tessera.core.types import Problem
from tessera.tasks.svamp import Svamp
from tessera.tasks.traces import worked_solution


def test_a_worked_solution_asks_calculates_and_answers() -> None:
    text, answer = worked_solution(
        "Tom had 9 nuts. He ate 4 and got 2. How many has he?", "( ( 9.0 - 4.0 ) + 2.0 )"
    ) or ("", 0)
    # 9 - 4 = 5, then 5 + 2 = 7
    assert text == (
        "Let's solve this step by step. We want to know: How many has he? The numbers that we need are 9 and 4 and 2. "
        "We calculate 9 - 4 = 5. We calculate 5 + 2 = 7. So the answer is 7."
    )
    assert answer == 7


def test_numbers_that_are_not_whole_stay_exact() -> None:
    text, answer = worked_solution("How much?", "( 7.0 / 2.0 )") or ("", 0)
    assert answer == Fraction(7, 2)
    assert "7 / 2 = 3.5" in text


@pytest.mark.parametrize("equation", ["8.0", "", "( 1 / 0 )", "__import__('os')", "2 ** 9", "x + 1", "(" * 5000])
def test_what_is_no_sum_has_no_solution(equation: str) -> None:
    assert worked_solution("How many?", equation) is None


def gold(equation: str | None, answer: int) -> str:
    metadata = {"question": "How many?"} | ({} if equation is None else {"equation": equation})
    return Svamp.gold(None, Problem("p", "Problem: How many?", answer, "", metadata))  # type: ignore[arg-type]


def test_gold_is_the_worked_solution_where_it_leads_to_the_answer() -> None:
    assert gold("( 2.0 + 3.0 )", 5).endswith("We calculate 2 + 3 = 5. So the answer is 5.")


@pytest.mark.parametrize("equation", [None, "( 2.0 + 4.0 )", "5.0"])
def test_gold_is_the_bare_answer_where_it_does_not(equation: str | None) -> None:
    assert gold(equation, 5) == "5"
