"""What `tessera eval` and `tessera compare` print."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.table import Table

from tessera.reports.evaluations_page import header, rows

EVERY = 10.0  # seconds between lines of progress


class ProgressLines:
    """A line about an evaluation now and then, and one when a set is done."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self.say, self.clock = say, clock
        self.began = self.said = clock()

    def __call__(self, part: str, asked: int, questions: int, right: float) -> None:
        """Told of a part's questions asked, all of them, and the share of right completions."""
        now = self.clock()
        if asked == questions or now - self.said >= EVERY:
            self.said = now
            self.say(f"{part} {asked}/{questions}: {right:.1%} at {now - self.began:.0f} s")


def result_table(result: Mapping[str, Any]) -> Table:
    """The numbers of an evaluation."""
    table = Table(*header(result), box=None)
    for row in rows(result):
        table.add_row(*row)
    return table


def comparison_table(found: Mapping[str, Any]) -> Table:
    """A row a set that both evaluations asked."""
    table = Table("set", "n", "first", "second", "difference", "95 % interval", "p (bootstrap)", "only first/second",
                  "p (McNemar)", box=None)  # fmt: skip
    for part in found["parts"]:
        low, high = (100 * bound for bound in part["ci"])
        exact = part["mcnemar"]
        table.add_row(
            part["name"],
            str(part["n"]),
            f"{part['first']:.1%}",
            f"{part['second']:.1%}",
            f"{100 * part['difference']:+.1f} points",
            f"{low:+.1f} to {high:+.1f}",
            f"{part['p_bootstrap']:.3g}",
            f"{exact['only_first']}/{exact['only_second']}" if exact else "-",
            f"{exact['p']:.3g}" if exact else "-",
        )
    return table


def comparison_notes(found: Mapping[str, Any]) -> list[str]:
    """What was not compared."""
    notes = [
        f"{part['name']}: only the {part['n']} common questions; {part['only_in_first']} are in the first alone, "
        f"{part['only_in_second']} in the second alone"
        for part in found["parts"]
        if part["only_in_first"] or part["only_in_second"]
    ]
    return notes + [f"{name}: not compared, no common questions" for name in found["left_out"]]
