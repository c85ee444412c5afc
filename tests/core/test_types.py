"""The plain data of a run."""

import dataclasses

import pytest

from tessera.core.types import Completion, Group, Message, Problem, Rollout


def rollout(reward):
    return Rollout((1,), (2, 3), (True, False), (-0.5, None), "stop", "text", reward)


def test_the_key_of_a_text_folds_white_space():
    assert Problem("a", "  What is\n 2 +\t2? ", 4).key == "What is 2 + 2?"
    assert Problem("a", "x  y", 1).key == Problem("b", "x y", 2).key


def test_the_key_of_a_conversation_holds_roles_and_contents():
    messages = (Message("system", "Be  brief."), Message("user", "2+2?\n"))
    assert Problem("a", messages, 4).key == "system: Be brief. user: 2+2?"
    assert Problem("a", (Message("assistant", "2+2?"),), 4).key != Problem("a", (Message("user", "2+2?"),), 4).key


def test_the_rewards_of_a_group_leave_out_failed_rollouts():
    group = Group(Problem("a", "q", 1), (1,), (rollout(1.0), rollout(None), rollout(0.0)))
    assert group.rewards == (1.0, 0.0)  # None is not 0


@pytest.mark.parametrize(
    "value", [Message("user", "x"), Problem("a", "q", 1), Completion((1,), (-0.1,), "stop"), rollout(1.0)]
)
def test_data_is_frozen(value):
    name = dataclasses.fields(value)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, name, None)


def test_defaults_are_not_shared():
    assert Problem("a", "q", 1).metadata is not Problem("b", "q", 1).metadata
    assert rollout(1.0).components == {}
    assert rollout(1.0).error is None
