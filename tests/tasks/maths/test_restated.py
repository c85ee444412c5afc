"""Agreement with references written another way, and no agreement with other answers, on the public data sets."""

import gzip
import importlib.util
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("math_verify", reason="needs the extra math")

from tessera.tasks.maths.compare import equal

_SPEC = importlib.util.spec_from_file_location("restated", Path(__file__).with_name("restated.py"))
assert _SPEC is not None and _SPEC.loader is not None
restated: Any = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(restated)

DATA = Path(__file__).parents[3].parent / "shared" / "data"
SETS = ["math500", "minerva", "olympiadbench", "aime24"]
needs_data = pytest.mark.skipif(not DATA.exists(), reason="needs the public data sets in ../shared/data")


def answers(name: str) -> list[tuple[list[str], str]]:
    """References of each row, and each of them as what is to be restated."""
    rows = [json.loads(line) for line in (DATA / name / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    found = []
    for row in rows:
        golds = [row["answer"], *row.get("answer_alt", [])]
        found += [(golds, gold) for gold in dict.fromkeys(golds)]
    return found


def agreement(rows: list[tuple[list[str], str]]) -> tuple[float, list[tuple[str, str, str]]]:
    """Share of the restatements that are equal to one of their references, and those that are not."""
    said = [(rule, golds, text) for golds, gold in rows for rule, text in restated.restatements(gold).items()]
    missed = [(rule, golds[0], text) for rule, golds, text in said if not any(equal(gold, text) for gold in golds)]
    return 1 - len(missed) / len(said), missed


EXAMPLES = [
    ("dfrac", r"\frac{1}{2}", r"\dfrac{1}{2}"),
    ("tfrac", r"\dfrac{1}{2}", r"\tfrac{1}{2}"),
    ("braceless_fraction", r"\frac{1}{2}", r"\frac12"),
    ("slash", r"\frac{1}{2}", "1/2"),
    ("decimal", r"\frac{3}{8}", "0.375"),
    ("fraction", "-0.75", r"-\frac{3}{4}"),
    ("expanded_fraction", r"\frac{1}{2}", r"\frac{3}{6}"),
    ("trailing_zero", "5", "5.0"),
    ("thousands_comma", "10080", "10,080"),
    ("thousands_space", "10080", "10{,}080"),
    ("thousands_thin", "10080", r"10,\!080"),
    ("no_thousands", r"10,\!080", "10080"),
    ("left_right", "(1,2]", r"\left( 1,2 \right]"),
    ("no_left_right", r"\left(1\right)", "(1)"),
    ("tight", "1 + 2", "1+2"),
    ("spaced", "1,2+x", "1,  2 + x"),
    ("thin_spaces", "1,2", r"1,\, 2"),
    ("dollars", "5", "$5$"),
    ("parentheses", "5", "(5)"),
    ("full_stop", "5", "5."),
    ("bare_degrees", r"30^\circ", "30"),
    ("worded_degrees", r"30^{\circ}", r"30 \text{ degrees}"),
    ("braced_degrees", r"30^\circ", r"30^{\circ}"),
    ("measured", "5", r"5 \text{ cm}"),
    ("squared_unit", "5", r"5\text{ cm}^2"),
    ("mathrm_unit", "5", r"5~\mathrm{cm}"),
    ("unmeasured", r"5\text{ cm}", "5"),
    ("no_dollar_sign", r"\$5", "5"),
    ("percent_spaced", r"5\%", r"5 \%"),
    ("percent_worded", r"5\%", r"5\text{ percent}"),
    ("percent_value", r"5\%", "0.05"),
    ("named", "5", "x = 5"),
    ("unnamed", "f(x)=2x", "2x"),
    ("power_of_ten", "8.7e8", r"8.7 \times 10^{8}"),
    ("dotted_power_of_ten", "8.7e8", r"8.7\cdot10^{8}"),
    ("code_power_of_ten", r"8.7 \times 10^{8}", "8.7e8"),
    ("scientific", "1234", r"1.234 \times 10^{3}"),
    ("multiplied", r"2\sqrt{3}", r"2 \cdot \sqrt{3}"),
    ("braced_scripts", "x^2", "x^{2}"),
    ("unbraced_scripts", "x^{2}", "x^2"),
    ("root_first", r"2\sqrt{3}", r"\sqrt{3} \cdot 2"),
    ("root_as_power", r"2\sqrt{3}", r"2\cdot 3^{1/2}"),
    ("bracket_matrix", r"\begin{pmatrix}1\end{pmatrix}", r"\begin{bmatrix}1\end{bmatrix}"),
    (
        "array_matrix",
        r"\begin{pmatrix}1&2\end{pmatrix}",
        r"\left(\begin{array}{cc}1&2\end{array}\right)",
    ),
    ("reversed_list", r"\{1,2\}", r"\{2, 1\}"),
    ("listed_with_and", "1,2", r"1 \text{ and } 2"),
    ("as_set", "1,2", r"\{1,2\}"),
    ("plus_minus", r"1 \pm \sqrt{2}", r"1 + \sqrt{2}, 1 - \sqrt{2}"),
    ("union_reversed", r"(0,1) \cup (2,3)", r"(2,3) \cup (0,1)"),
    ("upper_text", r"\text{even}", r"\text{Even}"),
    ("bare_text", r"\text{even}", "even"),
    ("lower_text", r"\text{Evelyn}", r"\text{evelyn}"),
    ("bold_text", r"\text{even}", r"\textbf{even}"),
    ("display", "5", r"\displaystyle 5"),
    ("reordered_sum", r"2+\pi", r"\pi + 2"),
]


@pytest.mark.parametrize(("rule", "answer", "said"), EXAMPLES)
def test_each_rule_says_the_same_otherwise_and_is_recognised(rule: str, answer: str, said: str) -> None:
    assert restated.RULES[rule](answer) == said
    assert equal(answer, said)


def test_every_rule_has_an_example() -> None:
    assert {rule for rule, _, _ in EXAMPLES} == set(restated.RULES)


@needs_data
@pytest.mark.parametrize("name", SETS)
def test_agreement_on_a_part(name: str) -> None:
    share, missed = agreement(answers(name)[::8])
    assert share >= 0.99, missed


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_agreement_on_all(name: str) -> None:
    share, missed = agreement(answers(name))
    assert share >= 0.99, missed


def crude(answer: str) -> str:
    """The digits but zero, sorted: answers that differ in these are equal only if one is worked out."""
    return "".join(sorted(re.findall(r"[1-9]", answer)))


def mismatched(answers: list[str], n: int) -> list[tuple[str, str]]:
    """Pairs of different answers: half at random, half with as many digits or with the same first number."""
    rng = random.Random(0)
    by_digits: dict[str, list[str]] = {}
    for answer in answers:
        for key in (str(len(crude(answer))), (re.findall(r"\d+", answer) or ["none"])[0] + " first"):
            by_digits.setdefault(key, []).append(answer)
    groups = [group for group in by_digits.values() if len(group) > 1]
    pairs = []
    while len(pairs) < n:
        a, b = rng.sample(answers if len(pairs) % 2 else rng.choice(groups), 2)
        if crude(a) != crude(b):
            pairs.append((a, b))
    return pairs


@needs_data
@pytest.mark.parametrize("n", [1000, pytest.param(5000, marks=pytest.mark.slow)])
def test_answers_of_different_questions_are_unequal(n: int) -> None:
    pool = {gold for name in SETS for golds, _ in answers(name) for gold in golds}
    with gzip.open(DATA / "math" / "train.jsonl.gz", "rt", encoding="utf-8") as lines:
        pool |= {json.loads(line)["answer"] for line in lines}
    unmeasured = sorted(answer for answer in pool if not re.search(r"\\(text|mbox|circ|%)", answer))  # cm^2 has a digit
    assert [pair for pair in mismatched(unmeasured, n) if equal(*pair)] == []


@needs_data
@pytest.mark.parametrize("step", [10, pytest.param(1, marks=pytest.mark.slow)])
def test_an_answer_with_one_thing_changed_is_unequal(step: int) -> None:
    golds = sorted({golds[0] for name in SETS for golds, _ in answers(name)})[::step]
    said = [(rule, gold, text) for gold in golds for rule, text in restated.mutations(gold).items()]
    assert [entry for entry in said if equal(*entry[1:])] == []
