"""The filter's answers, by a reading of its program step by step; test_sandbox.py has the kernel's."""

from __future__ import annotations

import struct

import pytest

from tessera.core.errors import UserError
from tessera.environments.seccomp import ALLOW, CLONE_NEWUSER, ERROR, KILL, MACHINES, REFUSED, rules


def answer(program: bytes, machine: int, number: int, first: int = 0) -> int:
    """What the kernel would do: load a word, jump by comparing it, or answer."""
    seen = struct.pack("<iIQQ", number, machine, 0, first)
    word = at = 0
    while True:
        code, if_true, if_false, operand = struct.unpack_from("<HBBI", program, 8 * at)
        at += 1
        if code == 0x06:
            return int(operand)
        if code == 0x20:
            (word,) = struct.unpack_from("<I", seen, operand)
            continue
        holds = {0x15: word == operand, 0x35: word >= operand, 0x45: bool(word & operand)}[code]
        at += if_true if holds else if_false


@pytest.mark.parametrize("machine", MACHINES)
def test_what_is_refused_and_what_is_not(machine: str) -> None:
    program, (name, numbers) = rules(machine), MACHINES[machine]
    for call in REFUSED:
        assert answer(program, name, numbers[call]) == ERROR + 1  # EPERM
    others = set(range(600)) - {number for call, number in numbers.items() if call != "clone"}
    assert {answer(program, name, number) for number in others} == {ALLOW}
    assert answer(program, name, numbers["clone3"]) == ERROR + 38  # ENOSYS: then clone is called
    assert answer(program, name, numbers["clone"], CLONE_NEWUSER | 17) == ERROR + 1
    assert answer(program, name, numbers["clone"], 0x3D0F00) == ALLOW  # a thread


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_under_another_name_are_the_end(machine: str) -> None:
    program, (name, numbers) = rules(machine), MACHINES[machine]
    assert answer(program, 0x40000003, 395) == KILL  # shmget of 32-bit x86
    assert answer(program, name, 0x40000000 + numbers["shmget"]) == KILL


def test_a_machine_that_is_not_known_is_said() -> None:
    with pytest.raises(UserError, match="runs on x86_64 and aarch64, and this is s390x"):
        rules("s390x")
