"""Errors and the nearest known name."""

import pytest

from tessera.core.errors import RunStopped, TesseraError, UserError, nearest, unknown


def test_nearest_suggests_one_close_name():
    assert nearest("gpro", ["s_grpo", "grpo", "t_spmo"]) == " (did you mean 'grpo'?)"


def test_nearest_lists_all_names_once_in_order_when_none_is_close():
    assert nearest("zzz", ["b", "a", "b"]) == " (known: a, b)"


def test_nearest_is_silent_when_nothing_is_known():
    assert nearest("x", []) == ""


def test_unknown_reads_as_one_line():
    error = unknown("algorithm", "gpro", ["grpo"])
    assert isinstance(error, UserError)
    assert str(error) == "unknown algorithm 'gpro' (did you mean 'grpo'?)"


@pytest.mark.parametrize("kind", [UserError, RunStopped])
def test_every_error_on_purpose_has_one_base(kind):
    assert issubclass(kind, TesseraError)
    assert not issubclass(kind, (ValueError, RuntimeError))  # a bug is never mistaken for one of them
