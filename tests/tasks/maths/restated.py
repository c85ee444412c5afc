r"""Answers written another way: rules that keep what an answer says, each tested by itself.

A rule takes an answer and returns it rewritten, or as it was where the rule does not apply. What the rules know about
LaTeX is written here a second time, apart from the code that has to undo it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction

Rule = Callable[[str], str]
RULES: dict[str, Rule] = {}

_FRACTION = re.compile(r"\\[dt]?frac\{(\d{1,9})\}\{(\d{1,9})\}")
_INTEGER = r"\d{1,12}"
_BRACKETS = re.compile(r"^[(\[].*[)\]]$", re.DOTALL)


def rule(function: Rule) -> Rule:
    """Register a rule by its name."""
    RULES[function.__name__] = function
    return function


def restatements(answer: str) -> dict[str, str]:
    """Every way in which a rule writes `answer` differently."""
    return {name: said for name, change in RULES.items() if (said := change(answer)) != answer}


def top_level(text: str, separator: str) -> list[str]:
    """`text` cut at the separators outside brackets."""
    parts, depth = [""], 0
    for i, c in enumerate(text):
        escaped = i > 0 and text[i - 1] == "\\" and c not in "{}"
        depth += (c in "([{") - (c in ")]}") if not escaped else 0
        if c == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += c
    return parts


@rule
def dfrac(answer: str) -> str:
    return answer.replace(r"\frac", r"\dfrac")


@rule
def tfrac(answer: str) -> str:
    return answer.replace(r"\frac", r"\tfrac").replace(r"\dfrac", r"\tfrac")


@rule
def braceless_fraction(answer: str) -> str:
    return re.sub(r"\\frac\{(\d)\}\{(\d)\}", r"\\frac\1\2", answer)


@rule
def slash(answer: str) -> str:
    """A fraction that stands alone, with a slash."""
    return f"{match[1]}/{match[2]}" if (match := _FRACTION.fullmatch(answer)) else answer


@rule
def decimal(answer: str) -> str:
    """A fraction that stands alone and has a finite expansion, as a decimal."""
    match = _FRACTION.fullmatch(answer)
    if match is None:
        return answer
    number = Fraction(int(match[1]), int(match[2]))
    return str(Decimal(number.numerator) / Decimal(number.denominator)) if _finite(number) else answer


@rule
def fraction(answer: str) -> str:
    """A plain decimal, as a fraction."""
    if not re.fullmatch(r"-?\d{0,6}\.\d{1,6}", answer):
        return answer
    number = Fraction(answer)
    return rf"{'-' if number < 0 else ''}\frac{{{abs(number.numerator)}}}{{{number.denominator}}}"


@rule
def expanded_fraction(answer: str) -> str:
    """Numerator and denominator three times as large."""
    match = _FRACTION.fullmatch(answer)
    return rf"\frac{{{3 * int(match[1])}}}{{{3 * int(match[2])}}}" if match else answer


@rule
def trailing_zero(answer: str) -> str:
    return f"{answer}.0" if re.fullmatch(rf"-?{_INTEGER}", answer) else answer


@rule
def thousands_comma(answer: str) -> str:
    return f"{int(answer):,}" if re.fullmatch(r"-?\d{4,12}", answer) else answer


@rule
def thousands_space(answer: str) -> str:
    return f"{int(answer):,}".replace(",", r"{,}") if re.fullmatch(r"-?\d{4,12}", answer) else answer


@rule
def thousands_thin(answer: str) -> str:
    return f"{int(answer):,}".replace(",", r",\!") if re.fullmatch(r"-?\d{4,12}", answer) else answer


@rule
def no_thousands(answer: str) -> str:
    return re.sub(r"(?<=\d),\\!(?=\d{3})", "", answer)


@rule
def left_right(answer: str) -> str:
    """Brackets around the whole that grow with it."""
    if r"\left" in answer or not _BRACKETS.match(answer) or len(top_level(answer[1:-1], "\0")) != 1:
        return answer
    depth = 0
    for i, c in enumerate(answer):
        depth += (c in "([") - (c in ")]")
        if depth == 0 and i < len(answer) - 1:
            return answer
    return rf"\left{answer[0]} {answer[1:-1]} \right{answer[-1]}"


@rule
def no_left_right(answer: str) -> str:
    return answer.replace(r"\left", "").replace(r"\right", "") if r"\rightarrow" not in answer else answer


@rule
def tight(answer: str) -> str:
    """No space that LaTeX does not need."""
    if (
        r"\text" in answer
        or r"\mbox" in answer
        or "\\ " in answer
        or re.search(r"\d \d|\d +\\frac|[a-z]{2}", re.sub(r"\\[a-z]+", "", answer))
    ):
        return answer
    return re.sub(r"(?<!\\) +(?![a-zA-Z])|(?<=[^a-zA-Z\\]) +", "", answer)


@rule
def spaced(answer: str) -> str:
    """Space after commas and around signs."""
    if re.search(r"\d,(\\!|\d{3})|[eE]-|\{,\}", answer):
        return answer
    return re.sub(r"(?<![\\(\[{^,=])\s*([+\-=])\s*", r" \1 ", re.sub(r",\s*", ",  ", answer)).strip()


@rule
def thin_spaces(answer: str) -> str:
    return answer if re.search(r"\d,\d{3}", answer) else re.sub(r",\s*(?=[\d\\(-])(?!\\!)", r",\\, ", answer)


@rule
def dollars(answer: str) -> str:
    return answer if "$" in answer else f"${answer}$"


@rule
def parentheses(answer: str) -> str:
    return f"({answer})" if re.fullmatch(rf"{_INTEGER}|{_FRACTION.pattern}", answer) else answer


@rule
def full_stop(answer: str) -> str:
    return answer + "." if re.search(r"[\d})]$", answer) else answer


@rule
def bare_degrees(answer: str) -> str:
    if "C" in answer or not re.search(r"\d\s*\^\s*\{?\\circ", answer):
        return answer
    return re.sub(r"\s*\^\s*(\{\\circ\}|\\circ)", "", answer)


@rule
def worded_degrees(answer: str) -> str:
    return re.sub(r"(?<=\d)\s*\^\s*(\{\\circ\}|\\circ)", r" \\text{ degrees}", answer)


@rule
def braced_degrees(answer: str) -> str:
    return re.sub(r"\^\\circ", r"^{\\circ}", answer)


@rule
def measured(answer: str) -> str:
    """A unit that the reference leaves out."""
    return rf"{answer} \text{{ cm}}" if re.fullmatch(rf"{_INTEGER}|{_FRACTION.pattern}", answer) else answer


@rule
def squared_unit(answer: str) -> str:
    return rf"{answer}\text{{ cm}}^2" if re.fullmatch(_INTEGER, answer) else answer


@rule
def mathrm_unit(answer: str) -> str:
    return rf"{answer}~\mathrm{{cm}}" if re.fullmatch(_INTEGER, answer) else answer


@rule
def unmeasured(answer: str) -> str:
    """A unit in text left out."""
    return re.sub(r"(?<=[\d}])\s*\\(text|mbox)\{[a-z ]+\}(\^\d)?$", "", answer)


@rule
def no_dollar_sign(answer: str) -> str:
    return answer.replace(r"\$", "")


@rule
def percent_spaced(answer: str) -> str:
    return answer.replace(r"\%", r" \%")


@rule
def percent_worded(answer: str) -> str:
    return answer.replace(r"\%", r"\text{ percent}")


@rule
def percent_value(answer: str) -> str:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*\\%", answer)
    return str(Decimal(match[1]) / 100) if match else answer


@rule
def named(answer: str) -> str:
    """`x =` before a lone value."""
    return (
        f"x = {answer}" if re.fullmatch(rf"-?({_INTEGER}|{_FRACTION.pattern}|\d*\\sqrt\{{\d+\}})", answer) else answer
    )


@rule
def unnamed(answer: str) -> str:
    return re.sub(r"^\s*[a-zA-Z](\([a-z]\))?\s*=(?=[^=]*$)", "", answer)


@rule
def power_of_ten(answer: str) -> str:
    return re.sub(r"^(-?\d+(?:\.\d+)?)e([+-]?\d+)$", r"\1 \\times 10^{\2}", answer)


@rule
def dotted_power_of_ten(answer: str) -> str:
    return re.sub(r"^(-?\d+(?:\.\d+)?)e([+-]?\d+)$", r"\1\\cdot10^{\2}", answer)


@rule
def code_power_of_ten(answer: str) -> str:
    return re.sub(r"^(-?\d+(?:\.\d+)?)\s*\\times\s*10\^\{?(-?\d+)\}?$", r"\1e\2", answer)


@rule
def scientific(answer: str) -> str:
    """A long integer in scientific notation, exactly."""
    if not re.fullmatch(r"[1-9]\d{3,9}", answer):
        return answer
    return rf"{answer[0]}.{answer[1:]} \times 10^{{{len(answer) - 1}}}"


@rule
def multiplied(answer: str) -> str:
    r"""`\cdot` where a number stands before a root, pi or a letter."""
    return re.sub(r"(?<![\d.^_{])(\d+)\s*(?=\\sqrt|\\pi)", r"\1 \\cdot ", answer)


@rule
def braced_scripts(answer: str) -> str:
    return re.sub(r"([\^_])(\d|[a-z])(?!\w)", r"\1{\2}", answer)


@rule
def unbraced_scripts(answer: str) -> str:
    return re.sub(r"([\^_])\{(\d)\}(?!\d)", r"\1\2", answer)


@rule
def root_first(answer: str) -> str:
    match = re.fullmatch(r"(\d+)\s*(\\sqrt\{\d+\})", answer)
    return rf"{match[2]} \cdot {match[1]}" if match else answer


@rule
def root_as_power(answer: str) -> str:
    return re.sub(r"\\sqrt\{(\d+)\}$", r"\\cdot \1^{1/2}", answer) if re.search(r"\d\\sqrt\{\d+\}$", answer) else answer


@rule
def bracket_matrix(answer: str) -> str:
    return answer.replace("{pmatrix}", "{bmatrix}")


@rule
def array_matrix(answer: str) -> str:
    if r"\begin{pmatrix}" not in answer:
        return answer
    columns = "c" * (answer.split(r"\\")[0].count("&") + 1)
    inside = answer.replace(r"\begin{pmatrix}", rf"\left(\begin{{array}}{{{columns}}}")
    return inside.replace(r"\end{pmatrix}", r"\end{array}\right)")


@rule
def reversed_list(answer: str) -> str:
    """Several answers, or the elements of a set, in the other order."""
    said = answer.replace("$", "")
    inner = re.fullmatch(r"\\\{(.*)\\\}", said)
    parts = top_level(inner[1] if inner else said, ",")
    if (
        len(parts) < 2
        or re.search(r"\d,\\!|where|\\text|=\\frac\{1\}\{6\}|^x=", said)
        or (re.fullmatch(r"[\d,]+", said) and _thousands(said))
    ):
        return answer
    listed = ", ".join(part.strip() for part in reversed(parts))
    return rf"\{{{listed}\}}" if inner else listed


@rule
def listed_with_and(answer: str) -> str:
    parts = top_level(answer.replace("$", ""), ",")
    if len(parts) != 2 or re.search(r"\d,\\!|where|\\text|^[a-z]=", answer) or _thousands(answer):
        return answer
    return rf"{parts[0].strip()} \text{{ and }} {parts[1].strip()}"


@rule
def as_set(answer: str) -> str:
    parts = top_level(answer, ",")
    if len(parts) < 2 or re.search(r"\d,\\!|where|\\text|=|\$", answer) or _thousands(answer):
        return answer
    return rf"\{{{answer}\}}"


@rule
def plus_minus(answer: str) -> str:
    r"""`a \pm b` as two answers."""
    if answer.count(r"\pm") != 1 or r"\{" in answer:
        return answer
    return ", ".join(answer.replace(r"\pm", sign) for sign in "+-")


@rule
def union_reversed(answer: str) -> str:
    parts = answer.split(r"\cup")
    return r" \cup ".join(part.strip() for part in reversed(parts)) if len(parts) > 1 and "$" not in answer else answer


@rule
def upper_text(answer: str) -> str:
    return (
        re.sub(r"\\text\{([a-z ]+)\}", lambda m: rf"\text{{{m[1].capitalize()}}}", answer)
        if answer.startswith(r"\text")
        else answer
    )


@rule
def bare_text(answer: str) -> str:
    return re.sub(r"^\\text\{([A-Za-z() ]+)\}$", r"\1", answer)


@rule
def lower_text(answer: str) -> str:
    return re.sub(r"^\\text\{([A-Za-z() ]+)\}$", lambda m: rf"\text{{{m[1].lower()}}}", answer)


@rule
def bold_text(answer: str) -> str:
    return re.sub(r"^\\text\{", r"\\textbf{", answer)


@rule
def display(answer: str) -> str:
    return rf"\displaystyle {answer}"


@rule
def reordered_sum(answer: str) -> str:
    """The terms of a sum of two in the other order."""
    match = re.fullmatch(r"(\d*(?:\\sqrt\{\d+\}|\\pi|\d))\s*\+\s*(\d*\s*(?:\\sqrt\{\d+\}|\\pi|[a-z]|\d))", answer)
    return f"{match[2]} + {match[1]}" if match else answer


def mutations(answer: str) -> dict[str, str]:
    """What `answer` does not say: one number, sign, bracket or item changed. What only drops a unit or a name, or
    adds a zero behind a point, is none."""
    said = {}
    numbers = list(re.finditer(r"\d+", answer))
    if numbers:
        first, last = numbers[0], numbers[-1]
        said["first number"] = f"{answer[: first.start()]}{int(first[0]) + 1}{answer[first.end() :]}"
        said["last number"] = f"{answer[: last.start()]}{int(last[0]) + 1}{answer[last.end() :]}"
        said["one more item"] = f"{answer}, 987"
        said["twice"] = f"{answer}, {answer}"
        said["a point of a plane"] = f"({answer}, {answer})"
        if re.fullmatch(rf"-?{_INTEGER}", answer) and int(answer):
            said["ten times"] = f"{answer}0"
            said["its negative"] = str(-int(answer))
    if len(numbers) > 1 and not re.search(r"\d\.\d|\d(,\\!|\{,\}|,)\d{3}|[a-zA-Z]\s*=|\\(text|mbox)|^cm", answer):
        said["first number alone"] = first[0]
        said["last number alone"] = last[0]
        said["digits joined"] = "".join(number[0] for number in numbers)
    parts = top_level(answer[1:-1] if (row := _BRACKETS.match(answer)) else answer, ",")
    if row and len(parts) > 1:
        said["brackets"] = answer.translate(str.maketrans("()[]", "[]()"))
        said["set of a row"] = rf"\{{{answer[1:-1]}\}}"
        said["list of a row"] = answer[1:-1]
        said["without the last entry"] = f"{answer[0]}{','.join(parts[:-1])}{answer[-1]}"
        if len({part.strip() for part in parts}) == len(parts):
            said["entries reversed"] = f"{answer[0]}{','.join(reversed(parts))}{answer[-1]}"
    elif len(parts) > 1 and not _thousands(answer) and r",\!" not in answer:
        said["without the last item"] = ",".join(parts[:-1])
    if re.search(r"[\w})]\s*[+\-]\s*[\w\\({]", answer):
        said["sign"] = re.sub(r"(?<=[\w})])(\s*)([+\-])", lambda m: m[1] + "+-"[m[2] == "+"], answer, count=1)
    return {name: text for name, text in said.items() if text != answer}


def _finite(number: Fraction) -> bool:
    below = number.denominator
    for prime in (2, 5):
        while below % prime == 0:
            below //= prime
    return below == 1 and number.denominator < 10**9


def _thousands(text: str) -> bool:
    return re.fullmatch(r"\d{1,3}(,\d{3})+", text.strip()) is not None
