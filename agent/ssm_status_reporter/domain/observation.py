"""Observation: a source saw a result. Is it news?

Rules (numbers as in ARCHITECTURE.md):
  3. What equals the acknowledged status, or what is pending, makes no call. A → B → A before B was ever tried
     makes none either. But while the service may hold something else than we know, nothing is unchanged; where
     several daemons share the results of an association, it always may.
  4. News is scheduled by the debounce.
  5. What was observed before the latest observation known is stale. At equal times the later arrival wins.
     A date in the future, stored here, is no evidence, unless what comes in is dated in the future as well; one too
     far ahead that comes in is taken as now.
  8. What a second writer reports too is never unchanged by what we know: it has written since. What the service said
     it does not serve is no result of ours, for as long as its word is believed.
"""

from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from ssm_status_reporter.domain.debounce import schedule
from ssm_status_reporter.domain.entry import Cause, Count, Counts, Dead, Entry, Pending, Policy, Step
from ssm_status_reporter.domain.limits import CLOCK_AHEAD_MS_MAX, UNSERVED_MS
from ssm_status_reporter.domain.report import Report
from ssm_status_reporter.domain.result import Edge, Result, Served, Writer
from ssm_status_reporter.domain.time import Now, is_evidence


class Finding(StrEnum):
    """What an observation turned out to be."""

    NEWS = "news"
    UNCHANGED = "unchanged"
    STALE = "stale"
    UNSERVED = "unserved"


class Observed(Struct, frozen=True):
    """The entry after an observation, what it was, and the ends it caused."""

    entry: Entry
    finding: Finding
    counts: Counts


def observed(entry: Entry, result: Result, now: Now, policy: Policy) -> Observed:
    """What a result makes of its association's entry."""
    # A word that would be believed for longer was given under another clock.
    unserved = now.steady_ms < entry.unserved_until_ms <= now.steady_ms + UNSERVED_MS
    if result.served is Served.ASKED and unserved:
        return Observed(entry, Finding.UNSERVED, ((Count.REFUSED, 1),))
    report = _dated(result.report, now)
    if _is_stale(entry, report, now):
        return Observed(entry, Finding.STALE, ((Count.RECEIVED, 1), (Count.SUPPRESSED_STALE, 1)))
    # Where other daemons report too, what we last knew of the service is no evidence.
    unsure = entry.unsure or (result.writer is Writer.SHARED and entry.acknowledged is not None)
    entry = replace(entry, latest_ms=report.observed_at_ms, unsure=unsure)
    unchanged = _if_unchanged(entry, result, report, now, policy)
    if unchanged is not None:
        return unchanged
    return _news(entry, result, report, now, policy)


def _dated(report: Report, now: Now) -> Report:
    if report.observed_at_ms <= now.wall_ms + CLOCK_AHEAD_MS_MAX:
        return report
    return replace(report, observed_at_ms=now.wall_ms)


def _is_stale(entry: Entry, report: Report, now: Now) -> bool:
    if entry.latest_ms is None or entry.latest_ms <= report.observed_at_ms:
        return False
    return is_evidence(entry.latest_ms, report.observed_at_ms, now)


def _if_unchanged(entry: Entry, result: Result, report: Report, now: Now, policy: Policy) -> Observed | None:
    counts: Counts = ((Count.RECEIVED, 1), (Count.SUPPRESSED_UNCHANGED, 1))
    pending = entry.pending
    if pending is not None and pending.report.same_as(report, policy.comparison):
        # The newer date goes along: it is what tells ours from another writer's. So does the word of whoever says
        # that the association is one of ours.
        known = result.served if result.served is Served.SUPPOSED else pending.served
        writer = _writer(pending, result)
        later = replace(entry, pending=replace(pending, report=report, served=known, writer=writer))
        return Observed(later, Finding.UNCHANGED, counts)
    if pending is None and entry.dead is not None and _still_dead(entry.dead, report, now, policy):
        # The newer date goes along: a retry of it is not older than what is known.
        return Observed(replace(entry, dead=entry.dead.seen(report.observed_at_ms)), Finding.UNCHANGED, counts)
    acknowledged = entry.acknowledged
    if _writer(pending, result) is Writer.SECOND:
        return None
    if entry.unsure or acknowledged is None or not acknowledged.report.same_as(report, policy.comparison):
        return None
    entry = replace(entry, acknowledged=acknowledged.seen(report.observed_at_ms))
    if pending is None:
        return Observed(replace(entry, dead=None), Finding.UNCHANGED, counts)
    if pending.tried or (entry.flight is not None and entry.flight.step is Step.SEND):
        return None
    # A → B → A, and B never went out.
    settled = replace(entry, pending=None, version=entry.version + 1, parked_since_ms=None)
    return Observed(settled, Finding.UNCHANGED, (*counts, (Count.COALESCED, 1)))


def _writer(pending: Pending | None, result: Result) -> Writer:
    """Who else writes: another writer that one of the two knows of may have written, whatever the other knows."""
    known = {result.writer} if pending is None else {result.writer, pending.writer}
    return next(writer for writer in (Writer.SECOND, Writer.SHARED, Writer.SOLE) if writer in known)


def _still_dead(dead: Dead, report: Report, now: Now, policy: Policy) -> bool:
    if not dead.report.same_as(report, policy.comparison):
        return False
    # A parking that began in the future began under another clock: that tells nothing of how long ago it was.
    return dead.cause is Cause.REFUSED or 0 <= now.steady_ms - dead.parked_from_ms < policy.give_up_after_ms


def _news(entry: Entry, result: Result, report: Report, now: Now, policy: Policy) -> Observed:
    counts: Counts = ((Count.RECEIVED, 1),)
    replaced = entry.pending
    out = entry.flight is not None and entry.flight.step is Step.SEND and entry.flight.version == entry.version
    if replaced is not None and not out:  # the one that is out ends when its call does
        counts = (*counts, (Count.COALESCED, 1))
    when = schedule(
        entry.window_end_ms,
        None if replaced is None or replaced.tried else replaced.release_at_ms,
        result.edge,
        now,
        policy.trailing_window_ms if result.edge is Edge.TRAILING else policy.window_ms,
    )
    entry = replace(
        entry,
        version=entry.version + 1,
        pending=Pending(report, result.source, _writer(replaced, result), when.release_at_ms, result.served),
        window_end_ms=when.window_end_ms,
        retry_at_ms=entry.retry_brought_back(now, policy),
        # A new report is given its own time to be served, but not an attempt of its own: the backoff stays.
        parked_since_ms=None if entry.parked_since_ms is None else now.steady_ms,
        dead=None,
        # What it replaces may have been applied: then only the service knows what it holds.
        unsure=entry.unsure or (replaced is not None and replaced.tried),
    )
    return Observed(entry, Finding.NEWS, counts)
