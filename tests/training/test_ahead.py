"""What was begun is taken once, when it is done; an error waits for whoever takes it."""

from __future__ import annotations

import threading

import pytest

from tessera.core.errors import RunStopped
from tessera.core.types import Group, Problem
from tessera.training.ahead import Ahead, Sampled

PROBLEM = Problem("p", "?", None)
SAMPLED = Sampled(([Group(PROBLEM, (1,), ())], []), 3, {"rollout": 2.0, "reward": 0.5})


def test_it_goes_on_beside_its_caller_and_is_taken_once() -> None:
    ahead, gate = Ahead(), threading.Event()
    assert not ahead.begun
    assert ahead.take() is ahead.wait() is None
    ahead.begin(lambda: SAMPLED if gate.wait(20) else Sampled((), 0))
    assert ahead.begun
    gate.set()  # begin has returned, so it did not wait
    assert ahead.wait() is ahead.take() is SAMPLED
    assert ahead.take() is None


def test_an_error_is_raised_by_take_alone() -> None:
    def fail() -> Sampled:
        raise RunStopped("the server is gone")

    ahead = Ahead()
    ahead.begin(fail)
    assert ahead.wait() is None
    assert ahead.begun
    with pytest.raises(RunStopped, match="the server is gone"):
        ahead.take()
    ahead.begin(fail)
    ahead.put(SAMPLED)
    assert ahead.take() is SAMPLED
    ahead.put(None)
    assert not ahead.begun


def test_times_are_those_of_the_step_that_waited() -> None:
    assert SAMPLED.times == {"rollout": 2.0, "reward": 0.5}
    later = Sampled(SAMPLED.rounds, 3, SAMPLED.seconds, waited=0.25)
    assert later.times == {"rollout": 0.25, "reward": 0.0, "ahead": 2.5}
    assert Sampled.from_plain(later.to_plain(), {"p": PROBLEM}) == SAMPLED
    assert SAMPLED.groups == SAMPLED.rounds[0]
