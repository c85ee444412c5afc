import pytest

from tessera.tasks.maths.structure import (
    Either,
    Equation,
    Items,
    Leaf,
    Matrix,
    Row,
    TooDeep,
    Words,
    enclosed,
    read,
    split,
)

ONE, TWO = Leaf("1"), Leaf("2")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("1", ONE),
        ("(1)", ONE),
        ("{1}", ONE),
        ("[1]", Leaf("[1]")),
        ("1, 2", Items("list", (ONE, TWO))),
        ("1 and 2", Items("list", (ONE, TWO))),
        (r"\{1,2\}", Items("set", (ONE, TWO))),
        ("(1,2)", Row("()", (ONE, TWO))),
        ("[1,2)", Row("[)", (ONE, TWO))),
        ("(1,2),(2,1)", Items("list", (Row("()", (ONE, TWO)), Row("()", (TWO, ONE))))),
        (r"(1,2) \cup \{1\}", Items("union", (Row("()", (ONE, TWO)), Items("set", (ONE,))))),
        (r"1 \pm 2", Items("list", (Leaf("1 + 2"), Leaf("1 - 2")))),
        (r"\pm 1", Items("list", (ONE, Leaf("- 1")))),
        (r"\begin{pmatrix} 1 & 2 \\ 2 & 1 \end{pmatrix}", Matrix(((ONE, TWO), (TWO, ONE)))),
        (r"[\begin{array}{cc} 1 & 2 \end{array}]", Matrix(((ONE, TWO),))),
        ("x = 1", Equation("x", (ONE,), ("x", "1"))),
        ("f(x) = 1", Equation("f(x)", (ONE,), ("f(x)", "1"))),
        ("2x = 1", Equation(None, (Leaf("2x"), ONE), ("2x", "1"))),
        ("x > 1", Row("()", (ONE, Leaf(r"\infty")))),
        (r"1 \ge x", Row("(]", (Leaf(r"-\infty"), ONE))),
        (r"1 \le x < 2", Row("[)", (ONE, TWO))),
        (r"\text{Evelyn}", Words("evelyn")),
        (r"\text{(B)}", Words("b")),
        ("even", Words("even")),
        (r"\text{A, B}", Items("list", (Words("a"), Words("b")))),
        ("1,234", Either((Leaf("1234"), Items("list", (ONE, Leaf("234")))))),
        ("xy", Leaf("xy")),
    ],
)
def test_read(text: str, answer: object) -> None:
    assert read(text) == answer


def test_split_looks_outside_brackets_only() -> None:
    assert split(r"(1,2),f(x,\{y,z\})", ",") == ["(1,2)", r"f(x,\{y,z\})"]
    assert split("a))b,c", ",") == ["a))b", "c"]


def test_one_pair_has_to_enclose_all() -> None:
    assert enclosed("(1,2]") == ("(", "1,2", "]")
    assert enclosed("(1)+(2)") is None


def test_nesting_has_an_end() -> None:
    assert read("(" * 50 + "1" + ")" * 50) == ONE
    with pytest.raises(TooDeep):
        read("(" * 100 + "1" + ")" * 100)
