"""Settlement: what came of a call, for the report that is pending now; and what a crash left unsettled.

Rules (numbers as in ARCHITECTURE.md):
  2. What comes back for an older version updates what is acknowledged and never settles the newer report.
  3. What was out when the process ended may have been applied: only the service can tell.
 11. A replaced report whose call failed ends as coalesced. What was received in an outbox that was set aside or
     replaced since has no end in this one.
"""

from msgspec.structs import replace

from ssm_status_reporter.domain.entry import (
    Acknowledged,
    Claim,
    Count,
    Counts,
    Entry,
    LastError,
    Pending,
    Policy,
    Settled,
    Step,
    Via,
    at_rest,
    pending_of,
)
from ssm_status_reporter.domain.failure import failed, not_ours
from ssm_status_reporter.domain.outcome import (
    Busy,
    Delivered,
    Effect,
    Failure,
    Outcome,
    Refused,
    Scope,
    Throttled,
    Unavailable,
    Unchanged,
    Unreachable,
    Unserved,
    Withheld,
)
from ssm_status_reporter.domain.report import Report
from ssm_status_reporter.domain.result import Served, Writer
from ssm_status_reporter.domain.time import Now, brought_back


def settled(entry: Entry, claim: Claim, outcome: Outcome, now: Now, chance: float, policy: Policy) -> Settled:
    """What came of a call, for the report that is pending now."""
    freed = replace(entry, flight=None)
    match outcome:
        case Delivered():
            result = _acknowledged(freed, claim, Via.DELIVERED, now, policy)
        case Unchanged():
            result = _acknowledged(freed, claim, Via.ALREADY_HELD, now, policy)
        case _ if not _is_of(entry, claim):
            result = _superseded(_doubted(freed, outcome), outcome, now, chance, policy)
        case Unserved() if pending_of(freed).served is Served.ASKED:
            result = not_ours(freed, now)
        case _:
            doubted = _doubted(freed, outcome)
            result = failed(_charged(doubted, outcome), outcome, now, chance, policy)
    # Its own end comes first. Where the outbox was replaced meanwhile, its result was received in the other one.
    ends = result.counts if _is_known(entry, claim) else result.counts[1:]
    return replace(result, counts=(*_counted(outcome), *ends))


def revived(entry: Entry, report: Report, source: str, now: Now, policy: Policy) -> Settled:
    """A dead letter is to be tried again, unless something newer is known or pending."""
    back: Counts = ((Count.DEAD, -1),)
    if entry.dead is not None and entry.dead.report == report:
        report = entry.dead.latest(now.wall_ms)
        entry = replace(entry, dead=None)  # its letter is gone, whatever comes of it
    newer = entry.latest_ms is not None and report.observed_at_ms < entry.latest_ms <= now.wall_ms
    if newer or entry.pending is not None:
        return Settled(entry, (*back, (Count.SUPPRESSED_STALE, 1)))
    acknowledged = entry.acknowledged
    if acknowledged is not None and not entry.unsure and acknowledged.report.same_as(report, policy.comparison):
        return Settled(replace(entry, dead=None), (*back, (Count.SUPPRESSED_UNCHANGED, 1)))
    # The daemon that is to send it may count another steady time than who asks for it: due by both.
    release_at_ms = min(now.steady_ms, entry.window_end_ms)
    return Settled(
        replace(
            entry,
            version=entry.version + 1,
            latest_ms=report.observed_at_ms,
            pending=Pending(report, source, Writer.SOLE, release_at_ms, tried=True),
            retry_at_ms=0,
            parked_since_ms=None,
            dead=None,
        ),
        back,
    )


def recovered(entry: Entry, now: Now, policy: Policy) -> Settled:
    """The entry as a new process finds it: its calls are lost, its deadlines may come from another clock."""
    counts: Counts = ()
    pending = entry.pending
    if entry.flight is not None and entry.flight.step is Step.SEND:
        counts = ((Count.CALLS, 1),)  # it may have gone out
        if pending is None or entry.flight.version != entry.version:
            counts = (*counts, (Count.COALESCED, 1))
        else:
            pending = replace(pending, doubtful=True)
    if pending is not None:
        release_ms = brought_back(pending.release_at_ms, now, policy.trailing_window_ms)
        pending = replace(pending, release_at_ms=release_ms)
    parked_ms = entry.parked_since_ms
    return Settled(
        replace(
            entry,
            flight=None,
            pending=pending,
            unsure=entry.unsure or pending is not None,
            retry_at_ms=entry.retry_brought_back(now, policy),
            parked_since_ms=None if parked_ms is None else min(parked_ms, now.steady_ms),
        ),
        counts,
    )


def _acknowledged(entry: Entry, claim: Claim, via: Via, now: Now, policy: Policy) -> Settled:
    counts: Counts = ((Count.DELIVERED if via is Via.DELIVERED else Count.ALREADY_HELD, 1),)
    held = Acknowledged(claim.report, now.wall_ms, via)
    waiting = entry.pending
    settles = _is_of(entry, claim)
    if waiting is None or not (settles or waiting.report.same_as(claim.report, policy.comparison)):
        return Settled(replace(at_rest(entry), acknowledged=held), counts)
    if not settles:
        # B, then A again, while A was on its way: what waits is what the service now holds.
        counts = (*counts, (Count.SUPPRESSED_UNCHANGED, 1))
    # It may have been observed again while the call was out.
    held = held.seen(waiting.report.observed_at_ms)
    return Settled(replace(at_rest(entry), pending=None, acknowledged=held), counts)


def _is_of(entry: Entry, claim: Claim) -> bool:
    """Whether the call was made for what is pending. Versions begin anew when a broken outbox was set aside."""
    return entry.version == claim.version and claim.report in entry.sent


def _is_known(entry: Entry, claim: Claim) -> bool:
    """Whether the claim was made of this entry, in this outbox."""
    return (entry.flight is not None and entry.flight.version == claim.version) or _is_of(entry, claim)


def _never_left(outcome: Outcome) -> bool:
    """Credentials that were missing here: nothing was asked of the service."""
    return (
        isinstance(outcome, Withheld) and outcome.scope is Scope.CREDENTIALS and outcome.problem.request_id is None
    )


def _superseded(entry: Entry, failure: Failure, now: Now, chance: float, policy: Policy) -> Settled:
    """Nobody waits for the report any more: no dead letter, but the association's backoff is what it is."""
    coalesced: Counts = ((Count.COALESCED, 1),)
    if isinstance(failure, Refused):
        return Settled(replace(entry, last_error=LastError(failure.problem, now.wall_ms)), coalesced)
    if isinstance(failure, Unserved):
        entry = replace(entry, parked_since_ms=now.steady_ms)  # the time to be served is each report's own
    return replace(failed(entry, failure, now, chance, policy), counts=coalesced)


def _charged(entry: Entry, failure: Failure) -> Entry:
    """Count the failure against the pending report if it is its own; note whether it may have been applied."""
    pending = pending_of(entry)
    own = isinstance(failure, Unserved | Unavailable | Busy)
    doubtful = pending.doubtful or _effect_of(failure) is Effect.POSSIBLE
    return replace(entry, pending=replace(pending, attempts=pending.attempts + own, doubtful=doubtful))


def _doubted(entry: Entry, failure: Failure) -> Entry:
    """A server error may hide an update that was applied: what the service holds is unsure from here on."""
    doubt = isinstance(failure, Unavailable) or _effect_of(failure) is Effect.POSSIBLE
    return replace(entry, unsure=True) if doubt else entry


def _effect_of(failure: Failure) -> Effect:
    return failure.effect if isinstance(failure, Unavailable | Withheld) else Effect.NONE


def _counted(outcome: Outcome) -> Counts:
    if _never_left(outcome):
        return ()
    if isinstance(outcome, Busy | Throttled | Unreachable | Unavailable):
        return ((Count.CALLS, 1), (Count.RETRIED, 1))
    return ((Count.CALLS, 1),)
