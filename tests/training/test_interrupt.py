"""A request to stop: obeyed at once while nothing can be half done, else where the run looks."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from processes import together
from tessera.core.errors import UserError
from tessera.training import interrupt as module
from tessera.training.interrupt import Interrupt, Interrupted
from tessera.training.ranks import Ranks, processes


def send(number: int = signal.SIGINT) -> None:
    """Deliver a signal to this process, and let Python run its handler."""
    os.kill(os.getpid(), number)
    for _ in range(1000):
        pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_waits_for_the_next_look(number: int) -> None:
    interrupt = Interrupt()
    with interrupt.handling():
        interrupt.check()
        send(number)
        assert interrupt.requested
        with pytest.raises(Interrupted):
            interrupt.check()


def test_a_request_stops_immediate_work_in_its_middle() -> None:
    interrupt = Interrupt()
    reached = []
    with interrupt.handling(), pytest.raises(Interrupted), interrupt.immediate():
        send()
        reached.append(1)
    assert (reached, interrupt.requested) == ([], True)


def test_immediate_work_does_not_begin_after_a_request() -> None:
    interrupt = Interrupt()
    with interrupt.handling():
        send()
        with pytest.raises(Interrupted), interrupt.immediate():
            raise AssertionError("the work began")


def test_code_that_catches_exceptions_does_not_catch_a_request() -> None:
    interrupt = Interrupt()
    with interrupt.handling(), pytest.raises(Interrupted), interrupt.immediate():
        try:
            send()
        except Exception as error:
            raise AssertionError("swallowed") from error


def test_a_request_swallowed_in_the_middle_is_obeyed_at_the_end() -> None:
    interrupt = Interrupt()
    finished = []
    with interrupt.handling(), pytest.raises(Interrupted), interrupt.immediate():
        try:
            send()
        except BaseException:  # noqa: BLE001 - what a careless reward might do
            finished.append(1)
    assert finished == [1]


def test_after_immediate_work_a_request_waits_again() -> None:
    interrupt = Interrupt()
    with interrupt.handling():
        with interrupt.immediate():
            pass
        send()
        assert interrupt.requested


def test_an_error_of_the_work_is_its_own() -> None:
    interrupt = Interrupt()
    with pytest.raises(ZeroDivisionError), interrupt.immediate():
        _ = 1 / 0
    with interrupt.handling():
        send()  # waits: the work is over
    assert interrupt.requested


def test_a_second_request_stops_the_program() -> None:
    interrupt = Interrupt()
    with interrupt.handling():
        send()
        with pytest.raises(KeyboardInterrupt) as stopped:
            send()
    assert type(stopped.value) is KeyboardInterrupt


def test_what_a_launcher_passes_on_is_no_second_request(monkeypatch: pytest.MonkeyPatch) -> None:
    one_of_two = Ranks()
    one_of_two.size = 2
    interrupt = Interrupt(one_of_two)
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    with interrupt.handling():
        send(signal.SIGTERM)
        now = 101.9  # within two seconds
        send(signal.SIGTERM)
        assert interrupt.requested
        now = 102.1
        with pytest.raises(KeyboardInterrupt) as stopped:
            send(signal.SIGTERM)
    assert type(stopped.value) is KeyboardInterrupt


def test_the_handlers_return() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(ZeroDivisionError), Interrupt().handling():
        assert signal.getsignal(signal.SIGINT) != before[0]
        _ = 1 / 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_outside_the_main_thread_nothing_is_handled() -> None:
    seen = []
    before = signal.getsignal(signal.SIGINT)

    def work() -> None:
        with Interrupt().handling():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_work_in_parts_is_dropped_at_the_next_part() -> None:
    interrupt = Interrupt()
    begun = []
    with interrupt.handling(), pytest.raises(Interrupted):
        for part in interrupt.between([1, 2, 3]):
            begun.append(part)
            if part == 2:
                send()
    assert begun == [1, 2]
    assert list(Interrupt().between("ab")) == ["a", "b"]


def test_shared_work_alone_is_work() -> None:
    interrupt = Interrupt()
    assert interrupt.share(lambda: "done") == ["done"]
    with pytest.raises(UserError, match="no such thing"):
        interrupt.share(refused)
    with interrupt.handling(), pytest.raises(Interrupted):
        interrupt.share(send)


def refused() -> None:
    raise UserError("no such thing")


def asked_in_one(rank: int) -> dict[str, str]:
    """What every process makes of a request to the second, in the middle of work or outside of it."""
    seen = {}
    with processes() as ranks:
        for place in ("work", "parts", "before", "error"):
            interrupt = Interrupt(ranks)
            with interrupt.handling():
                try:
                    seen[place] = f"went on: {reach(place, interrupt, rank == 1)}"
                except (Interrupted, UserError) as stopped:
                    seen[place] = type(stopped).__name__
    return seen


def reach(place: str, interrupt: Interrupt, asked: bool) -> object:
    if place == "work":
        return interrupt.share(lambda: send() if asked else None)
    if place == "error":
        return interrupt.share(lambda: refused() if asked else None)
    if place == "parts":  # of which the processes have different numbers
        return [send() if asked else None for _ in interrupt.between(range(3 if asked else 1))]
    if asked:
        send()
    with interrupt.immediate():
        return "the work began"


def test_a_request_to_one_process_stops_all_at_the_same_place() -> None:
    stopped = {"work": "Interrupted", "parts": "Interrupted", "before": "Interrupted", "error": "UserError"}
    assert together(asked_in_one) == [stopped, stopped]
