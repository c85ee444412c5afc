"""The data of the credit view: small, exact enough, and of as many groups as fit."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tessera.core.batch import Scored
from tessera.core.covariance import covariance
from tessera.reports.credit import Credit, covariances, of_stages, pack, recorded, spread, view
from tessera.reports.summary import Row


def at(line: object, k: int) -> object:
    """A value of a packed line, as values.js reads it."""
    if isinstance(line, list):
        return line[k]
    return int(line[k]) if isinstance(line, str) else line


def test_groups_are_taken_evenly_whatever_their_number() -> None:
    assert spread(0) == []
    assert spread(1) == [0]
    assert spread(9) == [0, 8, 4, 2, 6, 1, 3, 5, 7]


@given(st.integers(1, 300))
def test_every_group_is_taken_once(count: int) -> None:
    assert sorted(spread(count)) == list(range(count))


def test_a_row_in_few_characters_says_the_same(made: SimpleNamespace) -> None:
    first = made.rollout(
        ["a", "bb", "bb"],
        sampled=[1, 0, 1],
        selected=[1, 0, 1],
        sampler=[-0.123456, None, -7.0],
        new=[-0.2, None, None],
        old=[-0.2, None, None],
        weight=[1.23456, None, None],
        push=[0.25, None, -0.5],
        components={"<b>": 0.5},
    )
    found = pack(made.group(3, first, made.rollout(["a"], 0.0, push=[0.25])), {"rl": "t_spmo"}, {})
    assert found["table"] == [[1, "a"], [2, "bb"]]
    one, two = found["rollouts"]
    assert (one["t"], two["t"]) == ([0, 1, 1], [0])
    assert (one["written"], two["written"]) == ("101", 1)
    assert (one["sampler"], one["new"], one["old"], one["ref"]) == (
        [-0.1235, None, -7.0],
        [-0.2, None, None],
        "new",
        None,
    )
    assert (one["reward"], one["right"], one["parts"]) == (1.0, True, {"<b>": 0.5})
    (method,) = found["methods"]
    assert (method["name"], method["algorithm"]) == ("as trained", "t_spmo")
    lines, other = method["rollouts"]
    assert lines["A"] == 1
    assert lines["w"] == [1.235, None, None]
    assert (lines["s"], other["s"]) == ("101", 1)
    # the sizes of the pushes add up to 0.25 + 0.5 + 0.25 = 1
    assert (lines["g"], other["g"]) == ([0.25, None, -0.5], 0.25)
    assert (found["step"], found["stage"], found["problem"], found["replay"]) == (3, "rl", "p3", False)


def test_a_group_that_nothing_was_learned_from(made: SimpleNamespace) -> None:
    row = made.group(1, made.rollout(["a"], push=[None], selected=[0]), made.rollout(["b"], push=[0.0], selected=[0]))
    (method,) = pack(row, {}, {})["methods"]
    assert [line["g"] for line in method["rollouts"]] == [None, 0]
    assert [line["c"] for line in method["rollouts"]] == [0, 0]


def test_the_covariance_is_that_of_the_group(made: SimpleNamespace) -> None:
    rows = [([-0.5, -1.5, -0.25], [1.0, 2.0, -1.0], [1, 1, 0]), ([-2.0, -0.125], [0.5, -3.0], [1, 1])]
    row = made.group(1, *(made.rollout(["x"] * len(a), new=lp, advantage=a, selected=s) for lp, a, s in rows))
    table = [torch.zeros(2, 3, dtype=torch.float64) for _ in range(3)]
    for i, lines in enumerate(rows):
        for values, line in zip(table, lines, strict=True):
            values[i, : len(line)] = torch.tensor(line, dtype=torch.float64)
    logp, advantage, selected = table
    scored = Scored(logp, logp, logp, advantage, selected.bool(), logp, logp, torch.zeros(2, dtype=torch.long), 1)
    by_library, _, _ = covariance(scored, "group")
    found = covariances(row, recorded(row))
    assert found[0] == pytest.approx(by_library[0].tolist())
    assert found[1] == pytest.approx(by_library[1, :2].tolist())


def test_where_no_update_scored_a_token_the_sampler_speaks(made: SimpleNamespace) -> None:
    row = made.group(1, made.rollout(["a", "b"], new=[None, -3.0], sampler=[-1.0, -2.0], advantage=[1.0, 0.0]))
    # log-probs -1 and -3, mean -2; advantages 1 and 0, mean 0.5
    assert covariances(row, recorded(row)) == [[0.5, 0.5]]


def big(made: SimpleNamespace, step: int, tokens: int) -> Row:
    lines = [i / 97 % 1 - 0.5 for i in range(tokens)]
    row: Row = made.group(step, made.rollout([f"w{i}" for i in range(tokens)], advantage=lines, new=lines, push=lines))
    return row


def test_no_more_groups_than_fit_and_those_evenly(made: SimpleNamespace) -> None:
    rows = [big(made, step, 500) for step in range(1, 10)]
    whole = view(rows, {}, {}, 10**7)
    assert (whole.shown, whole.recorded) == (9, 9)
    part = view(rows, {}, {}, len(whole.json) // 2)
    steps = [group["step"] for group in json.loads(part.json)]
    assert 2 <= part.shown < 9 and len(part.json) <= len(whole.json) // 2
    assert steps == [n + 1 for n in sorted(spread(9)[: part.shown])]
    assert view(rows, {}, {}, 100) == ("[]", 0, 9)


def test_to_the_byte(made: SimpleNamespace) -> None:
    rows = [made.group(step, made.rollout(["\U0001f469" * 40] * 3)) for step in range(1, 6)]
    whole = view(rows, {}, {}, 10**6)
    assert view(rows, {}, {}, len(whole.json)) == whole
    assert view(rows, {}, {}, len(whole.json) - 1).shown == 4


def test_what_does_not_fit_leaves_its_room_to_others_and_the_rest_is_not_read(made: SimpleNamespace) -> None:
    class Counted(list[Row]):
        def __getitem__(self, number: int) -> Row:  # type: ignore[override]
            asked.append(number)
            return super().__getitem__(number)

    def shown(*large: int) -> list[int]:
        asked.clear()
        rows = Counted(big(made, n, 500 if n in large else 5) for n in range(9))
        return [group["step"] for group in json.loads(view(rows, {}, {}, 10_000).json)]

    asked: list[int] = []
    assert shown(0) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert asked == [0, 8, 4, 2, 6, 1, 3, 5, 7]
    assert shown(8, 4, 6) == [0, 2]  # three that do not fit: the page counts as full
    assert asked == [0, 8, 4, 2, 6]


def test_a_method_that_refuses_a_group_says_why(made: SimpleNamespace) -> None:
    from tessera.core.errors import UserError

    def some(row: Row) -> Credit:
        if row["step"] == 1:
            raise UserError("no")
        return recorded(row)

    packed = json.loads(view([big(made, 1, 2), big(made, 2, 2)], {}, {"some": some}, 10**6).json)
    assert [group["methods"][1].get("error") for group in packed] == ["no", None]
    assert packed[1]["methods"][1]["rollouts"] == packed[1]["methods"][0]["rollouts"]


def test_the_data_cannot_end_its_script_element(made: SimpleNamespace) -> None:
    row = made.group(1, made.rollout(["</script><!--", "\u2028\ud800"]), prompt="</SCRIPT>")
    found = view([row], {}, {}, 10**6).json
    assert "<" not in found and found.isascii()
    assert json.loads(found)[0]["table"][0] == [13, "</script><!--"]


def test_the_algorithm_of_each_stage() -> None:
    stages = [
        {"name": "sft", "kind": "sft"},
        {"name": "a", "algorithm": {"name": "grpo", "beta": 0}},
        {"kind": "rl", "algorithm": "dapo"},
    ]
    assert of_stages({"stages": stages}) == {"a": "grpo", "rl": "dapo"}
    assert of_stages({}) == {}
