"""The folder of an evaluation: its settings, every completion as it comes, and the numbers in the end."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tessera.core.errors import UserError
from tessera.reports import jsonl
from tessera.reports.difference import differences, first
from tessera.reports.folder import Folder

SETTINGS, COMPLETIONS, RESULT, PAGE = CONTENTS = ("settings.json", "completions.jsonl", "result.json", "report.md")


class EvaluationFolder(Folder):
    """`settings.json`, `completions.jsonl`, `result.json` and `report.md` of one evaluation.

    `start` takes the folder's lock and keeps it until `close`; `read` takes none.
    """

    noun, again, row_files = "", "the same command goes on", (COMPLETIONS,)

    @classmethod
    def check(cls, path: Path, settings: Mapping[str, Any], force: bool = False) -> EvaluationFolder:
        """The evaluation that `start` would go on with, to read; raises what it would, and writes nothing."""
        folder = cls(path)
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file: an evaluation is kept in a folder, give another --out")
        if folder._has(SETTINGS):
            if not force:
                folder._check_same(_plain(settings))
        elif held := [name for name in CONTENTS if folder._has(name)]:
            raise UserError(f"{path} holds something else ({held[0]}): give another --out")
        return folder

    @classmethod
    def start(cls, path: Path, settings: Mapping[str, Any], force: bool = False) -> EvaluationFolder:
        """Begin an evaluation in `path`, or go on with the one that is there and has the same `settings`.

        An evaluation with other settings is refused with a UserError that names the first keys that differ; with
        `force` whatever evaluation is there is deleted. So is a folder that holds something else, and not deleted.
        """
        folder = cls(path)._take(mkdir=True)
        with folder._closed_on_error():
            cls.check(path, settings, force)
            for name in reversed(CONTENTS if force else ()):  # the settings last: what has them is an evaluation
                (path / name).unlink(missing_ok=True)
            folder._mend()
            folder._write(SETTINGS, settings)
        return folder

    @classmethod
    def read(cls, path: Path) -> EvaluationFolder:
        """An evaluation that is there, finished or not."""
        if not (path / SETTINGS).is_file():
            raise UserError(f"{path} is no folder of an evaluation: it has no {SETTINGS}")
        return cls(path)

    def settings(self) -> dict[str, Any]:
        """What was asked, and how."""
        return self._json(SETTINGS)

    def result(self) -> dict[str, Any] | None:
        """The numbers; None before the end."""
        return self._json(RESULT) if self._has(RESULT) else None

    def rows(self) -> list[dict[str, Any]]:
        """Every completion; a torn last line is left out."""
        return list(self._rows(COMPLETIONS))

    def keep(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append completions, and flush."""
        self._append(COMPLETIONS, rows)

    def drop(self, part: str, but: set[str]) -> None:
        """Forget the completions of `part` at questions other than `but`: those that a kill left half asked."""
        self._keep(COMPLETIONS, lambda row: row["part"] != part or row["problem_id"] in but)

    def finish(self, result: Mapping[str, Any], page: str) -> None:
        """Write the numbers and the page about them."""
        self._write(RESULT, result)
        self._write(PAGE, page)

    def _check_same(self, settings: dict[str, Any]) -> None:
        found = [line.replace(" in the run, ", " in the folder, ") for line in differences(self.settings(), settings)]
        if found:
            raise UserError(
                f"{self.path} holds an evaluation with other settings: {first(found)}; give another --out, or delete "
                "that evaluation with --force"
            )


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """As it will be read again."""
    return dict(json.loads(jsonl.dumps(settings)))
