import pytest

from tessera.tasks.tags import tagged, thought_and_answered


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("so <answer> 1 + 2 </answer>.", "1 + 2"),
        ("<answer></answer>", ""),
        ("<answer>\n\0\n</answer>", "\0"),
        ("", None),
        ("<answer>1", None),
        ("1</answer>", None),
        ("</answer>1<answer>", None),
        ("<answer>1</answer><answer>1</answer>", None),
        ("<answer><answer>1</answer>", None),
        ("<answer>1</answer></answer>", None),
        ("<Answer>1</Answer>", None),
        ("<answer >1</answer>", None),
    ],
)
def test_the_one_pair_of_tags(text: str, expected: str | None) -> None:
    assert tagged(text, "answer") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>a</think><answer>b</answer>", True),
        ("\n<think>a</think> so <answer>b</answer> done", True),
        ("<think>\n<think>a</think><answer>b</answer>", True),  # the prefill's, written again
        ("<think></think><answer></answer>", True),
        ("a</think><answer>b</answer>", False),
        ("well, <think>a</think><answer>b</answer>", False),
        ("<think>a<answer>b</answer>", False),
        ("<think>a<answer>b</answer></think>", False),
        ("<think>a</think></answer>b<answer>", False),
        ("<think>a<think>b</think><answer>c</answer>", False),
        ("<think>a</think></think><answer>c</answer>", False),
        ("<think>a</think><answer>b</answer><answer>c</answer>", False),
        ("", False),
    ],
)
def test_thought_and_answer_in_their_order(text: str, expected: bool) -> None:
    assert thought_and_answered(text) is expected


@pytest.mark.parametrize("tag", ["<think>", "</think>", "<answer>", "</answer>", "<"])
def test_ten_megabytes_of_tags_are_read_at_once(tag: str) -> None:
    text = tag * (10_000_000 // len(tag))  # quadratic time would be hours
    assert tagged(text, "answer") is None
    assert not thought_and_answered(f"<think>{text}")
