import logging
import subprocess
import sys
import time

import pytest

from tessera.core.errors import UserError
from tessera.tasks import equivalence
from tessera.tasks.equivalence import checks, equivalent

pytest.importorskip("math_verify", reason="needs the extra math")


@pytest.mark.parametrize(
    ("golds", "text", "expected"),
    [
        ([r"\frac{1}{2}"], r"Thus \boxed{0.5}.", True),
        ([r"\frac{\sqrt{3}}{2}"], r"\boxed{\frac12\sqrt3}", True),
        (["7", r"\frac{1}{3}"], r"\boxed{\frac{2}{6}}", True),  # either reference
        (["3"], r"First \boxed{3}, no: \boxed{4}", False),  # the last box is the answer
        (["4"], r"First \boxed{3}, no: \boxed{4}", True),
        (["3"], r"\boxed{3} and then \boxed{", False),  # never closed: the text was cut
        (["3"], r"\boxed{}", False),
        (["3"], r"\boxed{ }", False),
        (["3"], "", False),
        (["3"], "   ", False),
        ([""], r"\boxed{}", False),
        (["12"], r"\boxed{12345}", False),  # only a part of it
        (["12"], "Of the 12 apples some are red.", False),  # repeated from the question, announced by nothing
        (["12"], "The final answer is $12$.", True),
        (["12"], "**Answer:** 12", True),
        (["13"], "The final answer is $12$.", False),
        (["42"], r"\boxed{٤٢}", False),
        (["42"], "\\boxed{4\x002}", False),
        (["42"], "\\boxed{42\x00}", False),
    ],
)
def test_equivalent(golds: list[str], text: str, expected: bool) -> None:
    assert equivalent(golds, text, limit=30) is expected


HOSTILE = [
    "x" * 10_000_000,
    "x" * 10_000_000 + r"\boxed{4}",
    "\\boxed{" * 1_500_000,
    "\\boxed{" + "(" * 5_000_000 + "5" + ")" * 5_000_000 + "}",
    "\\boxed{" + "(" * 400 + "5" + ")" * 400 + "}",
    "\\boxed{" + "{" * 900 + "5" + "}" * 900 + "}",
    "\\boxed{" + r"\frac{1}{" * 150 + "5" + "}" * 150 + "}",
    "answer: " + "(" * 10_000_000,
    "answer is " * 1_000_000,
    "\\boxed{" + "\0" * 1000 + "}",
    "$" * 10_000_000,
    "\\boxed{" + "9" * 1900 + "!" * 50 + "}",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_texts_are_wrong_within_the_limit(text: str) -> None:
    equivalent([r"\sqrt{5}"], r"\boxed{\sqrt{6}}", limit=30)  # the process is there
    started = time.monotonic()
    assert not equivalent(["5"], text, limit=1.5)
    assert time.monotonic() - started < 3


BOMBS = [
    "9^{9^{9^{9}}}",
    "9**9**9**9",
    "9!!!!!!",
    r"\binom{10^9}{10^8}",
    "2^{2^{100}}",
    r"10^{10^{10}} + \pi",
    "99999999!",
]


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_are_wrong_within_the_limit(bomb: str) -> None:
    equivalent([r"\sqrt{5}"], r"\boxed{\sqrt{6}}", limit=30)
    started = time.monotonic()
    assert not equivalent(["5"], rf"\boxed{{{bomb}}}", limit=1.5)
    assert time.monotonic() - started < 3


def test_a_check_without_a_result_is_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    before = checks().failures["timeout"]
    with caplog.at_level(logging.WARNING):
        assert not equivalent(["5"], r"\boxed{9^{9^{9^{9}}}}", limit=0.5)
    assert checks().failures["timeout"] == before + 1
    assert "timeout" in caplog.text and "counts as wrong" in caplog.text
    assert equivalent(["x"], r"\boxed{2x - x}", limit=30)


def test_plain_answers_need_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equivalence, "_checked", lambda *_: pytest.fail("asked a process"))
    assert equivalent(["10,\\!080"], r"\boxed{10080}")
    assert equivalent([r"\frac{3}{4}"], r"\boxed{0.75}")
    assert equivalent([r"\text{Evelyn}"], r"\boxed{\text{Evelyn}}")
    assert not equivalent(["7"], r"\boxed{8}")


def test_two_hundred_plain_answers_a_second() -> None:
    golds = [str(n) for n in range(2000)]
    started = time.perf_counter()
    right = sum(equivalent([gold], rf"So it is \boxed{{{n % 1000}}}.") for n, gold in enumerate(golds))
    assert right == 1000
    assert len(golds) / (time.perf_counter() - started) > 200


def test_without_math_verify_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    checks.cache_clear()
    monkeypatch.setattr(equivalence.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"tessera-rl\[math\]"):
        equivalent(["5"], r"\boxed{5}")


def test_neither_torch_nor_sympy_is_loaded_by_the_run() -> None:
    code = (
        "import sys; from tessera.tasks.equivalence import equivalent\n"
        r"assert equivalent(['\\sqrt{2}'], r'\boxed{2^{1/2}}', limit=60)" + "\n"
        "assert not {'torch', 'sympy', 'math_verify'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
