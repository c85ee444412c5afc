from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.reports.text import cut, duration, percent, short, visible


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0"),
        (0.12345, "0.1235"),
        (1204.5, "1204"),  # four digits; half to even
        (9999, "9999"),
        (12500, "12.5k"),
        (-1_500_000, "-1.5M"),
        (2e10, "20G"),
        (5e-6, "5e-6"),
        (-0.00025, "-2.5e-4"),
        (1e-12, "1e-12"),
    ],
)
def test_short_numbers(value: float | None, text: str) -> None:
    assert short(value) == text


def test_shares_and_times() -> None:
    assert (percent(0.7034), percent(None)) == ("70.3 %", "–")
    # 3725 s = 1 h 2 min 5 s
    assert [duration(s) for s in (4.23, 200, 3725)] == ["4.2 s", "3 min 20 s", "1 h 02 min"]
    assert duration(59.99) == "60.0 s"


def test_hidden_characters_show() -> None:
    assert visible("a\x00b\x1b\x7f\x9f\u202e\ud800\r") == "a␀b␛␡⟨U+009F⟩⟨U+202E⟩⟨U+D800⟩␍"


def test_ordinary_text_of_any_script_is_left_alone() -> None:
    text = "Zwölf\t× 3\n= 日本 می\u200cخواهم 👩\u200d🔬"
    assert visible(text) == text


@given(st.text(st.characters()))
def test_whatever_comes_out_can_be_encoded_and_seen(text: str) -> None:
    shown = visible(text)
    shown.encode("utf-8")
    assert not any(unicodedata.category(c) == "Cc" for c in shown.replace("\n", "").replace("\t", ""))
    assert visible(shown) == shown


def test_cut_counts_what_it_leaves_out() -> None:
    assert cut("abcdef", 6) == "abcdef"
    assert cut("abcdef", 4) == "abcd … (2 more characters)"
