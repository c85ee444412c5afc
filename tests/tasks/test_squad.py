import pytest

from tessera.tasks.squad import matches, normalised


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("The  U.S.A.", "usa"),
        ("a Cat, an Ant!", "cat ant"),
        ("Athens", "athens"),
        ("theatre", "theatre"),
        ("", ""),
        ("The", ""),
        ("Zürich", "zürich"),
    ],
)
def test_case_punctuation_articles_and_spaces_do_not_count(text: str, same: str) -> None:
    assert normalised(text) == same


def test_any_answer_is_right_and_nothing_is_not() -> None:
    assert matches(" the Beatles.", ("Wings", "Beatles"))
    assert not matches("Beatles and Wings", ("Wings", "Beatles"))
    assert not matches("the", ("a",)) and not matches("", ("x",))
    assert not matches("x " * 10_000_000, ("x",))
