"""A look at the outbox from outside: what ``status`` shows, whether or not the daemon runs.

Rules:
  * Read-only, one transaction: the figures belong together.
  * Needs to read the files only, so it works for the group too. While no daemon runs there is no -wal file, and
    SQLite could not make one for a reader: then the file is opened as immutable.
  * The daemon's deadlines are shown by the clock of now, which may have been set since the daemon started.
  * The shape is what programs outside rely on, to the letter; the structs here are that shape.
"""

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec

from ssm_status_reporter.domain.entry import Count, Entry, State
from ssm_status_reporter.domain.limits import CLOCK_SET_MS_MIN
from ssm_status_reporter.domain.rfc3339 import date_text
from ssm_status_reporter.domain.time import Now
from ssm_status_reporter.outbox.database import OutboxError, is_broken, version_of
from ssm_status_reporter.outbox.lock import Holder, find_holder
from ssm_status_reporter.outbox.tables import FACT_COMPARISON, FACT_NODE, Tables

DAMAGED: Final = "it is damaged: a daemon that starts sets it aside and goes on with a new one"
"""What becomes of a broken outbox."""
_Subject = tuple[str | None, str | None]
"""Instance id and document of what a hold shuts; None means all."""


class NodeView(msgspec.Struct, frozen=True):
    """Which node this daemon reports for; None until it has found out."""

    instance_id: str | None = None
    region: str | None = None


class DaemonView(msgspec.Struct, frozen=True):
    """Whether a daemon has the outbox."""

    running: bool
    pid: int | None
    started_at: str | None


class OutboxView(msgspec.Struct, frozen=True):
    """How many reports are in which state."""

    pending: int
    in_flight: int
    parked: int
    dead: int
    oldest_pending_seconds: float


class HoldView(msgspec.Struct, frozen=True):
    """What is shut, and why."""

    scope: str
    instance_id: str | None
    document: str | None
    reason: str
    since: str
    next_probe_at: str


class AcknowledgedView(msgspec.Struct, frozen=True):
    """What the service holds."""

    status: str
    message: str
    observed_at: str
    at: str


class PendingView(msgspec.Struct, frozen=True):
    """What is to be delivered."""

    status: str
    message: str
    observed_at: str


class ErrorView(msgspec.Struct, frozen=True):
    """The last answer that was no success."""

    code: str
    message: str
    request_id: str | None
    hint: str | None
    at: str


class AssociationView(msgspec.Struct, frozen=True):
    """One association."""

    instance_id: str
    document: str
    state: str
    acknowledged: AcknowledgedView | None
    pending: PendingView | None
    attempts: int
    next_attempt_at: str | None
    last_error: ErrorView | None


class Snapshot(msgspec.Struct, frozen=True):
    """The whole, as ``status --json`` prints it."""

    node: NodeView
    daemon: DaemonView
    outbox: OutboxView
    holds: list[HoldView]
    counters: dict[str, int]
    comparison: str | None
    """What ``compare: auto`` has learnt; None while it has not."""
    associations: list[AssociationView]


@dataclass(frozen=True, slots=True)
class Tally:
    """How many there are of what, in one moment. ``oldest_pending_ms`` is wall time."""

    states: Mapping[str, int]
    counters: Mapping[str, int]
    dead_letters: int
    oldest_pending_ms: int | None
    holds: Sequence[tuple[str, str, str]]
    """Scope, instance id, document; empty texts mean all."""


def snapshot(path: Path, now: Now, monotonic_ms: int | None = None) -> Snapshot:
    """What the outbox says now; an outbox that does not exist yet is empty.

    ``monotonic_ms`` is the machine's monotonic clock, the same for all its processes. Raises `OutboxError` when the
    outbox cannot be read.
    """
    with readable(path):
        holder = find_holder(path)
        daemon = DaemonView(
            running=holder is not None,
            pid=None if holder is None else holder.pid,
            started_at=None if holder is None else date_text(holder.started_at_ms),
        )
        if not path.exists():
            return Snapshot(NodeView(), daemon, OutboxView(0, 0, 0, 0, 0.0), [], _counters({}), None, [])
        with closing(reader(path)) as connection:
            connection.execute("BEGIN")
            return _read(Tables(connection), daemon, now, _ahead_ms(holder, now, monotonic_ms))


def _ahead_ms(holder: Holder | None, now: Now, monotonic_ms: int | None) -> int:
    """How far the daemon's steady time is ahead of the clock. Without a daemon deadlines are as they were stored."""
    if holder is None or holder.steady_zero_ms is None or monotonic_ms is None:
        return 0
    ahead_ms = holder.steady_zero_ms + monotonic_ms - now.wall_ms
    return ahead_ms if abs(ahead_ms) >= CLOCK_SET_MS_MIN else 0


def tally(path: Path) -> Tally:
    """What is counted, without a look at each association. Raises as `snapshot`."""
    with readable(path), closing(reader(path)) as connection:
        connection.execute("BEGIN")
        tables = Tables(connection)
        return Tally(
            tables.totals(),
            _counters(tables.counters()),
            tables.dead_letters.count(),
            tables.oldest_pending_ms(),
            [(hold.scope, hold.instance_id or "", hold.document or "") for hold in tables.holds()],
        )


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Says of what cannot be read why, and who can: `OutboxError`."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        remedy = "run as root or as a member of the group ssm-status-reporter"
        if isinstance(error, NotADirectoryError) or os.path.isdir(path):  # noqa: PTH112 (Path.is_dir may raise)
            remedy = "outbox.path must name a file in a directory"
        if isinstance(error, sqlite3.Error) and is_broken(error):
            remedy = DAMAGED
        if "no such table" in str(error):
            remedy = "nothing has been stored there yet: the daemon makes the tables at its start"
        raise OutboxError(f"{path}: cannot be read ({reason}): {remedy}") from error


def reader(path: Path) -> sqlite3.Connection:
    """A read-only connection to what this version understands."""
    uri = f"file:{quote(str(path))}?mode=ro"
    if not path.with_name(path.name + "-wal").exists():
        uri += "&immutable=1"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None)
    try:
        version_of(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _read(tables: Tables, daemon: DaemonView, now: Now, ahead_ms: int) -> Snapshot:
    node = tables.fact(FACT_NODE)
    holds = tables.holds()
    shut_until_ms: dict[_Subject, int] = {}
    for hold in holds:
        subject = (hold.instance_id, hold.document)
        shut_until_ms[subject] = max(shut_until_ms.get(subject, 0), hold.next_probe_ms)
    entries = [entry for entry in tables.entries() if not entry.is_blank]
    return Snapshot(
        node=NodeView() if node is None else msgspec.json.decode(node, type=NodeView),
        daemon=daemon,
        outbox=_totals(entries, tables.dead_letters.count(), now),
        holds=[
            HoldView(
                hold.scope,
                hold.instance_id,
                hold.document,
                hold.reason,
                date_text(hold.since_ms),
                _deadline_text(hold.next_probe_ms, ahead_ms),
            )
            for hold in holds
        ],
        counters=_counters(tables.counters()),
        comparison=tables.fact(FACT_COMPARISON),
        associations=[_association(entry, _held_until_ms(entry, shut_until_ms), ahead_ms) for entry in entries],
    )


def _totals(entries: list[Entry], dead: int, now: Now) -> OutboxView:
    states = [entry.state for entry in entries]
    waiting = [
        entry.pending.report.observed_at_ms
        for entry in entries
        if entry.pending is not None and entry.state is not State.PARKED
    ]
    oldest_ms = max(0, now.wall_ms - min(waiting)) if waiting else 0
    return OutboxView(
        pending=states.count(State.PENDING),
        in_flight=states.count(State.IN_FLIGHT),
        parked=states.count(State.PARKED),
        dead=dead,
        oldest_pending_seconds=oldest_ms / 1000,
    )


def _counters(stored: Mapping[str, int]) -> dict[str, int]:
    return {count.value: stored.get(count.value, 0) for count in Count}


def _held_until_ms(entry: Entry, shut_until_ms: Mapping[_Subject, int]) -> int:
    """When a hold that covers the association is probed next; 0 when none does."""
    instance_id, document = entry.association.instance_id, entry.association.document
    covering: tuple[_Subject, ...] = ((None, None), (instance_id, None), (instance_id, document))
    return max(shut_until_ms.get(subject, 0) for subject in covering)


def _deadline_text(steady_ms: int, ahead_ms: int) -> str:
    return date_text(max(0, steady_ms - ahead_ms))


def _association(entry: Entry, held_until_ms: int, ahead_ms: int) -> AssociationView:
    acknowledged, pending, error = entry.acknowledged, entry.pending, entry.last_error
    due_ms = entry.due_at_ms
    if due_ms is not None:
        due_ms = max(due_ms, held_until_ms)
    return AssociationView(
        instance_id=entry.association.instance_id,
        document=entry.association.document,
        state=entry.state.value,
        acknowledged=None
        if acknowledged is None
        else AcknowledgedView(
            acknowledged.report.status,
            acknowledged.report.message,
            date_text(acknowledged.report.observed_at_ms),
            date_text(acknowledged.at_ms),
        ),
        pending=None
        if pending is None
        else PendingView(pending.report.status, pending.report.message, date_text(pending.report.observed_at_ms)),
        attempts=0 if pending is None else pending.attempts,
        next_attempt_at=None if due_ms is None else _deadline_text(due_ms, ahead_ms),
        last_error=None
        if error is None
        else ErrorView(
            error.problem.code,
            error.problem.message,
            error.problem.request_id,
            error.problem.hint,
            date_text(error.at_ms),
        ),
    )
