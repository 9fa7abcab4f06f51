"""The entry: all that is known of one association, and what an event makes of it.

Events are an observation (a source saw a result), a claim (its call slot is taken), an answer (to a question),
a settlement (of a call), and a recovery (the process starts anew). Each is a function, in a module of its name, from
an entry to the next one and to the *ends* it causes. The rules, by the numbers of ARCHITECTURE.md:

  2. State, not events: at most one undelivered report, the newest. What comes back for an older version
     updates what is acknowledged and never settles the newer one.
  3. Unchanged is silence, unless a report may have reached the service meanwhile (``unsure``).
  5. Older never overwrites newer. A date in the future of the clock is no evidence (`time.is_evidence`).
  6. The service is the truth: what it holds with a newer or equal date is adopted.
  9. One call in flight per association; its backoff outlives the report that caused it.
 11. Each result ends exactly once: `Count` names the ends, and each of those functions returns the ones it causes.

An entry is frozen; it is stored as it is (outbox/). Its parts are msgspec structs: made and replaced several times for
each report, which dataclasses do ten times more slowly.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from ssm_status_reporter.domain.association import Association
from ssm_status_reporter.domain.backoff import Backoff
from ssm_status_reporter.domain.limits import REDELIVERED_WAIT_MS_MIN, RETRY_AFTER_MS_MAX, SHARED_LOOK_AGAIN_MS
from ssm_status_reporter.domain.outcome import Problem
from ssm_status_reporter.domain.report import Comparison, Report
from ssm_status_reporter.domain.result import Served, Writer
from ssm_status_reporter.domain.time import Now, brought_back


class Count(StrEnum):
    """What is counted; each received result ends in one of those from SUPPRESSED_UNCHANGED to DEAD."""

    RECEIVED = "received"
    SUPPRESSED_UNCHANGED = "suppressed_unchanged"
    SUPPRESSED_STALE = "suppressed_stale"
    COALESCED = "coalesced"
    REFUSED = "refused"
    CALLS = "calls"
    DELIVERED = "delivered"
    ALREADY_HELD = "already_held"
    RETRIED = "retried"
    DEAD = "dead"


Counts = Sequence[tuple[Count, int]]
"""Changes to counters. An end is taken back, with -1, when its result is to be delivered after all."""


class State(StrEnum):
    """What an operator sees of an entry."""

    ACKNOWLEDGED = "acknowledged"
    PENDING = "pending"
    IN_FLIGHT = "in_flight"
    PARKED = "parked"
    DEAD = "dead"


class Via(StrEnum):
    """How the service came to hold what it holds, as far as this daemon knows."""

    DELIVERED = "delivered"
    ALREADY_HELD = "already_held"
    ADOPTED = "adopted"
    """Somebody else wrote it; no result of ours ended in it."""


class Step(StrEnum):
    """The next call for a report."""

    ASK = "ask"
    SEND = "send"


class Cause(StrEnum):
    """Why a report is dead; only what the service did not serve may be tried again unchanged."""

    UNSERVED = "unserved"
    REFUSED = "refused"


class Acknowledged(Struct, frozen=True):
    """What the service holds. ``at_ms`` is when we learnt it, wall time."""

    report: Report
    at_ms: int
    via: Via
    seen_at_ms: int | None = None
    """When a result of ours was last observed that is equal to it and newer; wall time."""
    found_ms: int | None = None
    """When a question found it at the service, wall time. What StatusUnchanged acknowledged may be another message."""

    @property
    def is_ours(self) -> bool:
        """A result of ours ended in it."""
        return self.via is not Via.ADOPTED or self.seen_at_ms is not None

    def seen(self, at_ms: int) -> "Acknowledged":
        """An equal result was observed then."""
        return replace(self, seen_at_ms=at_ms)

    def ours(self, wall_ms: int) -> Report:
        """Our newest report that is equal to it. A date in the future is no evidence."""
        return _seen_again(self.report, self.seen_at_ms, wall_ms)


class Pending(Struct, frozen=True):
    """The undelivered report. ``release_at_ms`` is the debounce's, steady."""

    report: Report
    source: str
    writer: Writer
    release_at_ms: int
    served: Served = Served.SUPPOSED
    attempts: int = 0
    """Calls that failed for this report's own sake."""
    asks: int = 0
    """Questions about it that a server error answered."""
    tried: bool = False
    """It went out at least once."""
    doubtful: bool = False
    """It may have been applied although no answer said so."""


class Flight(Struct, frozen=True):
    """The call that is out. Its version tells whether the answer is about what is pending now."""

    step: Step
    version: int


class Dead(Struct, frozen=True):
    """The report the service refused for good. ``parked_from_ms`` (steady) is when its last parking began."""

    report: Report
    cause: Cause
    parked_from_ms: int
    seen_at_ms: int | None = None
    """When a result was last observed that is equal to it and newer; wall time."""

    def seen(self, at_ms: int) -> "Dead":
        """An equal result was observed then."""
        return replace(self, seen_at_ms=at_ms)

    def latest(self, wall_ms: int) -> Report:
        """The newest report that is equal to it. A date in the future is no evidence."""
        return _seen_again(self.report, self.seen_at_ms, wall_ms)


class LastError(Struct, frozen=True):
    """The last answer that was no success; gone with the next success. ``at_ms`` is wall time."""

    problem: Problem
    at_ms: int


class Entry(Struct, frozen=True):
    """One association. Steady times unless said otherwise."""

    association: Association
    version: int = 0
    """Grows with each report that becomes pending."""
    latest_ms: int | None = None
    """The newest observation known, ours or the service's; wall time."""
    acknowledged: Acknowledged | None = None
    unsure: bool = False
    """A report may have reached the service since ``acknowledged`` was learnt."""
    pending: Pending | None = None
    sent: tuple[Report, ...] = ()
    """What went out since the service last answered for this association: if it holds one of those, it is ours."""
    flight: Flight | None = None
    window_end_ms: int = 0
    retry_at_ms: int = 0
    """No call before this; the association's, whatever report is pending."""
    retry_wait_ms: int | None = None
    """How far ahead that was when it was set; None: a version that set it did not say."""
    failures: int = 0
    """Failures in a row: the exponent of the backoff."""
    parked_since_ms: int | None = None
    dead: Dead | None = None
    unserved_until_ms: int = 0
    """Until then the service's word holds that this association is none of its own."""
    last_error: LastError | None = None

    @property
    def state(self) -> State:
        """What an operator sees."""
        if self.pending is not None:
            if self.flight is not None:
                return State.IN_FLIGHT
            return State.PENDING if self.parked_since_ms is None else State.PARKED
        return State.ACKNOWLEDGED if self.dead is None else State.DEAD

    @property
    def due_at_ms(self) -> int | None:
        """When its pending report may next be claimed; None when there is none to claim."""
        if self.pending is None or self.flight is not None:
            return None
        return max(self.pending.release_at_ms, self.retry_at_ms)

    def retry_brought_back(self, now: Now, policy: "Policy") -> int:
        """The same by the clock of now: no further ahead than when it was set (rule 14)."""
        wait_ms = policy.deadline_ms_max if self.retry_wait_ms is None else self.retry_wait_ms
        return brought_back(self.retry_at_ms, now, wait_ms)

    @property
    def is_blank(self) -> bool:
        """Nothing is known that would be worth keeping."""
        return self.pending is None and self.acknowledged is None and self.dead is None and self.flight is None

    def without_dead(self) -> "Entry":
        """The dead report was dropped: an equal one would be news."""
        return replace(self, dead=None, last_error=None)


class Claim(Struct, frozen=True):
    """A call slot taken: what to ask or send, and for which version."""

    association: Association
    version: int
    step: Step
    report: Report
    confirm_unchanged: bool = False
    """Whether StatusUnchanged to this call would be evidence of what the service compares (rule 7)."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the decisions take from the configuration and from what was learnt."""

    window_ms: int
    comparison: Comparison
    asks_first: bool
    """Ask before the first report of an association without acknowledged state (reconcile is on)."""
    learning: bool
    """``compare: auto``, and nothing learnt yet."""
    backoff: Backoff
    retry_every_ms: int
    give_up_after_ms: int
    timeout_ms: int
    """One call takes no longer."""

    @property
    def trailing_window_ms(self) -> int:
        """The window of what may be delivered again; no report waits longer than this for its release."""
        return max(self.window_ms, REDELIVERED_WAIT_MS_MIN)

    @property
    def deadline_ms_max(self) -> int:
        """No deadline of an entry lies further ahead than this."""
        return max(self.backoff.max_ms, 2 * self.retry_every_ms, RETRY_AFTER_MS_MAX)

    @property
    def look_again_ms(self) -> int:
        """So long another daemon's update may still come, that followed from a question before our own was answered."""
        return max(SHARED_LOOK_AGAIN_MS, 2 * self.timeout_ms)


class Buried(Struct, frozen=True):
    """A report that the service refused for good: the next dead letter."""

    report: Report
    problem: Problem


class Settled(Struct, frozen=True):
    """The entry after an answer or an outcome, the ends it caused, and what follows.

    ``then`` is the call that the same slot goes on with.
    """

    entry: Entry
    counts: Counts = ()
    then: Claim | None = None
    buried: Buried | None = None


def _seen_again(report: Report, seen_at_ms: int | None, wall_ms: int) -> Report:
    if seen_at_ms is None or seen_at_ms > wall_ms or seen_at_ms <= report.observed_at_ms <= wall_ms:
        return report
    return replace(report, observed_at_ms=seen_at_ms)


def pending_of(entry: Entry) -> Pending:
    """The report that is pending; a call slot is never taken without one."""
    if entry.pending is None:
        raise ValueError(f"{entry.association}: no report is pending")
    return entry.pending


def at_rest(entry: Entry) -> Entry:
    """The service answered for this association: nothing is in doubt, no backoff remains."""
    return replace(
        entry,
        unsure=False,
        sent=(),
        failures=0,
        retry_at_ms=0,
        parked_since_ms=None,
        dead=None,
        unserved_until_ms=0,
        last_error=None,
    )
