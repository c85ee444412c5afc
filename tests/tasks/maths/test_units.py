import pytest

from tessera.tasks.maths.units import Measured, split_unit


@pytest.mark.parametrize(
    ("text", "number", "unit"),
    [
        (r"5 \text{cm}", "5", "centimeter"),
        (r"5 \text{centimeters}", "5", "centimeter"),
        (r"166 \text{cm}^2", "166", "centimeter 2"),
        (r"166 \text{square centimeters}", "166", "centimeter 2"),
        ("166 cm^2", "166", "centimeter 2"),
        (r"30\text{degree}", "30", "degree"),
        (r"\$20", "20", "dollar"),
        (r"-\$20", "-20", "dollar"),
        ("20 miles", "20", "mile"),
        (r"\frac{600}{7} km/h", r"\frac{600}{7}", "kilometer / hour"),
        (r"70\%", "70", "%"),
        ("27 apples", "27", "apple"),
        (r"\frac{1}{2} red apples", r"\frac{1}{2}", "red apple"),
        ("3 cos x", "3 cos x", ""),
        ("5 or 6", "5 or 6", ""),
        ("5 not six", "5 not six", ""),
        ("3 xy", "3 xy", ""),  # a product
        (r"5 \text{million}", r"5 \cdot 10^6", ""),
        (r"5 \text{or } 6", r"5 \text{or } 6", ""),
        (r"5 \text{is wrong}", r"5 \text{is wrong}", ""),
        (r"\text{cm}", r"\text{cm}", ""),
        ("5m", "5m", ""),  # a variable
        ("5", "5", ""),
        (r"x_{\text{red}}", r"x_{\text{red}}", ""),
    ],
)
def test_split_unit(text: str, number: str, unit: str) -> None:
    assert split_unit(text) == Measured(number, unit)
