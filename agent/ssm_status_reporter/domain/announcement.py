"""The announcement: what became of a report, for whoever follows (MQTT ``outcomes``).

Rules:
  * One for each outcome of a call, and of a question that ends its report. Not for what never led to either: a result
    that is unchanged or stale when it comes in, or replaced before it went out, is in the counters.
  * A report that was replaced while its call failed is nobody's concern any more: the newer one has its own.
  * A hold is announced once, by the report that met it first. Its probes are not: they would say the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ssm_status_reporter.domain.association import Association
from ssm_status_reporter.domain.entry import Claim, Count, Settled
from ssm_status_reporter.domain.holds import Change, Shutting
from ssm_status_reporter.domain.outcome import Answer, Failure, Outcome, Problem, Unserved, Withheld
from ssm_status_reporter.domain.report import Report


class Ending(StrEnum):
    """What came of one call or question, as the follower reads it."""

    DELIVERED = "delivered"
    ALREADY_HELD = "already_held"
    STALE = "stale"
    RETRIED = "retried"
    PARKED = "parked"
    HELD_BACK = "held_back"
    DEAD = "dead"


_ENDS: Final = {
    Count.DELIVERED: Ending.DELIVERED,
    Count.ALREADY_HELD: Ending.ALREADY_HELD,
    Count.SUPPRESSED_STALE: Ending.STALE,
    Count.DEAD: Ending.DEAD,
}
"""What the report of the claim itself can end in. More may be counted with it: for a report that waited behind it."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """One outcome. ``at_ms`` is wall time; ``problem`` is None for what succeeded."""

    association: Association
    report: Report
    ending: Ending
    at_ms: int
    problem: Problem | None = None


Follower = Callable[[Announcement], None]
"""Whoever wants to know; must not block, and must not fail."""


def announced(
    claim: Claim, outcome: Outcome | Answer, after: Settled, changes: tuple[Change, ...], at_ms: int
) -> Announcement | None:
    """What there is to tell of one call or question. ``changes`` are those that its answer made to the holds."""
    ending = _ending(claim, outcome, after, changes)
    if ending is None:
        return None
    problem = outcome.problem if isinstance(outcome, Failure) else None
    return Announcement(claim.association, claim.report, ending, at_ms, problem)


def _ending(claim: Claim, outcome: Outcome | Answer, after: Settled, changes: tuple[Change, ...]) -> Ending | None:
    for count, change in after.counts:
        if change > 0 and count in _ENDS:
            return _ENDS[count]
    replaced = any(count is Count.COALESCED for count, _ in after.counts)
    waits = after.entry.pending is not None and after.entry.version == claim.version
    if replaced or not waits or after.then is not None or not isinstance(outcome, Failure):
        return None
    match outcome:
        case Withheld():
            return Ending.HELD_BACK if any(isinstance(change, Shutting) for change in changes) else None
        case Unserved():
            return Ending.PARKED
        case _:
            return Ending.RETRIED
