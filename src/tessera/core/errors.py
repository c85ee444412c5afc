"""The errors a user can cause, and the one helper that names what they probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TesseraError(Exception):
    """Base of every error this library raises on purpose. The text is one line and says what would be right."""


class UserError(TesseraError):
    """Bad input: a recipe, a data file, an argument. The command line prints the line and exits with 2."""


class RunStopped(TesseraError):
    """A run stopped itself to protect its results (a sentinel, a full disk). The last good checkpoint is intact."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the known name closest to `name`, else the list of known names."""
    options = sorted(set(known))
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.6)
    if close:
        return f" (did you mean {close[0]!r}?)"
    return f" (known: {', '.join(options)})" if options else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not registered: names it and the nearest known one."""
    return UserError(f"unknown {kind} {name!r}{nearest(name, known)}")
