"""System calls that code in the sandbox is refused: what would take memory that no limit of a process counts (segments,
queues and files that lie in none), and namespaces of its own, in which it could mount what it likes.

The rules are a program for the kernel's seccomp filter (classic BPF), which bubblewrap loads.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from tessera.core.errors import UserError

REFUSED = ("shmget", "msgget", "semget", "memfd_create", "memfd_secret", "unshare", "setns", "io_uring_setup")
CLONE_NEWUSER = 0x10000000
EPERM, ENOSYS = 1, 38
ALLOW, KILL, ERROR = 0x7FFF0000, 0x80000000, 0x00050000  # answers; the number of an error is added to the last

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _ANSWER = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _MACHINE, _FIRST_ARGUMENT = 0, 4, 16  # where they lie in what the filter sees
_OTHER_ABI = 0x40000000  # numbers from here on are x86-64's calls once more, with short pointers


class Machine(NamedTuple):
    """The kernel's name of a machine, and its numbers of system calls."""

    name: int
    numbers: dict[str, int]


MACHINES = {
    "x86_64": Machine(0xC000003E, {
        "shmget": 29, "clone": 56, "semget": 64, "msgget": 68, "unshare": 272, "setns": 308, "memfd_create": 319,
        "io_uring_setup": 425, "clone3": 435, "memfd_secret": 447,
    }),
    "aarch64": Machine(0xC00000B7, {
        "unshare": 97, "msgget": 186, "semget": 190, "shmget": 194, "clone": 220, "setns": 268, "memfd_create": 279,
        "io_uring_setup": 425, "clone3": 435, "memfd_secret": 447,
    }),
}  # fmt: skip


def rules(machine: str) -> bytes:
    """The filter for a machine as `platform.machine()` names it; UserError for one whose system calls are not known."""
    if machine not in MACHINES:
        raise UserError(f"the sandbox of the python tool runs on {' and '.join(MACHINES)}, and this is {machine}")
    name, numbers = MACHINES[machine]
    steps = [
        (_LOAD, 0, 0, _MACHINE), (_EQUAL, 1, 0, name), (_ANSWER, 0, 0, KILL),
        (_LOAD, 0, 0, _NUMBER), (_AT_LEAST, 0, 1, _OTHER_ABI), (_ANSWER, 0, 0, KILL),
        *(step for call in REFUSED for step in _refusal(numbers[call], EPERM)),
        *_refusal(numbers["clone3"], ENOSYS),  # its flags lie in memory; who is told that it is missing calls clone
        (_EQUAL, 0, 3, numbers["clone"]), (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_ANY_BIT, 0, 1, CLONE_NEWUSER), (_ANSWER, 0, 0, ERROR + EPERM),
        (_ANSWER, 0, 0, ALLOW),
    ]  # fmt: skip
    return b"".join(struct.pack("<HBBI", *step) for step in steps)


def _refusal(number: int, error: int) -> list[tuple[int, int, int, int]]:
    """Steps: the operation, how many to leave out if it holds and if not, and its operand."""
    return [(_EQUAL, 0, 1, number), (_ANSWER, 0, 0, ERROR + error)]
