import pytest

pytest.importorskip("math_verify", reason="needs the extra math")

from tessera.tasks.maths.compare import equal

EQUAL = [
    ("3, 5, 7", r"\{7, 5, 3\}"),
    (r"1 \pm \sqrt{19}", r"1-\sqrt{19}, 1+\sqrt{19}"),
    (r"\{1\pm\sqrt{5},-2\}", r"\{-2,1+\sqrt5,1-\sqrt5\}"),
    (r"(0,9) \cup (9,36)", r"(9,36)\cup(0,9)"),
    (r"(2,\infty)", "x > 2"),
    ("y = 2x + 3", "2x+3"),
    ("2x+3", "y = 2x + 3"),
    ("0.5", r"x = \frac{2}{4} = \frac{1}{2}"),
    ("x + y - z + 1 = 0", "z = x + y + 1"),
    ("$f(x)=-1$,$f(x)=x+1$", "f(x)=x+1, f(x)=-1"),
    (r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}", r"\begin{bmatrix} 0.2 \\ -3.6 \end{bmatrix}"),
    (r"\text{Evelyn}", "evelyn"),
    (r"\text{(B)}", "B"),
    ("SRAC=LRAC", "srac = lrac"),
    ("166", r"166 \text{ cm}^2"),
    (r"16\text{ daps}", "16"),
    (r"\frac{270}7\text{ degrees}", r"\frac{270}{7}^\circ"),
    (r"\$32,\!348", "32348"),
    (r"70\%", "0.7"),
    (r"70\%", "70"),
    ("70", r"70\%"),
    ("4343_6", "4343_{6}"),
    ("1,234", "1234"),
    ("27", "27 apples"),
    (r"\frac{2 L_{\odot}}{M_{\odot}^{6}} M^{6}", r"\frac{2M^6}{M_\odot^6}L_\odot"),
    (r"\frac{1}{3}", r"0.\overline{3}"),
    ("(2,251,252)", r"(2,\,251,\,252)"),
    ("101,102", "102, 101"),
    ("8.7e8", r"8.7 \times 10^{8}"),
    ("np.arcsin(10/13)", r"\arcsin{\frac{10}{13}}"),
]
UNEQUAL = [
    ("1,2", "12"),
    ("12", "1,2"),
    ("1,2", "1"),
    ("1", "1,2"),
    ("-2,-2", "-2"),
    ("(1,2)", "[1,2]"),
    ("(1,2)", "1,2"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", "1"),
    ("(1,2)", r"\{1,2\}"),
    ("(1,2]", "[1,2)"),
    ("1/2", "1"),
    ("1/2", "2"),
    ("x=1", "y=1"),
    ("x + y - z + 1 = 0", "0"),
    ("0", "x + y = 0"),
    ("1", "x = 2 = 1"),
    (r"50\%", "5"),
    ("0.5", r"0.5\%"),
    ("50", "0.5"),
    (r"5\text{ cm}", r"5\text{ in}"),
    (r"5\text{ cm}", r"5\text{ cm}^2"),
    ("5", r"5 \text{ or } 6"),
    ("5", r"5 \text{ million}"),
    ("52_8", "52"),
    ("52_8", "52_9"),
    (r"5 \text{ cm}", "5 apples"),
    (r"\frac{1}{3}", r"0.\overline{33}4"),
    ("m", "M"),
    ("0.33", r"\frac{1}{3}"),
    (r"\text{Evelyn}", r"\text{not Evelyn}"),
    (r"\text{even}", r"\text{odd}"),
    (r"\text{A}", r"\text{A, B}"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 & 2 \end{pmatrix}"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", "(1,2)"),
    ("5", ""),
    ("", ""),
]


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_equal(gold: str, answer: str) -> None:
    assert equal(gold, answer)


@pytest.mark.parametrize(("gold", "answer"), UNEQUAL)
def test_unequal(gold: str, answer: str) -> None:
    assert not equal(gold, answer)


def test_brackets_too_deep_for_an_answer_are_unequal() -> None:
    assert not equal("5", "(" * 100 + "5" + ")" * 100)
