"""Turns by hand: which tokens are there, who wrote them, and when it is over."""

from __future__ import annotations

import pytest

from scripted import EOS, Echo
from tessera.core.types import Completion, ToolCall, Turn
from tessera.environments.episode import Episode, Limits, Words, longest
from tessera.environments.syntax import Result, Tags
from tessera.environments.tool import Call

# One id a character; `#` is a special token where it is allowed to be one.
WORDS = Words(
    lambda text, special: [3 if special and c == "#" else ord(c) for c in text],
    lambda ids: "".join(map(chr, ids)),
    frozenset({EOS}),
)


def ids(text: str) -> list[int]:
    return [ord(c) for c in text]


def said(text: str, *more: int, reason: str = "stop") -> Completion:
    written = (*ids(text), *more)
    return Completion(written, (-0.5,) * len(written), reason)  # type: ignore[arg-type]


def episode(turns: int = 2, tokens: int = 100, result_tokens: int = 5) -> Episode:
    return Episode(Tags([Echo("e")]), WORDS, Limits(turns, tokens, result_tokens))


def test_a_call_its_result_and_an_answer() -> None:
    one = episode()
    calls = one.add(said("ab<e>x</e>"))
    assert calls == [Call("e", {"text": "x"})]
    one.put(calls, [Result("#1")])
    around = "\n<information>#1</information>\n"
    assert one.add(said("<answer>y</answer>")) == []
    assert one.finish_reason == "stop"
    assert one.ids == ids("ab<e>x</e>" + around + "<answer>y</answer>")  # and # is a letter: tools have no specials
    assert one.sampled == [True] * 10 + [False] * len(around) + [True] * 18
    assert [p is None for p in one.logprobs] == [not own for own in one.sampled]
    assert one.text == "ab<e>x</e><answer>y</answer>"
    assert one.turns == [Turn(10, 10 + len(around), (ToolCall("e", {"text": "x"}),))]
    assert one.left == 100 - 28


def test_results_are_cut_and_failures_kept() -> None:
    one = episode(result_tokens=4)
    one.put(one.add(said("<e>x</e>")), [Result("123456", "crash")])
    assert WORDS.decode(one.ids).endswith("<information>1234</information>\n")
    assert one.turns[0].calls == (ToolCall("e", {"text": "x"}, "crash"),)
    one.put(one.add(said("<e>x</e>")), [Result(" ")])
    assert one.turns[1].calls == (ToolCall("e", {"text": "x"}, None, empty=True),)


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        (said("no more", EOS), "stop"),
        (said("<e>cut of", reason="length"), "length"),
        (said("<e>x</e>", reason="length"), "length"),
        (said("", reason="error"), "error"),
    ],
)
def test_a_turn_without_a_whole_call_ends_it(completion: Completion, reason: str) -> None:
    one = episode()
    assert one.add(completion) == [] and one.finish_reason == reason and one.turns == []
    assert all(one.sampled) and len(one.sampled) == len(one.ids)


def test_the_limits_of_turns_and_tokens() -> None:
    one = episode(turns=1)
    one.put(one.add(said("<e>x</e>")), [Result("1")])
    assert one.add(said("<e>x</e>")) == [] and one.finish_reason == "length"
    full = episode(tokens=8)
    assert full.add(said("<e>x</e>")) == [] and full.finish_reason == "length"  # nothing is left to answer with


def test_an_end_of_text_is_no_part_of_what_was_said() -> None:
    one = episode()
    assert one.add(said("<e>x</e>", EOS)) == [Call("e", {"text": "x"})]
    assert one.text == "<e>x</e>"


def test_an_episode_that_goes_on_from_an_earlier_one() -> None:
    first = episode(turns=2)
    first.put(first.add(said("<e>x</e>")), [Result("1")])
    cut = len(first.ids)
    again = Episode(first.syntax, WORDS, first.limits, first.ids[:cut] + ids("<"), [*first.sampled[:cut], True])
    assert (again.taken, again.left) == (1, first.left - 1)
    calls = again.add(said("e>z</e>"))
    assert calls == [Call("e", {"text": "z"})]  # its turn began before the cut
    again.put(calls, [Result("2")])
    assert again.turns[0].start == cut + 8 and again.add(said("<e>x</e>")) == []
    assert again.finish_reason == "length"  # the turn of the earlier one counts
    assert again.logprobs[: cut + 1] == [None] * (cut + 1)


class Two(Tags):
    def calls(self, text: str) -> list[Call]:
        return [Call("e", {"text": c}) for c in text]


def test_several_calls_share_the_room_and_a_turn() -> None:
    one = Episode(Two([Echo("e")]), WORDS, Limits(3, 100, 6))
    calls = one.add(said("abcdefg"))
    assert len(calls) == 4  # no more than these are run
    one.put(calls, [Result(c * 9) for c in "1234"])
    assert WORDS.decode(one.ids[7:]) == "\n<information>1\n2\n3\n4</information>\n"  # 6 // 4 tokens each


def test_the_longest_episode_is_as_long_as_said() -> None:
    """Three turns of four calls, as long as they may be: the tokens written, and three times frame and results."""
    syntax, limits = Two([Echo("e")]), Limits(3, 13, 8)
    one = Episode(syntax, WORDS, limits)
    for turn in ("abcd", "abcd", "abcd", "e"):
        calls = one.add(said(turn))
        if calls:
            one.put(calls, [Result("9" * 50)] * 4)
    assert one.finish_reason == "length"
    assert len(one.ids) == longest(syntax, WORDS, limits) == 13 + 3 * (8 + 14 + 15 + 3)


def test_of_a_result_without_end_the_beginning_is_read() -> None:
    read: list[int] = []

    def encode(text: str, special: bool) -> list[int]:
        read.append(len(text))
        return WORDS.encode(text, special)

    one = Episode(Tags([Echo("e")]), WORDS._replace(encode=encode), Limits(2, 100, 5))
    one.put(one.add(said("<e>x</e>")), [Result("9" * 10**7)])
    assert WORDS.decode(one.ids).endswith(">99999</information>\n") and max(read) == 5 * 32
