"""What tests of the domain, the outbox and the reporter share: builders of values, a clock to turn by hand."""

import asyncio
import heapq
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import structlog

from ssm_status_reporter.domain.association import Association
from ssm_status_reporter.domain.backoff import Backoff
from ssm_status_reporter.domain.claim import claimed
from ssm_status_reporter.domain.entry import (
    Acknowledged,
    Claim,
    Count,
    Counts,
    Entry,
    Policy,
    Settled,
    Step,
    Via,
)
from ssm_status_reporter.domain.limits import CUT_MARK
from ssm_status_reporter.domain.observation import Observed, observed
from ssm_status_reporter.domain.outcome import (
    Busy,
    Effect,
    Failure,
    Outcome,
    Problem,
    Refused,
    Scope,
    Throttled,
    Unavailable,
    Unreachable,
    Unserved,
    Withheld,
)
from ssm_status_reporter.domain.reconciliation import Reconciliation
from ssm_status_reporter.domain.report import Comparison, Report
from ssm_status_reporter.domain.result import Edge, Result, Writer
from ssm_status_reporter.domain.settlement import settled
from ssm_status_reporter.domain.time import Now
from ssm_status_reporter.outbox.commit import Committer, Operation
from ssm_status_reporter.outbox.database import Durability, Migration, migrations
from ssm_status_reporter.outbox.operations import Operations
from ssm_status_reporter.outbox.sqlite import SqliteOutbox
from ssm_status_reporter.outbox.tables import Tables
from ssm_status_reporter.ports import Chance, Clock
from values import replace

T = TypeVar("T")

START_MS: Final = 1_795_000_000_000
SECOND: Final = 1000
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE

NODE: Final = "i-0123456789abcdef0"
OTHER_NODE: Final = "mi-0123456789abcdef0"
WEB: Final = Association(NODE, "Deploy-Web")

PROBLEM: Final = Problem("Code", "what the service said", "7a3c1f52-0000-4000-8000-5f0e6a1b2c3d", "what to do")
NO_REQUEST: Final = Problem("NoCredentials", "there are none")

POLICY: Final = Policy(
    window_ms=2 * SECOND,
    comparison=Comparison.STATUS_AND_MESSAGE,
    asks_first=False,
    learning=True,
    backoff=Backoff(initial_ms=SECOND, max_ms=5 * MINUTE),
    retry_every_ms=15 * MINUTE,
    give_up_after_ms=24 * HOUR,
    timeout_ms=10 * SECOND,
)
"""As configured by default, but nothing is asked before a first report."""

NEVER: Final = Reconciliation(0, on_start=False)
DEAD_LETTERS_MAX: Final = 1000
REST_SECONDS_MAX: Final = 120.0

FAILURES: Final[dict[str, Failure]] = {
    "busy": Busy(PROBLEM),
    "throttled": Throttled(PROBLEM),
    "unreachable": Unreachable(PROBLEM),
    "server error": Unavailable(PROBLEM, Effect.NONE),
    "lost reply": Unavailable(PROBLEM, Effect.POSSIBLE),
    "unserved": Unserved(PROBLEM),
    "refused": Refused(PROBLEM),
    "credentials": Withheld(Scope.CREDENTIALS, PROBLEM),
    "permission": Withheld(Scope.PERMISSION, PROBLEM),
    "clock": Withheld(Scope.CLOCK, PROBLEM),
    "endpoint": Withheld(Scope.ENDPOINT, PROBLEM),
    "node": Withheld(Scope.NODE, PROBLEM),
}
"""One of each failure."""

ENDS: Final = (
    Count.SUPPRESSED_UNCHANGED,
    Count.SUPPRESSED_STALE,
    Count.COALESCED,
    Count.DELIVERED,
    Count.ALREADY_HELD,
    Count.DEAD,
)
"""What a received result may end in."""


def at(ms: int = 0) -> Now:
    """So many milliseconds after the start, on both clocks."""
    return Now(START_MS + ms, START_MS + ms)


def report(status: str = "Success", message: str = "", at_ms: int = 0, info: str | None = None) -> Report:
    """A report observed so many milliseconds after the start."""
    return Report(status, message or f"it is {status}", info, START_MS + at_ms)


def result(
    status: str = "Success",
    message: str = "",
    at_ms: int = 0,
    writer: Writer = Writer.SOLE,
    edge: Edge = Edge.LEADING,
    association: Association = WEB,
) -> Result:
    """A result with such a report."""
    return Result(association, report(status, message, at_ms), "test", writer, edge)


def acknowledged(status: str = "Success", message: str = "", at_ms: int = 0, via: Via = Via.DELIVERED) -> Entry:
    """An association at rest whose status the service holds, long quiet."""
    held = report(status, message, at_ms)
    return Entry(WEB, 1, held.observed_at_ms, Acknowledged(held, held.observed_at_ms, via))


def seen(entry: Entry, *results: Result, now: Now, policy: Policy = POLICY) -> Entry:
    """The entry after these results."""
    for each in results:
        entry = observed(entry, each, now, policy).entry
    return entry


def look(entry: Entry, each: Result, now: Now, policy: Policy = POLICY) -> Observed:
    """What one more result is found to be."""
    return observed(entry, each, now, policy)


def sent(entry: Entry, now: Now, policy: Policy = POLICY) -> tuple[Entry, Claim]:
    """The entry with its report out; nothing was to be asked first."""
    flying, claim = claimed(entry, now, policy)
    assert claim.step is Step.SEND
    return flying, claim


def settle(
    entry: Entry, claim: Claim, outcome: Outcome, now: Now, chance: float = 0.5, policy: Policy = POLICY
) -> Settled:
    """What came of a call."""
    return settled(entry, claim, outcome, now, chance, policy)


def ends_of(counts: Counts) -> dict[Count, int]:
    """The ends among counts, summed."""
    sums: dict[Count, int] = {}
    for name, change in counts:
        if name in ENDS:
            sums[name] = sums.get(name, 0) + change
    return sums


def total(counts: Counts, name: Count) -> int:
    """How often that was counted."""
    return sum(change for each, change in counts if each is name)


def is_cut(text: str) -> bool:
    """Whether a reader sees that something is missing."""
    return text.endswith(CUT_MARK)


class ManualClock:
    """Two clocks that stand until a test moves them; who sleeps wakes when the steady one has come so far."""

    def __init__(self, start_ms: int = START_MS) -> None:
        self._now = Now(start_ms, start_ms)
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = count()

    def now(self) -> Now:
        return self._now

    async def sleep_until(self, steady_ms: int) -> None:
        if steady_ms <= self._now.steady_ms:
            return
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (steady_ms, next(self._order), woken))
        await woken

    @property
    def next_wake_ms(self) -> int | None:
        """When the next sleeper is to be woken, steady."""
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
        return self._sleepers[0][0] if self._sleepers else None

    def advance(self, ms: int) -> None:
        """Time passes, on both clocks."""
        self.advance_to(self._now.steady_ms + ms)

    def advance_to(self, steady_ms: int) -> None:
        """Time passes until then."""
        passed_ms = max(0, steady_ms - self._now.steady_ms)
        self._now = Now(self._now.wall_ms + passed_ms, self._now.steady_ms + passed_ms)
        while (wake_ms := self.next_wake_ms) is not None and wake_ms <= self._now.steady_ms:
            _, _, woken = heapq.heappop(self._sleepers)
            woken.set_result(None)

    def set_wall(self, wall_ms: int) -> None:
        """Somebody sets the clock: no time passes."""
        self._now = replace(self._now, wall_ms=wall_ms)

    def restart(self) -> None:
        """A new process: its steady time starts as wall time is."""
        self._now = Now(self._now.wall_ms, self._now.wall_ms)
        self._sleepers.clear()


class WatchedCommitter(Committer):
    """A committer that knows which of its operations nobody has heard of yet."""

    def __init__(self, path: Path, versions: tuple[Migration, ...] | None = None) -> None:
        super().__init__(path, versions or migrations(), lambda: "20261122T132353Z")
        self._unheard: set[asyncio.Future[Any]] = set()

    def submit(
        self, operation: Operation[T], durability: Durability = Durability.POWER_LOSS
    ) -> "asyncio.Future[T]":
        future = super().submit(operation, durability)
        self._unheard.add(future)
        future.add_done_callback(self._unheard.discard)
        return future

    async def rest(self) -> None:
        """Return when nothing more happens unless time passes: no operation is out, no task is ready to run."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(0)
            if self._unheard:
                await asyncio.wait(self._unheard, timeout=REST_SECONDS_MAX)
            elif not loop._ready:  # type: ignore[attr-defined]  # every event loop of the standard library has it
                return


class SwiftCommitter(WatchedCommitter):
    """A committer whose thread has taken an operation before the event loop goes on, as it may at any time."""

    def submit(
        self, operation: Operation[T], durability: Durability = Durability.POWER_LOSS
    ) -> "asyncio.Future[T]":
        future = super().submit(operation, durability)
        while self._jobs:
            time.sleep(0.0001)
        return future


class SlowCommitter(WatchedCommitter):
    """A committer whose commits take so long that the event loop gets on meanwhile."""

    def _commit(self, batch: list[Any]) -> bool:
        time.sleep(0.02)
        return super()._commit(batch)


def outbox_at(
    path: Path,
    clock: Clock,
    chance: Chance,
    policy: Policy = POLICY,
    reconciliation: Reconciliation = NEVER,
    committing: type[WatchedCommitter] = WatchedCommitter,
) -> tuple[WatchedCommitter, SqliteOutbox]:
    """The real outbox in a file, not yet recovered."""
    committer = committing(path)
    return committer, SqliteOutbox(committer, Operations(clock, chance, policy, reconciliation, DEAD_LETTERS_MAX))


class Contents(msgspec.Struct):
    """What an outbox holds."""

    counters: dict[str, int]
    entries: dict[Association, Entry]
    columns: dict[Association, tuple[str, bool, int | None]]


def contents(tables: Tables) -> Contents:
    """Read everything, in one transaction."""
    decode = msgspec.json.Decoder(Entry).decode
    rows = tables._execute("SELECT entry, state, busy, due_ms FROM association").fetchall()
    entries = [decode(row[0]) for row in rows]
    return Contents(
        counters=dict(tables._execute("SELECT name, value FROM counter").fetchall()),
        entries={entry.association: entry for entry in entries},
        columns={
            entry.association: (row[1], bool(row[2]), row[3]) for entry, row in zip(entries, rows, strict=True)
        },
    )


@contextmanager
def quietly() -> Iterator[None]:
    """What is said is not written: tens of thousands of lines that nobody reads."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.reset_defaults()
