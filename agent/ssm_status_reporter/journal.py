"""What the journal says of deliveries: one event, one line.

Levels: *info* is what was achieved, *warning* is what the daemon deals with by itself, *error* is what needs a
person, *debug* is what made no difference.
"""

import structlog

from ssm_status_reporter.domain.entry import Claim, Entry, State
from ssm_status_reporter.domain.holds import EVERYTHING, Change, Hold, Opening, Shutting, Turned
from ssm_status_reporter.domain.outcome import (
    Answer,
    Delivered,
    Failure,
    Held,
    HeldNothing,
    NotToBeHad,
    Outcome,
    Problem,
    Refused,
    Unchanged,
    Unserved,
    Withheld,
)
from ssm_status_reporter.domain.report import Report
from ssm_status_reporter.outbox.operations import Settlement

log = structlog.get_logger()


def say_call(claim: Claim, outcome: Outcome, entry: Entry, dead_letter_id: int | None, now_ms: int) -> None:
    """What came of one UpdateAssociationStatus. ``now_ms`` is steady."""
    match outcome:
        case Delivered(request_id):
            log.info("delivered", **_where(claim), status=claim.report.status, request_id=request_id)
        case Unchanged(request_id):
            log.info(
                "the service held it already", **_where(claim), status=claim.report.status, request_id=request_id
            )
        case _:
            _say_failure(claim, outcome, entry, dead_letter_id, now_ms)


def say_answer(claim: Claim, answer: Answer, settlement: Settlement, now_ms: int) -> None:
    """What came of one DescribeAssociation. ``now_ms`` is steady."""
    entry = settlement.entry
    match answer:
        case Held(report) if entry.pending is None and _is_taken_over(entry, report):
            log.info("another writer's status is taken over", **_where(claim), status=report.status)
        case Held(report) if entry.state is State.ACKNOWLEDGED and settlement.after.counts:
            log.info(
                "the service holds it: no call", **_where(claim), status=report.status, message=report.message
            )
        case Held() | HeldNothing() if any(change < 0 for _, change in settlement.after.counts):
            log.warning(
                "the service does not hold what it acknowledged: it goes out again",
                **_where(claim),
                status=claim.report.status,
            )
        case Unserved() if entry.unserved_until_ms > now_ms:
            log.info("not served by this API: its runs are left alone for an hour", **_where(claim))
        case Held() | HeldNothing() | NotToBeHad() | Refused():
            log.debug("asked the service what it holds", **_where(claim), answer=type(answer).__name__)
        case _:
            _say_failure(claim, answer, entry, settlement.dead_letter_id, now_ms)


def say_not_to_be_had(claim: Claim, problem: Problem) -> None:
    """The service does not tell what it holds."""
    log.warning("the service cannot be asked what it holds: going on without", **_where(claim), **_what(problem))


def say_learnt(claim: Claim) -> None:
    """What the service compares has become known."""
    log.info(
        "learnt that the service compares the status alone: a change of message makes no call from now on",
        **_where(claim),
    )


def say_throttled(calls_per_second: float) -> None:
    """The rate gave way."""
    log.warning("the service throttles: calling more slowly", calls_per_second=round(calls_per_second, 2))


def say_change(change: Change, now_ms: int) -> None:
    """A scope was shut, or is open again; a probe that failed as before is nothing new. ``now_ms`` is steady."""
    hold = change.hold
    match change:
        case Shutting():
            log.warning(
                "hold: reports wait unharmed until a probe succeeds",
                scope=hold.scope.value,
                holds=_whom(hold),
                probe_in_seconds=round(max(0, hold.next_probe_ms - now_ms) / 1000, 1),
                **_what(hold.problem),
            )
        case Opening():
            log.info("hold is over", scope=hold.scope.value, holds=_whom(hold), probes=hold.failures)
        case Turned():
            log.warning(
                "hold remains",
                scope=hold.scope.value,
                holds=_whom(hold),
                probes=hold.failures,
                **_what(hold.problem),
            )
        case _:
            log.debug("hold remains", scope=hold.scope.value, holds=_whom(hold), probes=hold.failures)


def _is_taken_over(entry: Entry, held: Report) -> bool:
    return entry.acknowledged is not None and entry.acknowledged.report is held


def _say_failure(claim: Claim, failure: Failure, entry: Entry, dead_letter_id: int | None, now_ms: int) -> None:
    if isinstance(failure, Withheld):
        log.debug("held back", **_where(claim), scope=failure.scope.value)  # the hold has its own line
    elif dead_letter_id is not None:
        log.error(
            "dead: the service will not take it",
            **_where(claim),
            status=claim.report.status,
            dead_letter=dead_letter_id,
            **_what(failure.problem),
        )
    elif entry.pending is None:
        log.debug("not learnt what the service holds", **_where(claim), **_what(failure.problem))
    else:
        log.warning(
            "parked" if entry.parked_since_ms is not None else "not delivered: it will be retried",
            **_where(claim),
            status=claim.report.status,
            attempts=entry.pending.attempts,
            retry_in_seconds=round(max(0, entry.retry_at_ms - now_ms) / 1000, 1),
            **_what(failure.problem),
        )


def _where(claim: Claim) -> dict[str, str]:
    return {"document": claim.association.document, "instance_id": claim.association.instance_id}


def _what(problem: Problem) -> dict[str, str]:
    parts = {
        "code": problem.code,
        "error": problem.message,
        "request_id": problem.request_id,
        "hint": problem.hint,
    }
    return {name: part for name, part in parts.items() if part}


def _whom(hold: Hold) -> str:
    return "everything" if hold.subject == EVERYTHING else str(hold.subject)
