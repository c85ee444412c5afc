"""Groups that went through JSON are the groups that were."""

from __future__ import annotations

import json
import math
from dataclasses import replace

from tessera.core.types import Group, Message, Problem, Rollout, ToolCall, Turn
from tessera.rollout.stored import from_plain, to_plain

PROBLEM = Problem("p", (Message("user", "?"),), {"answer": (1, 2)}, metadata={"level": 3})
ROLLOUT = Rollout(
    prompt_ids=(1, 2),
    ids=(7, 8, 9),
    sampled=(True, False, True),
    logprobs=(-0.1 - 1e-17, None, -1 / 3),
    finish_reason="length",
    text="naïve \x00 text",
    reward=0.1 + 0.2,
    components={"right": 1.0, "overlong": -0.7},
    unshaped=1.0,
    correct=True,
    turns=(Turn(1, 2, (ToolCall("search", {"query": ["a", 1]}, empty=True), ToolCall("sql", {}, "timeout"))),),
    trunk=object(),  # what an engine kept is let go of
)
FAILED = Rollout((1, 2), (), (), (), "error", "", None, error="ValueError: no")


def test_every_number_comes_back_as_it_was() -> None:
    groups = [Group(PROBLEM, (1, 2), (ROLLOUT, FAILED)), Group(PROBLEM, (1, 2, 3), (), (True, False, True))]
    back = from_plain(json.loads(json.dumps(to_plain(groups))), {"p": PROBLEM})
    assert back == groups
    assert back[0].problem is PROBLEM
    assert back[0].rollouts[0].trunk is None


def test_what_is_not_a_number_stays_so() -> None:
    strange = replace(ROLLOUT, logprobs=(math.nan, None, -math.inf), trunk=None)
    (back,) = from_plain(json.loads(json.dumps(to_plain([Group(PROBLEM, (1, 2), (strange,))]))), {"p": PROBLEM})
    first, unknown, last = back.rollouts[0].logprobs
    assert first is not None
    assert math.isnan(first)
    assert (unknown, last) == (None, -math.inf)
