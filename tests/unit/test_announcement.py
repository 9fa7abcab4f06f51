"""The announcement: which outcomes a follower is told of, and which would only repeat or confuse."""

import pytest

from domain_support import MINUTE, POLICY, PROBLEM, WEB, acknowledged, at, report, result, seen, sent, settle
from ssm_status_reporter.domain.announcement import Announcement, Ending, announced
from ssm_status_reporter.domain.answer import answered
from ssm_status_reporter.domain.claim import claimed, questioned
from ssm_status_reporter.domain.entry import Claim, Entry, Settled
from ssm_status_reporter.domain.holds import EVERYTHING, Change, Hold, Remaining, Shutting
from ssm_status_reporter.domain.outcome import (
    Answer,
    Busy,
    Delivered,
    Effect,
    Held,
    HeldNothing,
    NotToBeHad,
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
from ssm_status_reporter.domain.result import Served
from values import replace

ASKING = replace(POLICY, asks_first=True)
WITHHELD = Withheld(Scope.CREDENTIALS, PROBLEM)
HOLD = Hold(Scope.CREDENTIALS, EVERYTHING, PROBLEM, 0, 1, 0)


def waiting(entry: Entry | None = None) -> Entry:
    """A failed run to report."""
    return seen(entry or acknowledged("Success"), result("Failed", at_ms=1), now=at(1))


def tell(claim: Claim, outcome: Outcome | Answer, after: Settled, *changes: Change) -> tuple[Ending, bool] | None:
    """What is told, and whether with the error; always of the claim's own report."""
    said = announced(claim, outcome, after, changes, 7)
    if said is None:
        return None
    assert said == Announcement(claim.association, claim.report, said.ending, 7, said.problem)
    return said.ending, said.problem is PROBLEM


def told_of_call(outcome: Outcome, *changes: Change) -> tuple[Ending, bool] | None:
    """What is told of that outcome of the only call."""
    flying, claim = sent(waiting(), at(1))
    return tell(claim, outcome, settle(flying, claim, outcome, at(2)), *changes)


def told_of_question(
    answer: Answer, *changes: Change, served: Served = Served.SUPPOSED
) -> tuple[Ending, bool] | None:
    """What is told of that answer to the question before the call."""
    entry = waiting(Entry(WEB))
    assert entry.pending is not None
    entry = replace(entry, pending=replace(entry.pending, served=served))
    asking, claim = claimed(entry, at(1), ASKING)
    return tell(claim, answer, answered(asking, claim, answer, at(2), 0.5, ASKING), *changes)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Delivered("r"), (Ending.DELIVERED, False)),
        (Unchanged("r"), (Ending.ALREADY_HELD, False)),
        (Busy(PROBLEM), (Ending.RETRIED, True)),
        (Throttled(PROBLEM), (Ending.RETRIED, True)),
        (Unreachable(PROBLEM), (Ending.RETRIED, True)),
        (Unavailable(PROBLEM, Effect.POSSIBLE), (Ending.RETRIED, True)),
        (Unserved(PROBLEM), (Ending.PARKED, True)),
        (Refused(PROBLEM), (Ending.DEAD, True)),
    ],
)
def test_each_outcome_of_a_call_is_told(outcome: Outcome, expected: tuple[Ending, bool]) -> None:
    """Whoever published a result can follow what became of it, with the error and what to do."""
    assert told_of_call(outcome) == expected


def test_what_is_parked_too_long_is_told_as_dead() -> None:
    """The end of the parking is the end of the report."""
    flying, claim = sent(waiting(), at(1))
    parked = settle(flying, claim, Unserved(PROBLEM), at(2)).entry
    late = at(2 + POLICY.give_up_after_ms)
    flying, claim = claimed(parked, late, replace(POLICY, asks_first=False))
    after = answered(flying, claim, Unserved(PROBLEM), late, 0.5, POLICY)
    assert tell(claim, Unserved(PROBLEM), after) == (Ending.DEAD, True)


def test_a_hold_is_told_once() -> None:
    """The report that met it is told as held back; what the probes and the calls beside it answer is not."""
    assert told_of_call(WITHHELD, Shutting(HOLD)) == (Ending.HELD_BACK, True)
    assert told_of_call(WITHHELD, Remaining(HOLD)) is None
    assert told_of_call(WITHHELD) is None
    assert told_of_question(WITHHELD, Shutting(HOLD)) == (Ending.HELD_BACK, True)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Held(report("Failed")), (Ending.ALREADY_HELD, False)),
        (Held(report("Success", at_ms=2)), (Ending.STALE, False)),
        (Held(report("Success", at_ms=-MINUTE)), None),
        (HeldNothing(), None),
        (NotToBeHad(PROBLEM), None),
        (Refused(PROBLEM), None),
        (Unavailable(PROBLEM, Effect.NONE), (Ending.RETRIED, True)),
        (Unserved(PROBLEM), (Ending.PARKED, True)),
    ],
)
def test_a_question_is_told_of_only_when_the_report_goes_no_further(
    answer: Answer, expected: tuple[Ending, bool] | None
) -> None:
    """While the call follows, its outcome is what there is to tell."""
    assert told_of_question(answer) == expected


def test_what_this_api_does_not_serve_was_no_result() -> None:
    """A run of the SSM Agent that is none of ours ends in nothing."""
    assert told_of_question(Unserved(PROBLEM), served=Served.ASKED) is None


@pytest.mark.parametrize(
    "failure",
    [Busy(PROBLEM), Unavailable(PROBLEM, Effect.POSSIBLE), Refused(PROBLEM), Unserved(PROBLEM), WITHHELD],
)
def test_a_failure_of_what_was_replaced_meanwhile_is_not_told(failure: Outcome) -> None:
    """Nobody waits for it any more; the newer report has outcomes of its own."""
    flying, claim = sent(waiting(), at(1))
    replaced = seen(flying, result("Success", "newer", at_ms=2), now=at(2))
    assert tell(claim, failure, settle(replaced, claim, failure, at(3)), Shutting(HOLD)) is None
    delivered = settle(replaced, claim, Delivered("r"), at(3))
    assert tell(claim, Delivered("r"), delivered) == (Ending.DELIVERED, False)


@pytest.mark.parametrize(
    "answer", [Held(report("Success")), HeldNothing(), WITHHELD, Unavailable(PROBLEM, Effect.NONE)]
)
def test_a_comparison_at_rest_is_not_told(answer: Answer) -> None:
    """Reconciliation is nobody's result; what it makes go out again is told of then."""
    taken = questioned(acknowledged("Success"))
    assert taken is not None
    asking, claim = taken
    after = answered(asking, claim, answer, at(MINUTE), 0.5, POLICY)
    assert tell(claim, answer, after, Shutting(HOLD)) is None
