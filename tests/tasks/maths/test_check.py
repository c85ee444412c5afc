import pytest

pytest.importorskip("math_verify", reason="needs the extra math")

from tessera.tasks.maths.check import check, check_text, run


def test_one_of_the_references_is_enough() -> None:
    assert check(["3", r"\frac{1}{2}"], "0.5")
    assert not check(["3", "4"], "5")
    assert not check([], "5")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The final answer is $5$.", True),
        ("Answer: 5", True),
        ("The answer is $x = 5$", True),
        ("Answer: 15", False),
        ("There are 5.", False),
        ("$5$", False),
    ],
)
def test_only_what_is_announced_counts(text: str, expected: bool) -> None:
    assert check_text(["5"], text) is expected


def test_the_kind_of_a_request_decides_how_it_is_read() -> None:
    assert run("box", ["5"], "5")
    assert not run("text", ["5"], "5")
