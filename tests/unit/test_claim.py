"""The claim: one call slot an association, to ask first or to send (rules 3, 5, 6, 7, 8 and 9)."""

from typing import Any

import pytest

from domain_support import (
    HOUR,
    MINUTE,
    POLICY,
    PROBLEM,
    WEB,
    acknowledged,
    at,
    report,
    result,
    seen,
    sent,
    settle,
)
from ssm_status_reporter.domain.claim import claimed, questioned
from ssm_status_reporter.domain.entry import Entry, Policy, State, Step, pending_of
from ssm_status_reporter.domain.limits import (
    ASK_AGAIN_AFTER_MS,
    ASKS_UNANSWERED_BESIDE_OTHERS_MAX,
    ASKS_UNANSWERED_MAX,
    SENT_REMEMBERED_MAX,
)
from ssm_status_reporter.domain.outcome import Effect, Unavailable
from ssm_status_reporter.domain.report import Comparison
from ssm_status_reporter.domain.result import Writer
from values import replace

ASKING = replace(POLICY, asks_first=True)


def pending(entry: Entry | None = None, writer: Writer = Writer.SOLE, **changes: Any) -> Entry:
    """An entry with a failed run to report."""
    waiting = seen(entry or Entry(WEB), result("Failed", at_ms=1, writer=writer), now=at(1))
    return replace(waiting, pending=replace(pending_of(waiting), **changes))


def step(entry: Entry, at_ms: int = 1, policy: Policy = POLICY) -> Step:
    """Whether it is asked about or sent."""
    return claimed(entry, at(at_ms), policy)[1].step


def test_a_claim_takes_the_only_slot() -> None:
    """While a call is out, nothing else of its association is due (rule 9)."""
    flying, claim = sent(pending(), at(1))
    assert flying.state is State.IN_FLIGHT
    assert flying.due_at_ms is None
    assert claim.report == report("Failed", at_ms=1)
    assert claim.version == flying.version
    assert questioned(flying) is None


def test_a_change_of_a_known_status_is_sent_without_asking() -> None:
    """The normal case is one call."""
    assert step(pending(acknowledged("Success")), policy=ASKING) is Step.SEND


@pytest.mark.parametrize(("policy", "expected"), [(ASKING, Step.ASK), (POLICY, Step.SEND)])
def test_an_unknown_association_is_asked_about_first_unless_reconciliation_is_off(
    policy: Policy, expected: Step
) -> None:
    """A daemon with an empty outbox does not overwrite what the service knows better (rule 6)."""
    assert step(pending(), policy=policy) is expected


def test_what_a_second_writer_reports_too_is_asked_about_every_time() -> None:
    """Where the SSM Agent reports, ours comes second: the service is asked whether it has it (rule 8)."""
    assert step(pending(acknowledged("Success"), Writer.SECOND)) is Step.ASK
    assert step(pending(acknowledged("Success"), Writer.SECOND, tried=True)) is Step.ASK


def test_what_another_daemon_may_have_overtaken_is_asked_about_every_time() -> None:
    """Of several gateways on one broker, one that was held up, however shortly, overwrites nothing newer."""
    assert step(pending(acknowledged("Success"), Writer.SHARED)) is Step.ASK
    assert step(pending(acknowledged("Success"), Writer.SHARED, tried=True)) is Step.ASK


def test_a_call_that_may_have_been_applied_is_asked_about() -> None:
    """After a lost reply StatusUnchanged is not provoked."""
    assert step(pending(acknowledged("Success"), tried=True, doubtful=True)) is Step.ASK


def test_a_report_older_than_a_minute_is_asked_about_before_it_goes_out_again() -> None:
    """After an outage the service may hold something newer (rule 5)."""
    entry = pending(acknowledged("Success"), tried=True)
    assert step(entry, 1 + ASK_AGAIN_AFTER_MS) is Step.SEND
    assert step(entry, 2 + ASK_AGAIN_AFTER_MS) is Step.ASK


def test_a_report_that_waited_but_was_never_sent_is_not_asked_about() -> None:
    """Waiting for the window or the rate is no reason to ask."""
    assert step(pending(acknowledged("Success")), HOUR) is Step.SEND


def test_the_old_status_is_asked_about_while_another_may_have_arrived() -> None:
    """A → B → A with B possibly applied: the service tells which of the two it holds (rule 3)."""
    unsure = replace(acknowledged("Failed"), unsure=True)
    assert step(pending(unsure)) is Step.ASK
    assert step(pending(replace(acknowledged("Success"), unsure=True))) is Step.SEND


def test_a_service_that_never_answers_the_question_does_not_keep_a_report_for_ever() -> None:
    """After so many server errors to DescribeAssociation the report goes out without an answer (rule 12)."""
    for writer, asks_max in (
        (Writer.SECOND, ASKS_UNANSWERED_BESIDE_OTHERS_MAX),
        (Writer.SHARED, ASKS_UNANSWERED_BESIDE_OTHERS_MAX),
        (Writer.SOLE, ASKS_UNANSWERED_MAX),
    ):
        unsure = {"doubtful": True, "tried": True}
        assert step(pending(acknowledged("Success"), writer, asks=asks_max - 1, **unsure)) is Step.ASK
        assert step(pending(acknowledged("Success"), writer, asks=asks_max, **unsure)) is Step.SEND


def test_what_may_have_been_applied_already_is_asked_about_when_it_comes_again() -> None:
    """A, then B with its reply lost, then C, then B again before any retry: the service may hold B (rule 3)."""
    lost, claim = sent(pending(acknowledged("Success")), at(1))
    unsure = settle(lost, claim, Unavailable(PROBLEM, Effect.POSSIBLE), at(2)).entry
    again = seen(unsure, result("Pending", at_ms=5), result("Failed", at_ms=6), now=at(10))
    assert again.pending is not None
    assert not again.pending.doubtful
    assert step(again, at_ms=10) is Step.ASK


def test_only_an_entry_at_rest_is_compared_with_the_service() -> None:
    """Reconciliation asks about what is known and not on its way to change (rule 6)."""
    taken = questioned(acknowledged("Success"))
    assert taken is not None
    entry, claim = taken
    assert claim.step is Step.ASK
    assert entry.flight is not None
    assert entry.state is State.ACKNOWLEDGED
    assert questioned(entry) is None
    assert questioned(Entry(WEB)) is None
    assert questioned(pending(acknowledged("Success"))) is None


@pytest.mark.parametrize(
    ("changes", "policy", "evidence"),
    [
        ({}, POLICY, True),
        ({"tried": True}, POLICY, False),
        ({"doubtful": True, "asks": ASKS_UNANSWERED_MAX}, POLICY, False),
        ({}, replace(POLICY, learning=False), False),
        ({"report": report("Failed", "old")}, POLICY, False),
        ({"report": report("Success", "new")}, POLICY, False),
    ],
)
def test_only_a_first_unambiguous_attempt_at_a_new_message_is_evidence(
    changes: dict[str, Any], policy: Policy, *, evidence: bool
) -> None:
    """`compare: auto` learns from a StatusUnchanged that cannot mean anything else (rule 7)."""
    entry = pending(acknowledged("Failed", "old"), **changes)
    _, claim = claimed(entry, at(1), policy)
    assert claim.step is Step.SEND
    assert claim.confirm_unchanged is evidence


def test_nothing_is_learnt_while_the_service_may_hold_something_else() -> None:
    """After a lost reply StatusUnchanged proves nothing (rule 7)."""
    entry = pending(replace(acknowledged("Failed", "old"), unsure=True))
    _, claim = claimed(entry, at(1), replace(POLICY, comparison=Comparison.STATUS_AND_MESSAGE))
    assert not claim.confirm_unchanged


def test_what_went_out_is_remembered_within_a_bound() -> None:
    """The last few reports that may have been applied are known again when the service shows one of them."""
    entry, moment = acknowledged("Success"), 0
    for minute in range(1, SENT_REMEMBERED_MAX + 3):
        moment = minute * MINUTE
        waiting = seen(entry, result("Failed", str(minute), at_ms=moment), now=at(moment))
        entry = replace(sent(waiting, at(moment))[0], flight=None)
    assert [each.message for each in entry.sent] == ["3", "4", "5", "6"]
    again = sent(entry, at(moment))[0]
    assert again.sent == entry.sent
