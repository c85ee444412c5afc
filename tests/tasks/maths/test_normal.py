import pytest

from tessera.tasks.maths.normal import normal


@pytest.mark.parametrize(
    ("latex", "expected"),
    [
        (r"\dfrac12", r"\frac{1}{2}"),
        (r"\tfrac1{2}", r"\frac{1}{2}"),
        (r"\frac 1 2", r"\frac{1}{2}"),
        (r"\sqrt2", r"\sqrt{2}"),
        (r"\left( 1, 2 \right]", "( 1, 2 ]"),
        (r"10,\!080", "10080"),
        (r"1{,}000{,}000", "1000000"),
        (r"10\,000", "10000"),
        ("1,2", "1,2"),
        (r"3,\, 5", "3, 5"),
        (r"1\,2", "1 2"),  # no thousands: a space
        (r"$x = 5$.", "x = 5"),
        (r"\(5\)", "5"),
        (r"\$36", r"\$36"),
        (r"30^{\circ}", r"30\text{degree}"),
        ("30°", r"30\text{degree}"),
        (r"5 \mbox{ cm}", r"5 \text{cm}"),
        (r"5 \mathrm{~cm}", r"5 \text{cm}"),
        (r"\mathbf{2340}", "2340"),
        ("70%", r"70\%"),
        (r"70 \text{ percent}", r"70 \%"),
        (r"2, 3, \text{ and } 4", "2, 3, , 4"),
        ("8.7e8", r"8.7 \cdot 10^{8}".replace("{8}", "8")),
        ("1E-3", r"1 \cdot 10^{-3}"),
        ("np.arcsin(10/13)", r"\arcsin(10/13)"),
        (r"\exp{a*t}", r"e^{a\cdot t}"),
        ("-3./2", "-3/2"),
        ("sqrt(5)", r"\sqrt{5}"),
        ("2π", r"2\pi"),
        ("3√13", r"3\sqrt{13}"),
        ("√(5)", r"\sqrt{5}"),
        (r"\text{27}", "27"),
        (r"\textbf{-1,234}", "-1,234"),
        (r"\operatorname{sin} 5x", r"\sin 5x"),
        (r"\frac\pi 2", r"\frac{\pi}{2}"),
        (r"0.1\overline{6}", r"0.1\overline{6}"),
        (r"\begin{array}{c} 1 \\[4pt] 2 \end{array}", r"\begin{array}{c} 1 \\ 2 \end{array}"),
        ("−5", "-5"),
        (r"x \leqslant 2", r"x \le 2"),
        (r"(-\infty, +\infty)", r"(-\infty, \infty)"),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
        ("٤٢", ""),
        ("4\x00", ""),
        ("½", ""),
        ("", ""),
    ],
)
def test_normal(latex: str, expected: str) -> None:
    assert normal(latex) == expected
    assert normal(expected) == expected
