"""Dead letters: reports that the service refused for good, in a table of their own, each under an id.

What a command does with them is in ``letters``.
"""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from ssm_status_reporter.domain.association import Association
from ssm_status_reporter.domain.outcome import Problem
from ssm_status_reporter.domain.report import Report


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A report that the service refused for good. ``at_ms`` is wall time."""

    id: int
    association: Association
    report: Report
    problem: Problem
    at_ms: int


class DeadLetters:
    """The statements, within the transaction of `Tables`."""

    def __init__(self, execute: Callable[..., sqlite3.Cursor]) -> None:
        self._execute = execute

    def add(self, association: Association, report: Report, problem: Problem, at_ms: int) -> int:
        """Add a dead letter; returns its id."""
        cursor = self._execute(
            "INSERT INTO dead_letter (instance_id, document, status, message, additional_info, observed_at_ms, "
            "code, error, hint, request_id, at_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                association.instance_id,
                association.document,
                report.status,
                report.message,
                report.additional_info,
                report.observed_at_ms,
                problem.code,
                problem.message,
                problem.hint,
                problem.request_id,
                at_ms,
            ),
        )
        return int(cursor.lastrowid or 0)

    def drop_oldest(self, keep: int) -> int:
        """Remove all but the newest ``keep``; returns how many went."""
        cursor = self._execute(
            "DELETE FROM dead_letter WHERE id IN (SELECT id FROM dead_letter ORDER BY id DESC LIMIT -1 OFFSET ?)",
            (keep,),
        )
        return cursor.rowcount

    def count(self) -> int:
        """How many there are."""
        return int(self._execute("SELECT count(*) FROM dead_letter").fetchone()[0])

    def all(self) -> list[DeadLetter]:
        """All of them, oldest first."""
        return [_letter(row) for row in self._execute(f"{_SELECT} ORDER BY id")]

    def find(self, letter_id: int) -> DeadLetter | None:
        """The one of that id."""
        try:
            row = self._execute(f"{_SELECT} WHERE id = ?", (letter_id,)).fetchone()
        except OverflowError:  # no number of SQLite's
            return None
        return None if row is None else _letter(row)

    def remove(self, letter_id: int) -> None:
        """It was sent again, or dropped."""
        self._execute("DELETE FROM dead_letter WHERE id = ?", (letter_id,))


_SELECT: Final = (
    "SELECT id, instance_id, document, status, message, additional_info, observed_at_ms, "
    "code, error, request_id, hint, at_ms FROM dead_letter"
)


def _letter(row: tuple[Any, ...]) -> DeadLetter:
    letter_id, instance_id, document, *rest, at_ms = row
    return DeadLetter(letter_id, Association(instance_id, document), Report(*rest[:4]), Problem(*rest[4:]), at_ms)
