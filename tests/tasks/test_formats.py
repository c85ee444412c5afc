import time

import pytest

from tessera.tasks.formats import braced, has_answer, has_box, has_thoughts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>a</think> b", True),
        ("\n<think>\na\n</think>\n\nb", True),
        ("<think>a</think><answer>b</answer>", True),
        ("<think>a</think>", False),  # nothing after the thoughts
        ("<think>a</think>  \n", False),
        ("<think>  </think> b", False),  # no thoughts
        ("b <think>a</think> b", False),  # does not open with them
        ("<think>a b", False),
        ("a</think> b", False),
        ("<think>a</think><think>a</think> b", False),
        ("<think><think>a</think> b", False),
        ("</think><think> b", False),
        ("<THINK>a</THINK> b", False),
        ("", False),
    ],
)
def test_thoughts(text: str, expected: bool) -> None:
    assert has_thoughts(text) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("so <answer> 5 </answer>", True),
        ("<answer>5</answer><answer>6</answer>", False),
        ("<answer>5", False),
        ("</answer>5<answer>", False),
        ("<answer> </answer>", False),
        ("the <answer> </answer> tags: <answer>5</answer>", False),  # the prompt echoed
        ("", False),
    ],
)
def test_an_answer_in_tags(text: str, expected: bool) -> None:
    assert has_answer(text) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"so \boxed{\frac{1}{2}}.", True),
        (r"\boxed{5} or \boxed{6}", True),
        (r"\boxed{5} \boxed{6", False),  # the last word was cut short
        (r"\boxed{ }", False),
        ("boxed{5}", False),
        ("", False),
    ],
)
def test_a_box(text: str, expected: bool) -> None:
    assert has_box(text) is expected


def test_braces_are_matched_from_inside() -> None:
    assert braced("{a}{b}} c", 0) == "{a}{b}"
    assert braced("a}b}", 2) == "b"
    assert braced("{a}", 0) is None


@pytest.mark.parametrize("unit", ["<think>", "</think>", "<answer></answer>", r"\boxed{", "{", "}", "\0", " "])
def test_ten_megabytes_of_anything_take_a_moment(unit: str) -> None:
    text = unit * (10_000_000 // len(unit))
    started = time.perf_counter()
    assert not has_thoughts(text)
    assert not has_answer(text)
    assert not has_box(text)
    assert not has_box(r"\boxed{" + text) or set(unit) <= set("}\0")
    assert time.perf_counter() - started < 10
