"""Failure: what is to become of a report whose call, or whose question, failed.

Rules (numbers as in ARCHITECTURE.md):
  9. A failure that may pass is retried with full jitter, for ever. TooManyUpdates passes within seconds.
 10. What a shut scope answers is charged to nothing: the report waits as it is.
     What the service does not serve is parked: retried at long intervals, dead when its time is up. What it
     refuses is dead at once.
"""

from msgspec.structs import replace

from ssm_status_reporter.domain.entry import (
    Buried,
    Cause,
    Count,
    Dead,
    Entry,
    LastError,
    Policy,
    Settled,
    pending_of,
)
from ssm_status_reporter.domain.limits import BUSY_BACKOFF_MS_MAX, PARKED_JITTER_SHARE, UNSERVED_MS
from ssm_status_reporter.domain.outcome import (
    Busy,
    Failure,
    Problem,
    Refused,
    Throttled,
    Unavailable,
    Unreachable,
    Unserved,
    Withheld,
)
from ssm_status_reporter.domain.time import Now


def failed(entry: Entry, failure: Failure, now: Now, chance: float, policy: Policy) -> Settled:
    """The next attempt, or the end, after a failure."""
    problem = failure.problem
    backoff = policy.backoff
    entry = replace(entry, last_error=LastError(problem, now.wall_ms))
    match failure:
        case Busy():
            capped = backoff.capped(BUSY_BACKOFF_MS_MAX)
            return _retried(entry, now, capped.delay_ms(entry.failures + 1, chance))
        case Unreachable():
            return _retried(entry, now, backoff.delay_ms(entry.failures + 1, chance))
        case Throttled(_, retry_after_ms) | Unavailable(_, _, retry_after_ms):
            return _retried(entry, now, backoff.delay_ms(entry.failures + 1, chance, retry_after_ms))
        case Unserved():
            return _parked(entry, problem, now, chance, policy)
        case Refused():
            return _dead(entry, problem, Cause.REFUSED, now)
        case Withheld(until_ms=until_ms):
            return Settled(entry if until_ms is None else _waiting(entry, now, until_ms - now.steady_ms))


def not_ours(entry: Entry, now: Now) -> Settled:
    """The service does not serve the association: what was taken for a result was none."""
    forgotten = replace(entry, pending=None, unserved_until_ms=now.steady_ms + UNSERVED_MS)
    return Settled(forgotten, ((Count.RECEIVED, -1), (Count.REFUSED, 1)))


def _waiting(entry: Entry, now: Now, delay_ms: int) -> Entry:
    return replace(entry, retry_at_ms=now.steady_ms + delay_ms, retry_wait_ms=delay_ms)


def _retried(entry: Entry, now: Now, delay_ms: int) -> Settled:
    return Settled(_waiting(replace(entry, failures=entry.failures + 1), now, delay_ms))


def _parked(entry: Entry, problem: Problem, now: Now, chance: float, policy: Policy) -> Settled:
    since_ms = now.steady_ms if entry.parked_since_ms is None else entry.parked_since_ms
    if now.steady_ms - since_ms >= policy.give_up_after_ms:
        return _dead(replace(entry, parked_since_ms=since_ms), problem, Cause.UNSERVED, now)
    delay_ms = policy.retry_every_ms + round(chance * PARKED_JITTER_SHARE * policy.retry_every_ms)
    # The last attempt comes when the time is up, not an interval after it.
    delay_ms = min(delay_ms, since_ms + policy.give_up_after_ms - now.steady_ms)
    return Settled(_waiting(replace(entry, parked_since_ms=since_ms), now, delay_ms))


def _dead(entry: Entry, problem: Problem, cause: Cause, now: Now) -> Settled:
    report = pending_of(entry).report
    parked_from_ms = now.steady_ms if entry.parked_since_ms is None else entry.parked_since_ms
    buried = replace(
        entry,
        pending=None,
        dead=Dead(report, cause, parked_from_ms),
        failures=0,
        retry_at_ms=0,
        parked_since_ms=None,
    )
    return Settled(buried, ((Count.DEAD, 1),), buried=Buried(report, problem))
