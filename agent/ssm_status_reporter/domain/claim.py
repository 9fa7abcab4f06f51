"""The claim: a due report takes its association's one call slot, to ask first or to send.

Asked first is (numbers as in ARCHITECTURE.md):
  3. what the service may hold already, by what was acknowledged or sent, while a call has no certain answer;
  5. what went out before and is older than a minute, or may have been applied although no answer said so;
  6. the first report of an association without acknowledged state;
  8. what somebody else may have written meanwhile: a second writer, or another daemon.
"""

from msgspec.structs import replace

from ssm_status_reporter.domain.entry import Claim, Entry, Flight, Pending, Policy, Settled, Step, pending_of
from ssm_status_reporter.domain.limits import (
    ASK_AGAIN_AFTER_MS,
    ASKS_UNANSWERED_BESIDE_OTHERS_MAX,
    ASKS_UNANSWERED_MAX,
    SENT_REMEMBERED_MAX,
)
from ssm_status_reporter.domain.report import Report
from ssm_status_reporter.domain.result import Writer
from ssm_status_reporter.domain.time import Now


def claimed(entry: Entry, now: Now, policy: Policy) -> tuple[Entry, Claim]:
    """Take the call slot of an entry whose report is due."""
    pending = pending_of(entry)
    if _asks(entry, pending, now, policy):
        claim = Claim(entry.association, entry.version, Step.ASK, pending.report)
        return replace(entry, flight=Flight(Step.ASK, entry.version)), claim
    return sending(entry, pending, policy)


def questioned(entry: Entry) -> tuple[Entry, Claim] | None:
    """Take the call slot of an entry at rest, to compare it with the service; None when it is not at rest."""
    if entry.pending is not None or entry.flight is not None or entry.acknowledged is None:
        return None
    claim = Claim(entry.association, entry.version, Step.ASK, entry.acknowledged.report)
    return replace(entry, flight=Flight(Step.ASK, entry.version)), claim


def sending(entry: Entry, pending: Pending, policy: Policy) -> tuple[Entry, Claim]:
    """Go on to the call itself; from here on the report counts as tried."""
    old = entry.acknowledged
    unambiguous = not (entry.unsure or pending.tried or pending.doubtful)
    confirm = (
        policy.learning
        and unambiguous
        and old is not None
        and old.report.status == pending.report.status
        and old.report.message != pending.report.message
    )
    claim = Claim(entry.association, entry.version, Step.SEND, pending.report, confirm)
    flying = replace(
        entry,
        pending=replace(pending, tried=True),
        flight=Flight(Step.SEND, entry.version),
        sent=_remembered(entry.sent, pending.report),
    )
    return flying, claim


def _remembered(sent: tuple[Report, ...], report: Report) -> tuple[Report, ...]:
    """What may have been applied, the last few of it, the newest last."""
    return (*(each for each in sent if each != report), report)[-SENT_REMEMBERED_MAX:]


def sending_next(entry: Entry, pending: Pending, policy: Policy) -> Settled:
    """As `sending`, in the slot that a question had."""
    flying, claim = sending(entry, pending, policy)
    return Settled(flying, then=claim)


def _asks(entry: Entry, pending: Pending, now: Now, policy: Policy) -> bool:
    alone = pending.writer is Writer.SOLE
    if pending.asks >= (ASKS_UNANSWERED_MAX if alone else ASKS_UNANSWERED_BESIDE_OTHERS_MAX):
        return False
    if not alone or pending.doubtful:
        return True
    if pending.tried:
        return now.wall_ms - pending.report.observed_at_ms > ASK_AGAIN_AFTER_MS
    if entry.unsure and any(report.same_as(pending.report, policy.comparison) for report in known(entry)):
        return True
    return entry.acknowledged is None and policy.asks_first and pending.asks == 0


def known(entry: Entry) -> tuple[Report, ...]:
    """What the service may hold, as far as we have a part in it."""
    return entry.sent if entry.acknowledged is None else (*entry.sent, entry.acknowledged.report)
