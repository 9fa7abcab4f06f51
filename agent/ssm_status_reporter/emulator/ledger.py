"""The ledger: one JSON line a request, written and flushed as the request ends, whatever fault it met.

``applied`` tells whether the request changed an association; no fault hides it.
"""

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

LEDGER_ENTRIES_MAX: Final = 100_000
"""Entries kept in memory; the file keeps all."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One request and what came of it. ``answer`` is ``ok``, an error code or a kind of fault.

    Members that the request did not bring, or that could not be read, are None.
    """

    at: str
    request_id: str
    operation: str | None
    instance_id: str | None
    document: str | None
    status: str | None
    message: str | None
    date: str | None
    http_status: int | None
    answer: str
    applied: bool
    access_key_id: str | None


class Ledger:
    """Entries in memory, and in a file if there is one."""

    def __init__(self, path: Path | None = None) -> None:
        """Open for appending; raises OSError if the file cannot be."""
        self._entries: deque[Entry] = deque(maxlen=LEDGER_ENTRIES_MAX)
        # Unbuffered: one write a line, so that a reader never waits for one.
        self._file = None if path is None else path.open("ab", buffering=0)

    def __len__(self) -> int:
        return len(self._entries)

    def append(self, entry: Entry) -> None:
        """Keep and write an entry."""
        self._entries.append(entry)
        if self._file is not None:
            self._file.write(msgspec.json.encode(entry) + b"\n")

    def entries(self) -> Sequence[Entry]:
        """The newest entries, oldest first."""
        return tuple(self._entries)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
