from __future__ import annotations

from collections.abc import Iterator

from tessera.reports.samples import choose


def test_first_and_last_steps_are_shown_and_those_between_forgotten(made) -> None:
    rows = [made.completion(step, 1.0) for step in (3, 4, 7, 8, 9, 12)]
    assert [step for step, _ in choose(rows)] == [3, 4, 9, 12]
    assert [step for step, _ in choose(rows[:3])] == [3, 4, 7]
    assert choose([]) == []


def test_of_a_step_best_worst_and_failed(made) -> None:
    rows = [
        made.completion(1, 0.5, "middle"),
        made.completion(1, None, "failed", error="ValueError: x"),
        made.completion(1, 1.0, "best"),
        made.completion(1, 0.0, "worst"),
        made.completion(1, None, "failed later", error="ValueError: y"),
    ]
    [(_, chosen)] = choose(rows)
    assert [row["text"] for row in chosen] == ["best", "worst", "failed"]


def test_a_single_rollout_is_shown_once(made) -> None:
    [(_, chosen)] = choose([made.completion(1, 0.5)])
    assert len(chosen) == 1


def test_rows_are_read_once(made) -> None:
    def stream() -> Iterator[dict[str, object]]:
        yield from (made.completion(step, 1.0) for step in range(100))

    assert [step for step, _ in choose(stream(), steps=1)] == [0, 99]
