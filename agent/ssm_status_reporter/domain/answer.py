"""The answer: what DescribeAssociation tells, held against what is pending or thought to be acknowledged.

Rules (numbers as in ARCHITECTURE.md):
  2. The answer is dropped when the entry changed while the question was out.
  5. What the service holds with a newer or equal date makes ours stale, unless it is what we knew before, or
     sent ourselves: of two reports with equal dates the later arrival wins.
  6. The service is the truth: what it holds is adopted. Ours goes out again only if it is newer, or if the
     service holds none. A result that was no news is as new as it was observed. At rest, a date in the future gives
     no way: of two daemons whose clocks are apart each would write its own anew over the other's.
  8. What it holds already, by our comparison, is acknowledged without a call.
"""

from typing import Final

from msgspec.structs import replace

from ssm_status_reporter.domain.claim import known, sending_next
from ssm_status_reporter.domain.entry import (
    Acknowledged,
    Claim,
    Count,
    Entry,
    Pending,
    Policy,
    Settled,
    Via,
    at_rest,
)
from ssm_status_reporter.domain.failure import failed, not_ours
from ssm_status_reporter.domain.outcome import (
    Answer,
    Held,
    HeldNothing,
    NotToBeHad,
    Refused,
    Unavailable,
    Unserved,
)
from ssm_status_reporter.domain.report import Comparison, Report
from ssm_status_reporter.domain.result import Served, Writer
from ssm_status_reporter.domain.time import Now, is_evidence


def answered(entry: Entry, claim: Claim, answer: Answer, now: Now, chance: float, policy: Policy) -> Settled:
    """What the answer to a question makes of the entry."""
    freed = replace(entry, flight=None)
    if entry.version != claim.version:
        return Settled(freed)  # the row changed meanwhile: the answer is dropped
    if entry.pending is None:
        return _compared(freed, answer, now, policy)
    pending = entry.pending
    match answer:
        case Held(held):
            return _weighed(freed, pending, held, now, policy)
        case HeldNothing():
            return sending_next(replace(freed, acknowledged=None, unsure=False), pending, policy)
        case NotToBeHad() | Refused():
            return sending_next(freed, pending, policy)
        case Unavailable():
            asked = replace(freed, pending=replace(pending, asks=pending.asks + 1))
            return failed(asked, answer, now, chance, policy)
        case Unserved() if pending.served is Served.ASKED:
            return not_ours(freed, now)
        case Unserved():
            charged = replace(freed, pending=replace(pending, attempts=pending.attempts + 1))
            return failed(charged, answer, now, chance, policy)
        case _:
            return failed(freed, answer, now, chance, policy)


def learnt(claim: Claim, entry: Entry, held: Report) -> bool:
    """Whether StatusUnchanged to this claim, with ``held`` still there, shows that messages are not compared."""
    old = entry.acknowledged
    return (
        claim.confirm_unchanged
        and old is not None
        and held.same_as(old.report, Comparison.STATUS_AND_MESSAGE)
        and held.message != claim.report.message
    )


def _weighed(entry: Entry, pending: Pending, held: Report, now: Now, policy: Policy) -> Settled:
    """The service holds a status and ours is pending: which of the two stands?"""
    same = pending.report.same_as(held, policy.comparison)
    ours_ms, theirs_ms = pending.report.observed_at_ms, held.observed_at_ms
    newer = ours_ms <= theirs_ms and is_evidence(theirs_ms, ours_ms, now) and not _is_known(entry, held)
    if not same and not newer:
        adopted = replace(entry, acknowledged=Acknowledged(held, now.wall_ms, Via.ADOPTED), unsure=False)
        return sending_next(adopted, pending, policy)
    latest_ms = held.observed_at_ms if newer else entry.latest_ms
    rested = at_rest(replace(entry, pending=None, latest_ms=_newest(entry.latest_ms, latest_ms, now)))
    if same:
        report = replace(pending.report, observed_at_ms=held.observed_at_ms)
        found = Acknowledged(report, now.wall_ms, Via.ALREADY_HELD, pending.report.observed_at_ms, now.wall_ms)
        return Settled(replace(rested, acknowledged=found), ((Count.ALREADY_HELD, 1),))
    # What ours lost to is what later results are held against, although its date may be in the future.
    newest_ms = max(theirs_ms, rested.latest_ms or theirs_ms)
    rested = replace(rested, acknowledged=Acknowledged(held, now.wall_ms, Via.ADOPTED), latest_ms=newest_ms)
    return Settled(rested, ((Count.SUPPRESSED_STALE, 1),))


def _is_known(entry: Entry, held: Report) -> bool:
    """Whether it is what we knew the service to hold, or sent there: ours came later, whatever its date."""
    return any(
        report.same_as(held, Comparison.STATUS_AND_MESSAGE) and held.observed_at_ms <= report.observed_at_ms
        for report in known(entry)
    )


def _compared(entry: Entry, answer: Answer, now: Now, policy: Policy) -> Settled:
    """Nothing is pending: does the service hold what we think it does?"""
    ours = entry.acknowledged
    if ours is None:
        return Settled(entry)
    newest_ms = ours.ours(now.wall_ms).observed_at_ms
    match answer:
        case Held(held) if held.same_as(ours.report, policy.comparison):
            latest_ms = _newest(entry.latest_ms, held.observed_at_ms, now)
            still = replace(ours, at_ms=now.wall_ms)
            return Settled(replace(entry, acknowledged=still, latest_ms=latest_ms, unsure=False))
        case Held(held) if not ours.is_ours or not _outdates(newest_ms, held.observed_at_ms, now):
            adopted = replace(entry, acknowledged=Acknowledged(held, now.wall_ms, Via.ADOPTED), unsure=False)
            return Settled(replace(adopted, latest_ms=_newest(entry.latest_ms, held.observed_at_ms, now)))
        case Held(held) if _said_unchanged(ours, held):
            return Settled(entry)  # it does not compare messages, and would say so again
        case Held(held):
            adopted = replace(entry, acknowledged=Acknowledged(held, now.wall_ms, Via.ADOPTED))
            return _restored(adopted, ours, Writer.SHARED, now, policy)  # another one writes as well
        case HeldNothing() if ours.is_ours:
            return _restored(replace(entry, acknowledged=None), ours, Writer.SOLE, now, policy)
        case HeldNothing() | Unserved():
            return Settled(replace(entry, acknowledged=None, unsure=False))
        case _:
            return Settled(entry)  # not learnt this time: asked again later


def _outdates(ours_ms: int, theirs_ms: int, now: Now) -> bool:
    """Whether ours, at rest, is shown to be newer than what somebody else wrote.

    A date in the future wins: a daemon whose clock is ahead writes it anew, for ever, over whatever takes its place.
    """
    return ours_ms > theirs_ms and is_evidence(ours_ms, theirs_ms, now)


def _said_unchanged(ours: Acknowledged, held: Report) -> bool:
    """Whether the service may have kept this in spite of ours. What a question found, it did hold."""
    kept = held.status == ours.report.status and held.observed_at_ms < ours.report.observed_at_ms
    return ours.via is Via.ALREADY_HELD and ours.found_ms is None and kept


def _restored(entry: Entry, ours: Acknowledged, writer: Writer, now: Now, policy: Policy) -> Settled:
    """The service lost what we delivered, or saw again: it is to be delivered again, so its end is taken back."""
    pending = Pending(ours.ours(now.wall_ms), "reconcile", writer, now.steady_ms)
    again = replace(entry, version=entry.version + 1, pending=pending, unsure=False)
    result = sending_next(again, pending, policy)
    return replace(result, counts=((_ENDED[ours.via], -1),))


_ENDED: Final = {
    Via.DELIVERED: Count.DELIVERED,
    Via.ALREADY_HELD: Count.ALREADY_HELD,
    Via.ADOPTED: Count.SUPPRESSED_UNCHANGED,
}
"""What the result ended in that is to be delivered again."""


def _newest(one_ms: int | None, other_ms: int | None, now: Now) -> int | None:
    evidence = [ms for ms in (one_ms, other_ms) if ms is not None and ms <= now.wall_ms]
    return max(evidence) if evidence else one_ms
