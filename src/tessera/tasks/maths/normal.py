r"""One spelling for answers that differ only in how they are written: `\dfrac12`, `\frac{1}{2}`; `10,\!080`, `10080`.

Rewriting of strings, in an order that matters; nothing is evaluated and nothing is dropped that has a value.
"""

from __future__ import annotations

import re
import unicodedata

_CHARACTERS = str.maketrans(
    {
        "\N{MINUS SIGN}": "-",
        "\N{EN DASH}": "-",
        "\N{MULTIPLICATION SIGN}": r"\cdot ",
        "\N{MIDDLE DOT}": r"\cdot ",
        "\N{DOT OPERATOR}": r"\cdot ",
        "\N{DIVISION SIGN}": "/",
        "\N{GREEK SMALL LETTER PI}": r"\pi ",
        "\N{INFINITY}": r"\infty ",
        "\N{DEGREE SIGN}": r"^\circ ",
        "\N{LESS-THAN OR EQUAL TO}": r"\le ",
        "\N{GREATER-THAN OR EQUAL TO}": r"\ge ",
        "\N{UNION}": r"\cup ",
        "\N{ELEMENT OF}": r"\in ",
        "\N{PLUS-MINUS SIGN}": r"\pm ",
        "\N{SUPERSCRIPT TWO}": "^{2}",
        "\N{SUPERSCRIPT THREE}": "^{3}",
        "\N{NO-BREAK SPACE}": " ",
    }
)


def _rules(*pairs: tuple[str, str]) -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(pattern), replacement) for pattern, replacement in pairs]


_LAYOUT = _rules(
    (r"\\(?:left|right|[bB]igg?[lr]?)(?![a-zA-Z])\s*\.?|\\(?:displaystyle|textstyle|limits)(?![a-zA-Z])", ""),
    (r"(\\\\)\s*\[[\d.]+\s*(?:pt|ex|em|mm|cm)\]", r"\1 "),  # space between the rows of a matrix
    (r"(?<!\\)\\[()\[\]]", " "),
    (r"(?<=\d)(?:,\\!|\{,\}(?:\\!)?|\\[!,])(?=\d{3}(?!\d))", ""),  # 10,\!080 is a number
    (
        r"\\(?:quad|qquad|enspace|thinspace|hfill)(?![a-zA-Z])|\\[hv]space\*?\{[^{}]*\}|\\phantom(?:\{[^{}]*\}|\s*\W)",
        " ",
    ),
    (r"(?<!\\)\\[,!;:> ]|~", " "),
    (r"\\(?:mbox|hbox|textbf|textit|textrm|textnormal|textsf|texttt|mathop)\s*\{", r"\\text{"),
    (r"\\(?:mathbf|boldsymbol|bm|mathit|mathsf|mathcal|ensuremath)\s*\{((?:[^{}]|\{[^{}]*\})*)\}", r"\1"),
    (r"\\(?:mathrm|operatorname)\*?\s*\{\s*([a-zA-Z])\s*\}", r" \1 "),  # an upright i, e or d
    (r"\\(?:mathrm|operatorname)\*?\s*\{\s*((?:arc)?(?:sin|cos|tan)|cot|sec|csc|exp|log|ln|gcd)\s*\}", r"\\\1 "),
    (r"\\(?:mathrm|rm|operatorname)\*?\s*\{", r"\\text{"),
    (r"\\text\s*\{\s*((?:[^{}]*[^{}\s])?)\s*\}", r"\\text{\1}"),
    (r"\\text\{([+-]?\d[\d.,]*)\}", r"\1"),
    (r"\\text\{(?:,?\s*(?:and|or)|,)\s*\}", ","),
    (r"\\text\{(?:percent|per cent|%|\\%)\}|(?<!\\)%|(?<=\d)\s*(?:percent|per cent)\b", r"\\%"),
    (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))|\\degrees?(?![a-zA-Z])", r"\\text{degree}"),
    (r"(?<=\d)\s*(?:\^\s*\{\s*\\prime\s*\\prime\s*\}|'')", r"\\text{arcsecond}"),
    (r"\\text\{\}", ""),
)
_SYMBOLS = _rules(
    (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
    (r"\\(?:leqslant|leqq|leq)(?![a-zA-Z])", r"\\le"),
    (r"\\(?:geqslant|geqq|geq)(?![a-zA-Z])", r"\\ge"),
    (r"\\(?:lt)(?![a-zA-Z])", "<"),
    (r"\\(?:gt)(?![a-zA-Z])", ">"),
    (r"<=", r"\\le "),
    (r">=", r"\\ge "),
    (r"\\(?:times|ast)(?![a-zA-Z])|\*(?!\*)(?<!\*\*)", r"\\cdot "),
    (r"\*\*", "^"),
    (r"\\div(?![a-zA-Z])", "/"),
    (r"\\lbrace(?![a-zA-Z])", r"\\{"),
    (r"\\rbrace(?![a-zA-Z])", r"\\}"),
    (r"\\(?:lvert|rvert|vert)(?![a-zA-Z])", "|"),
    (r"\\(?:varnothing|emptyset)(?![a-zA-Z])|\\\{\s*\\\}", r"\\text{empty set}"),
    (r"\+\s*\\infty", r"\\infty"),
    (r"\\var(?=epsilon|phi|theta|rho)", r"\\"),
)
# References written as code: `np.arcsin(10/13)`, `\exp{a*t}`, `-3./2`, `8.7e8`.
_CODE = _rules(
    (r"\b(?:np|numpy|math|sp|sympy)\.", ""),
    (r"(?<![\\a-zA-Z])(arcsin|arccos|arctan|sin|cos|tan|exp|log|ln)(?=\s*\()", r"\\\1"),
    (r"(?<![\\a-zA-Z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
    (r"(?<![\\a-zA-Z])pi(?![a-zA-Z])", r"\\pi "),
    (r"(?<![\\a-zA-Z])(?:infinity|inf|oo)(?![a-zA-Z])", r"\\infty "),
    (r"\\exp\s*\{([^{}]*)\}", r"e^{\1}"),
    (r"\\exp\s*\(([^()]*)\)", r"e^{\1}"),
    (r"\\(a?r?c?sin|a?r?c?cos|a?r?c?tan)\s*\{([^{}]*)\}", r"\\\1(\2)"),
    (r"(?<![\w.])(\d+(?:\.\d*)?|\.\d+)[eE]([+-]?\d+)(?!\w)", r"\1 \\cdot 10^{\2}"),
    (r"(\d)\.(?!\d)(?=\s*[/)}+\-]|\s*\\(?!overline|bar))", r"\1"),
)
# A macro's argument without braces is one digit or letter: \frac12, \sqrt2.
_BRACES = _rules(
    (r"\\frac\s*(\d|[a-zA-Z](?![a-zA-Z]))", r"\\frac{\1}"),
    (r"\\frac\s*(\\[a-zA-Z]+)", r"\\frac{\1}"),
    (r"(\\frac\{(?:[^{}]|\{[^{}]*\})*\})\s*(\d|[a-zA-Z])", r"\1{\2}"),
    (r"√\s*(?:\{([^{}]*)\}|\(([^()]*)\)|(\d+|[a-zA-Z]))", r"\\sqrt{\1\2\3}"),
    (r"\\sqrt\s*(\d|[a-zA-Z](?![a-zA-Z]))", r"\\sqrt{\1}"),
    (r"\\binom\s*(\d)\s*(\d)", r"\\binom{\1}{\2}"),
    (r"([\^_])\s*\{\s*(\d|[a-zA-Z])\s*\}", r"\1\2"),
)


def normal(latex: str) -> str:
    """`latex` in the one spelling; the empty string where it holds control characters or digits other than 0-9.

    Digits of other scripts are refused rather than read: no reference has them, and readers disagree about them.
    """
    text = latex.translate(_CHARACTERS)
    if any(unicodedata.category(c) in ("Cc", "Nd", "No", "Nl") and c not in "0123456789\n\t\r" for c in text):
        return ""
    text = " ".join(re.sub(r"(?<!\\)\$", " ", text).split())
    for rules in (_LAYOUT, _SYMBOLS, _CODE, _BRACES):
        for pattern, replacement in rules:
            text = pattern.sub(replacement, text)
    text = " ".join(text.split())
    return re.sub(r"(?<!\d)[.;:,]$|(?<=\d)[.;:,]$", "", text).strip()
