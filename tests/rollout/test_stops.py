"""Why a row ends: end tokens, stop texts, the limit, values that are not finite."""

from __future__ import annotations

import pytest

from tessera.rollout.engine import Request, Sampling
from tessera.rollout.hf import HFEngine
from tessera.rollout.stops import Stops
from tiny import tiny_policy, tiny_tokenizer

TEXT = tiny_tokenizer()


def ids(text: str) -> list[int]:
    return TEXT(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    ("said", "logp", "reason"),
    [
        (ids("so"), -1.0, None),
        ([*ids("so"), 2], -1.0, "stop"),  # <eos>
        (ids("so END"), -1.0, "stop"),
        (ids("so END of"), -1.0, None),  # ended before, had it been asked then
        (ids("0123456789"), -1.0, "length"),
        ([*ids("012345678"), 2], -1.0, "stop"),  # an end at the limit is an end
        (ids("so"), float("nan"), "error"),
    ],
)
def test_reasons(said: list[int], logp: float, reason: str | None) -> None:
    stops = Stops(tiny_policy(), ["END", "?"])
    stops.tail = 3  # the newest three characters are looked at
    assert stops.reason(said, [0.0] * (len(said) - 1) + [logp], 10) == reason


def test_a_stop_text_ends_a_row_with_the_token_that_completes_it() -> None:
    engine = HFEngine(tiny_policy())
    (free,) = engine.generate([Request((1, 30), 5)], Sampling(max_new_tokens=20))
    text = TEXT.decode(free.ids[3:5])
    assert text not in TEXT.decode(free.ids[:4])
    (ended,) = engine.generate([Request((1, 30), 5)], Sampling(max_new_tokens=20, stop=(text,)))
    assert ended.ids == free.ids[:5]
    assert ended.logprobs == free.logprobs[:5]
    assert ended.finish_reason == "stop"
