import pytest

from tessera.tasks.maths.final import LONGEST, has_box, last_box


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{5}", "5"),
        (r"\boxed {5}", "5"),
        (r"\fbox{5}", "5"),
        (r"so $\boxed{ \frac{1}{2} }$.", r"\frac{1}{2}"),
        (r"\boxed{1} or \boxed{2}", "2"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),  # escaped braces are no brackets of LaTeX
        (r"\boxed{a\\}", r"a\\"),
        (r"\boxed{}", ""),
        (r"\boxed{5", None),
        (r"\boxed{4} \boxed{5", None),
        (r"\boxed 5", None),
        ("5", None),
        (r"\boxed{" + "1" * LONGEST + "}", "1" * LONGEST),
        (r"\boxed{" + "1" * (LONGEST + 1) + "}", None),
    ],
)
def test_last_box(text: str, expected: str | None) -> None:
    assert last_box(text) == expected


def test_a_box_that_is_never_closed_is_one() -> None:
    assert has_box(r"\boxed{5")
    assert not has_box("boxed{5}")
