"""The tables: what one transaction may read and write, each statement in one place.

Nothing here decides; the domain does. Counts are collected and written once per transaction.
"""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from ssm_status_reporter.domain.association import Association
from ssm_status_reporter.domain.entry import Count, Counts, Entry, State
from ssm_status_reporter.domain.limits import ROWS_IN_MEMORY_MAX
from ssm_status_reporter.domain.sighting import Sighting
from ssm_status_reporter.outbox.database import OutboxError, damage
from ssm_status_reporter.outbox.dead_letters import DeadLetters

FACT_COMPARISON: Final = "comparison"
"""What the service was learnt to compare."""
FACT_NODE: Final = "node"
"""Which node this is, as JSON."""

_DECODER: Final = msgspec.json.Decoder(Entry)
_JSON: Final = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class HoldRow:
    """A hold as ``status`` shows it. None means all of them. ``since_ms`` is wall time, the other steady."""

    scope: str
    instance_id: str | None
    document: str | None
    reason: str
    since_ms: int
    next_probe_ms: int


class Tables:
    """The statements, on one connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._execute = connection.execute
        self.dead_letters = DeadLetters(connection.execute)
        self._counts: dict[Count, int] = {}

    # Entries.

    def entry(self, association: Association) -> Entry:
        """What is known of the association; a fresh entry when nothing is."""
        row = self._execute(
            "SELECT entry FROM association WHERE instance_id = ? AND document = ?",
            (association.instance_id, association.document),
        ).fetchone()
        return Entry(association) if row is None else _entry(row[0])

    def store(self, entry: Entry, first_reconcile_ms: int | None = None) -> None:
        """Write the entry. ``first_reconcile_ms`` (steady) counts only for one that is new here."""
        self._execute(
            "INSERT INTO association (instance_id, document, entry, state, busy, due_ms, reconcile_ms) "
            "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (instance_id, document) DO UPDATE SET "
            "entry = excluded.entry, state = excluded.state, busy = excluded.busy, due_ms = excluded.due_ms, "
            "held = 0",
            (
                entry.association.instance_id,
                entry.association.document,
                _JSON.encode(entry).decode(),
                entry.state,
                entry.flight is not None,
                entry.due_at_ms,
                first_reconcile_ms,
            ),
        )

    def remove(self, association: Association) -> None:
        """Forget the association."""
        self._execute(
            "DELETE FROM association WHERE instance_id = ? AND document = ?",
            (association.instance_id, association.document),
        )

    def entries(self) -> Iterator[Entry]:
        """Every entry, by node and document."""
        rows = self._execute("SELECT entry FROM association ORDER BY instance_id, document")
        return (_entry(text) for (text,) in rows)

    def unsettled(self) -> Iterator[Entry]:
        """Every entry with a report to deliver or a call out; each may be stored before the next is taken."""
        last_id = 0
        while rows := self._execute(
            "SELECT id, entry FROM association WHERE id > ? AND (busy = 1 OR state IN (?, ?, ?)) ORDER BY id LIMIT ?",
            (last_id, State.PENDING, State.IN_FLIGHT, State.PARKED, ROWS_IN_MEMORY_MAX),
        ).fetchall():
            yield from (_entry(row[1]) for row in rows)
            last_id = rows[-1][0]

    def due(self, now_ms: int, rows_max: int) -> list[Entry]:
        """Entries whose report is due and not held, longest due first."""
        rows = self._execute(
            "SELECT entry FROM association WHERE due_ms <= ? AND due_ms IS NOT NULL AND held = 0 "
            "ORDER BY due_ms LIMIT ?",
            (now_ms, rows_max),
        )
        return [_entry(row[0]) for row in rows]

    def next_due_ms(self) -> int | None:
        """When the next report will be due, steady; None when none waits."""
        row = self._execute("SELECT min(due_ms) FROM association WHERE due_ms IS NOT NULL AND held = 0").fetchone()
        return None if row[0] is None else int(row[0])

    def next_probe(self, now_ms: int, instance_id: str | None) -> Entry | None:
        """The due entry that was the probe longest ago, of that node or of all; it is marked as probed now."""
        node = "" if instance_id is None else "AND instance_id = ? "
        row = self._execute(
            f"SELECT id, entry FROM association WHERE due_ms <= ? {node}"  # noqa: S608 (no value is put in)
            "ORDER BY probed_ms, due_ms LIMIT 1",
            (now_ms,) if instance_id is None else (now_ms, instance_id),
        ).fetchone()
        if row is None:
            return None
        self._execute("UPDATE association SET probed_ms = ? WHERE id = ?", (now_ms, row[0]))
        return _entry(row[1])

    def hold_back(self, association: Association) -> None:
        """Keep a due entry out of `due` until its node is released."""
        self._execute(
            "UPDATE association SET held = 1 WHERE instance_id = ? AND document = ?",
            (association.instance_id, association.document),
        )

    def release(self, instance_id: str) -> None:
        """Undo `hold_back` for all of a node."""
        self._execute("UPDATE association SET held = 0 WHERE instance_id = ? AND held = 1", (instance_id,))

    # Reconciliation.

    def to_reconcile(self, now_ms: int, rows_max: int) -> list[Entry]:
        """Entries at rest that are to be compared with the service, longest due first."""
        rows = self._execute(
            "SELECT entry FROM association WHERE reconcile_ms <= ? AND reconcile_ms IS NOT NULL "
            "ORDER BY reconcile_ms LIMIT ?",
            (now_ms, rows_max),
        )
        return [_entry(row[0]) for row in rows]

    def next_reconcile_ms(self) -> int | None:
        """When the next entry is to be compared, steady."""
        row = self._execute("SELECT min(reconcile_ms) FROM association WHERE reconcile_ms IS NOT NULL").fetchone()
        return None if row[0] is None else int(row[0])

    def reconcile_again(self, association: Association, at_ms: int | None) -> None:
        """Set when the entry is to be compared next; None: never."""
        self._execute(
            "UPDATE association SET reconcile_ms = ? WHERE instance_id = ? AND document = ?",
            (at_ms, association.instance_id, association.document),
        )

    def reconcile_all(self, at_ms: int | None) -> None:
        """Set it for every entry."""
        self._execute("UPDATE association SET reconcile_ms = ?", (at_ms,))

    def reconcile_by(self, at_most_ms: int) -> None:
        """Bring back what lies further ahead than that, or was never set."""
        self._execute(
            "UPDATE association SET reconcile_ms = ? WHERE reconcile_ms > ? OR reconcile_ms IS NULL",
            (at_most_ms, at_most_ms),
        )

    # What there is.

    def totals(self) -> dict[str, int]:
        """How many entries are in each state; one that has none of them is not named."""
        (entries,) = self._execute("SELECT count(*) FROM association").fetchone()
        rows = self._execute(
            "SELECT state, count(*) FROM association WHERE state <> ? GROUP BY 1", (State.ACKNOWLEDGED,)
        )
        others = {str(state): int(count) for state, count in rows}
        return {State.ACKNOWLEDGED.value: entries - sum(others.values()), **others}

    def oldest_pending_ms(self) -> int | None:
        """When the oldest report that waits, and is not parked, was observed; wall time."""
        row = self._execute(
            "SELECT min(json_extract(entry, '$.pending.report.observed_at_ms')) FROM association "
            "WHERE state IN (?, ?)",
            (State.PENDING, State.IN_FLIGHT),
        ).fetchone()
        return None if row[0] is None else int(row[0])

    # Counters.

    def counters(self) -> dict[str, int]:
        """Every counter that was ever counted, what this transaction counts aside."""
        return {str(name): int(value) for name, value in self._execute("SELECT name, value FROM counter")}

    def count(self, counts: Counts) -> None:
        """Add to the counters; written by `flush_counts`."""
        for name, change in counts:
            self._counts[name] = self._counts.get(name, 0) + change

    def flush_counts(self) -> None:
        """Write what was counted in this transaction."""
        for name, change in self._counts.items():
            self._execute(
                "INSERT INTO counter (name, value) VALUES (?, ?) "
                "ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
                (name, change),
            )
        self._counts.clear()

    def forget_counts(self) -> None:
        """The transaction was rolled back."""
        self._counts.clear()

    # Holds, as `status` shows them.

    def holds(self) -> list[HoldRow]:
        """Every hold, by scope, node and document."""
        rows = self._execute(
            "SELECT scope, instance_id, document, reason, since_ms, next_probe_ms FROM hold ORDER BY 1, 2, 3"
        )
        return [
            HoldRow(scope, instance_id or None, document or None, *rest)
            for scope, instance_id, document, *rest in rows
        ]

    def put_hold(self, hold: HoldRow) -> None:
        """Show a hold, or what became of it."""
        self._execute(
            "INSERT OR REPLACE INTO hold (scope, instance_id, document, reason, since_ms, next_probe_ms) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (
                hold.scope,
                hold.instance_id or "",
                hold.document or "",
                hold.reason,
                hold.since_ms,
                hold.next_probe_ms,
            ),
        )

    def remove_hold(self, hold: HoldRow) -> None:
        """It is open."""
        self._execute(
            "DELETE FROM hold WHERE scope = ? AND instance_id = ? AND document = ?",
            (hold.scope, hold.instance_id or "", hold.document or ""),
        )

    def remove_holds(self) -> None:
        """A new process knows of none, and probes for itself."""
        self._execute("DELETE FROM hold")
        # Whose turn it is to be the probe was written by another clock.
        self._execute("UPDATE association SET held = 0, probed_ms = 0 WHERE held = 1 OR probed_ms <> 0")

    # Files that stay where they are.

    def sightings(self) -> list[Sighting]:
        """Every file remembered."""
        rows = self._execute("SELECT name, inode, mtime_ns, size, digest FROM kept_file")
        return [Sighting(*row) for row in rows]

    def put_sighting(self, seen: Sighting) -> None:
        """Remember the file as it was seen."""
        self._execute(
            "INSERT OR REPLACE INTO kept_file (name, inode, mtime_ns, size, digest) VALUES (?, ?, ?, ?, ?)",
            (seen.name, seen.inode, seen.mtime_ns, seen.size_bytes, seen.digest),
        )

    def remove_sighting(self, name: bytes) -> None:
        """The file is gone."""
        self._execute("DELETE FROM kept_file WHERE name = ?", (name,))

    # Facts: what was learnt or found out, by name.

    def fact(self, name: str) -> str | None:
        """What is known under that name."""
        row = self._execute("SELECT value FROM fact WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def put_fact(self, name: str, value: str) -> None:
        """Remember it."""
        self._execute("INSERT OR REPLACE INTO fact (name, value) VALUES (?, ?)", (name, value))


def _entry(text: str) -> Entry:
    try:
        return _DECODER.decode(text)
    except msgspec.ValidationError as error:
        # Whole, and none of ours: another version's, or a bit that the disk turned.
        raise OutboxError(
            f"an entry is not understood ({error}): install the version of ssm-status-reporter that wrote it, or move "
            "the file away to start with an empty outbox"
        ) from error
    except (msgspec.DecodeError, UnicodeError, TypeError) as error:
        raise damage(f"an entry cannot be read: {error}") from error
