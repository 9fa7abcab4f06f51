"""The answer to a question: what the service holds, weighed against what is pending or thought to be known."""

import pytest

from domain_support import (
    FAILURES,
    HOUR,
    MINUTE,
    POLICY,
    PROBLEM,
    START_MS,
    WEB,
    acknowledged,
    at,
    ends_of,
    report,
    result,
    seen,
    sent,
    settle,
    total,
)
from ssm_status_reporter.domain.answer import answered, learnt
from ssm_status_reporter.domain.claim import claimed, questioned
from ssm_status_reporter.domain.entry import Claim, Count, Entry, Settled, State, Step, Via, pending_of
from ssm_status_reporter.domain.outcome import (
    Answer,
    Delivered,
    Effect,
    Held,
    HeldNothing,
    NotToBeHad,
    Refused,
    Unavailable,
    Unserved,
)
from ssm_status_reporter.domain.report import Comparison, Report
from ssm_status_reporter.domain.result import Writer
from values import replace

BY_STATUS = replace(POLICY, comparison=Comparison.STATUS)
ASKING = replace(POLICY, asks_first=True)
SEEN_MS = MINUTE
NOW_MS = 2 * MINUTE


def asked(entry: Entry | None = None) -> tuple[Entry, Claim]:
    """A failed run, seen a minute after the start, that the service is asked about first."""
    before = acknowledged("Success") if entry is None else entry
    waiting = seen(before, result("Failed", at_ms=SEEN_MS, writer=Writer.SECOND), now=at(SEEN_MS))
    return claimed(waiting, at(NOW_MS), POLICY)


def compared(entry: Entry, answer: Answer, policy: object = None) -> Settled:
    """The answer to a question about an entry at rest."""
    taken = questioned(entry)
    assert taken is not None
    return answered(*taken, answer, at(NOW_MS), 0.5, BY_STATUS if policy is BY_STATUS else POLICY)


def told(answer: Answer, entry: Entry | None = None) -> Settled:
    """The answer to a question about the failed run."""
    return answered(*asked(entry), answer, at(NOW_MS), 0.5, POLICY)


# A report is pending.


def test_what_the_service_holds_already_is_acknowledged_without_a_call() -> None:
    """The SSM Agent was first: its status stands, ours makes no call (rule 8)."""
    settled = told(Held(report("Failed", at_ms=SEEN_MS - 1)))
    assert settled.then is None
    assert settled.entry.state is State.ACKNOWLEDGED
    assert settled.entry.acknowledged is not None
    assert settled.entry.acknowledged.via is Via.ALREADY_HELD
    assert ends_of(settled.counts) == {Count.ALREADY_HELD: 1}


def test_what_the_service_held_already_is_as_new_as_our_own_observation_of_it() -> None:
    """What a third writer wrote between the two dates is older than what our runner saw (rules 5, 6)."""
    held = told(Held(report("Failed", at_ms=SEEN_MS - 2))).entry
    settled = compared(held, Held(report("Success", at_ms=SEEN_MS - 1)))
    assert settled.then is not None
    assert settled.then.report == report("Failed", at_ms=SEEN_MS)


@pytest.mark.parametrize("held_ms", [SEEN_MS, SEEN_MS + 1, NOW_MS])
def test_a_newer_or_equal_status_of_somebody_else_makes_ours_stale(held_ms: int) -> None:
    """What the service holds with a newer or equal date is adopted, never overwritten (rules 5 and 6)."""
    settled = told(Held(report("Pending", at_ms=held_ms)))
    assert settled.then is None
    assert settled.entry.pending is None
    assert settled.entry.acknowledged is not None
    assert settled.entry.acknowledged.report == report("Pending", at_ms=held_ms)
    assert settled.entry.acknowledged.via is Via.ADOPTED
    assert settled.entry.latest_ms == START_MS + held_ms
    assert ends_of(settled.counts) == {Count.SUPPRESSED_STALE: 1}


@pytest.mark.parametrize("held_ms", [SEEN_MS - 1, NOW_MS + 1, 365 * 24 * HOUR])
def test_ours_goes_out_when_it_is_newer_or_the_other_date_is_no_evidence(held_ms: int) -> None:
    """An older status is overwritten, and so is one dated in the future of this clock (rule 5)."""
    settled = told(Held(report("Pending", at_ms=held_ms)))
    assert settled.then is not None
    assert settled.then.step is Step.SEND
    assert settled.entry.state is State.IN_FLIGHT
    assert settled.counts == ()


@pytest.mark.parametrize("held_ms", [NOW_MS + 2, NOW_MS + 2 * MINUTE])
def test_where_both_dates_are_in_the_future_the_later_one_stands(held_ms: int) -> None:
    """The clock of a gateway is behind its publishers': what another one took of them later is newer (rule 5)."""
    pending = result("Failed", at_ms=NOW_MS + 2, writer=Writer.SHARED)
    taken = claimed(seen(acknowledged("Success"), pending, now=at(NOW_MS)), at(NOW_MS), POLICY)
    settled = answered(*taken, Held(report("Pending", at_ms=held_ms)), at(NOW_MS), 0.5, POLICY)
    assert (settled.then, settled.entry.pending) == (None, None)
    assert ends_of(settled.counts) == {Count.SUPPRESSED_STALE: 1}
    older = seen(settled.entry, result("Failed", at_ms=held_ms - 1), now=at(NOW_MS))
    assert older.pending is None, "nor does one that comes later and is older"


def test_an_association_without_a_status_gets_ours() -> None:
    """A new association is reported after one question."""
    settled = told(HeldNothing())
    assert settled.then is not None
    assert settled.entry.acknowledged is None


def test_of_equal_dates_our_later_report_is_not_stale_against_what_we_knew() -> None:
    """Two runs within one second of a runner's clock: the second is reported although the dates are equal."""
    entry = acknowledged("Pending", at_ms=SEEN_MS)
    assert told(Held(report("Pending", at_ms=SEEN_MS)), entry).then is not None


def test_of_equal_dates_our_later_report_is_not_stale_against_what_we_sent() -> None:
    """The reply to "Pending" was lost; "Failed" of the same second still goes out after the question."""
    flying, claim = sent(seen(Entry(WEB), result("Pending", at_ms=SEEN_MS), now=at(SEEN_MS)), at(SEEN_MS))
    lost = settle(flying, claim, Unavailable(PROBLEM, Effect.POSSIBLE), at(SEEN_MS)).entry
    settled = told(Held(report("Pending", at_ms=SEEN_MS)), lost)
    assert settled.then is not None
    assert settled.then.report.status == "Failed"


def test_what_we_knew_is_newer_when_somebody_wrote_it_again_later() -> None:
    """The agent reported the old status again, later than ours was seen: that is newer, whatever it equals."""
    settled = told(Held(report("Success", at_ms=SEEN_MS + 1)), acknowledged("Success"))
    assert settled.then is None
    assert ends_of(settled.counts) == {Count.SUPPRESSED_STALE: 1}


@pytest.mark.parametrize("answer", [NotToBeHad(PROBLEM), Refused(PROBLEM)])
def test_where_the_question_is_in_vain_the_report_goes_out(answer: Answer) -> None:
    """A denied DescribeAssociation never holds updates (rule 10)."""
    settled = told(answer)
    assert settled.then is not None
    assert settled.then.step is Step.SEND


def test_a_server_error_to_the_question_is_waited_out_and_counted_apart() -> None:
    """The report waits for its answer, without being charged for it."""
    settled = told(Unavailable(PROBLEM, Effect.NONE))
    waiting = pending_of(settled.entry)
    assert (waiting.asks, waiting.attempts) == (1, 0)
    assert settled.entry.due_at_ms == START_MS + NOW_MS + POLICY.backoff.delay_ms(1, 0.5)
    assert total(settled.counts, Count.CALLS) == 0


def test_an_association_that_the_service_does_not_know_is_parked_by_the_question() -> None:
    """The question finds out as well as the call would, and is the report's own failure."""
    settled = told(Unserved(PROBLEM))
    assert settled.entry.state is State.PARKED
    assert pending_of(settled.entry).attempts == 1


@pytest.mark.parametrize("name", ["busy", "throttled", "unreachable", "credentials", "clock", "endpoint", "node"])
def test_any_other_failure_of_the_question_leaves_the_report_as_it_is(name: str) -> None:
    """What is nobody's fault is charged to nothing (rule 10)."""
    failure = FAILURES[name]
    assert not isinstance(failure, Refused)
    settled = told(failure)
    waiting = pending_of(settled.entry)
    assert (waiting.attempts, waiting.asks, waiting.tried) == (0, 0, False)
    assert settled.entry.flight is None
    assert settled.entry.last_error is not None


@pytest.mark.parametrize("answer", [Held(report("Pending", at_ms=NOW_MS)), HeldNothing(), Unserved(PROBLEM)])
def test_the_answer_is_dropped_when_the_row_changed_meanwhile(answer: Answer) -> None:
    """A newer result came while the question was out: the answer is about a report that is no more (rule 2)."""
    asking, claim = asked()
    changed = seen(asking, result("Success", "newer", at_ms=NOW_MS), now=at(NOW_MS))
    settled = answered(changed, claim, answer, at(NOW_MS), 0.5, POLICY)
    assert settled == Settled(replace(changed, flight=None))


# Nothing is pending: reconciliation.


def test_what_is_held_as_expected_costs_nothing_but_the_question() -> None:
    """The usual outcome of reconciliation."""
    settled = compared(replace(acknowledged("Success"), unsure=True), Held(report("Success")))
    assert settled.then is None
    assert settled.counts == ()
    assert not settled.entry.unsure
    assert settled.entry.acknowledged is not None
    assert settled.entry.acknowledged.at_ms == START_MS + NOW_MS


def test_a_newer_date_of_the_same_status_makes_older_results_stale() -> None:
    """Somebody reported the same again, later: what was observed before that is old (rule 5)."""
    settled = compared(acknowledged("Success"), Held(report("Success", at_ms=MINUTE)))
    assert settled.entry.latest_ms == START_MS + MINUTE


def test_a_message_that_the_service_did_not_take_is_not_sent_at_every_reconciliation() -> None:
    """It answered StatusUnchanged and kept its old message: it compares the status alone, whatever is configured."""
    ours = acknowledged("Success", message="new", at_ms=MINUTE, via=Via.ALREADY_HELD)
    settled = compared(ours, Held(report("Success", message="old")))
    assert (settled.then, settled.counts, settled.entry.pending) == (None, (), None)


@pytest.mark.parametrize("held_ms", [0, 1, NOW_MS])
def test_what_somebody_else_wrote_later_is_adopted(held_ms: int) -> None:
    """The service is the truth: the daemon takes over what it holds with a newer or equal date (rule 6)."""
    settled = compared(acknowledged("Success"), Held(report("Failed", at_ms=held_ms)))
    assert settled.then is None
    assert settled.entry.acknowledged is not None
    assert settled.entry.acknowledged.report.status == "Failed"
    assert settled.entry.acknowledged.via is Via.ADOPTED
    assert settled.entry.latest_ms == START_MS + held_ms


@pytest.mark.parametrize("via", [Via.DELIVERED, Via.ALREADY_HELD])
@pytest.mark.parametrize("answer", [Held(report("Failed", at_ms=-1)), HeldNothing()])
def test_what_the_service_lost_is_sent_again_and_its_end_is_taken_back(via: Via, answer: Answer) -> None:
    """An association made anew, or put back from a backup, gets its status again (rule 6)."""
    settled = compared(acknowledged("Success", via=via), answer)
    assert settled.then is not None
    assert settled.then.report == report("Success")
    end = Count.DELIVERED if via is Via.DELIVERED else Count.ALREADY_HELD
    assert ends_of(settled.counts) == {end: -1}
    landed = settle(settled.entry, settled.then, Delivered("id"), at(NOW_MS))
    assert landed.entry.state is State.ACKNOWLEDGED
    assert ends_of(landed.counts) == {Count.DELIVERED: 1}


@pytest.mark.parametrize("via", list(Via))
@pytest.mark.parametrize("held", [report("Failed", at_ms=1), report("Failed", at_ms=MINUTE - 1)])
def test_what_was_seen_again_later_beats_what_somebody_else_wrote_in_between(held: Report, via: Via) -> None:
    """Success, another's Failed, Success again as our runner saw it: the service is told what stands (rules 5, 6)."""
    ours = seen(acknowledged("Success", via=via), result("Success", at_ms=MINUTE), now=at(MINUTE))
    settled = compared(ours, Held(held))
    assert settled.then is not None
    assert settled.then.report == report("Success", at_ms=MINUTE)
    assert sum(change for _, change in settled.counts) == -1
    assert compared(ours, Held(report("Failed", at_ms=MINUTE))).then is None


@pytest.mark.parametrize("other", [report("Success", at_ms=SEEN_MS - 1), report("Failed", "m", at_ms=SEEN_MS - 1)])
def test_what_a_question_found_beats_what_another_daemon_wrote_in_between(other: Report) -> None:
    """Failed is held, and is what ours says; the older status of a gateway that had asked before comes after it."""
    found = told(Held(report("Failed", at_ms=1))).entry
    settled = compared(found, Held(other))
    assert settled.then is not None
    assert settled.then.report == report("Failed", at_ms=SEEN_MS)
    assert ends_of(settled.counts) == {Count.ALREADY_HELD: -1}
    assert compared(found, Held(replace(other, observed_at_ms=START_MS + SEEN_MS))).then is None


def test_what_goes_out_again_over_somebody_s_status_is_asked_for_before_each_further_attempt() -> None:
    """Somebody else writes as well: while ours waits for its retry, they may have written something newer (rule 5)."""
    settled = compared(acknowledged("Success", at_ms=NOW_MS - 1), Held(report("Failed", at_ms=1)))
    assert settled.then is not None
    failed = settle(settled.entry, settled.then, FAILURES["busy"], at(NOW_MS))
    assert claimed(failed.entry, at(NOW_MS + MINUTE // 2), POLICY)[1].step is Step.ASK


def test_a_date_in_the_future_of_a_clock_put_back_makes_nothing_newer() -> None:
    """What was seen again under a clock that ran ahead beats nobody (rule 5)."""
    ours = seen(acknowledged("Success"), result("Success", at_ms=5 * NOW_MS), now=at(5 * NOW_MS))
    assert compared(ours, Held(report("Failed", at_ms=1))).then is None


@pytest.mark.parametrize("held_ms", [NOW_MS + 1, 365 * 24 * HOUR])
def test_what_somebody_wrote_whose_clock_is_ahead_is_not_taken_back(held_ms: int) -> None:
    """There is nothing new to report, and what is written over it comes again: it is adopted (rule 6)."""
    settled = compared(acknowledged("Success"), Held(report("Failed", at_ms=held_ms)))
    assert settled.then is None
    assert settled.entry.acknowledged is not None
    assert settled.entry.acknowledged.via is Via.ADOPTED
    news = seen(settled.entry, result("Success", at_ms=NOW_MS), now=at(NOW_MS))
    assert news.pending is not None, "what comes in later is news"


def test_what_was_delivered_under_a_clock_that_was_ahead_beats_nobody() -> None:
    """The clock was put back since: that date does not show that what somebody else wrote is older (rule 5)."""
    settled = compared(acknowledged("Success", at_ms=HOUR), Held(report("Failed", at_ms=NOW_MS - 1)))
    assert settled.then is None


def test_what_was_delivered_under_a_clock_that_was_ahead_is_as_new_as_it_was_seen_since() -> None:
    """The clock was put back, and our runner saw the same again: by that date it is newer (rules 5, 6)."""
    ours = seen(acknowledged("Success", at_ms=HOUR), result("Success", at_ms=MINUTE), now=at(MINUTE))
    settled = compared(ours, Held(report("Failed", at_ms=1)))
    assert settled.then is not None
    assert settled.then.report == report("Success", at_ms=MINUTE)


def test_of_two_dates_in_the_future_the_later_one_goes_out_again() -> None:
    """Publishers ahead of all gateways: the older report that came over ours is put right at once (rule 5)."""
    ahead_ms = NOW_MS + MINUTE
    settled = compared(acknowledged("Success", at_ms=ahead_ms), Held(report("Failed", at_ms=ahead_ms - 1)))
    assert settled.then is not None


@pytest.mark.parametrize("apart_ms", [3 * MINUTE, 20 * MINUTE, 365 * 24 * HOUR])
def test_two_daemons_whose_clocks_are_apart_do_not_overwrite_each_other_in_turn(apart_ms: int) -> None:
    """Each looks again after its own update, as gateways do: the service comes to rest with the later date."""
    clocks = [at(NOW_MS), at(NOW_MS + apart_ms)]
    dates = [now.wall_ms - START_MS for now in clocks]
    entries = [acknowledged("Failed", at_ms=dates[0]), acknowledged("Success", at_ms=dates[1])]
    held = report("Failed", at_ms=dates[0])  # the one that is behind took a result later, and its update went out
    updates = 0
    for turn in range(10):
        one = (turn + 1) % 2
        taken = questioned(entries[one])
        assert taken is not None
        settled = answered(*taken, Held(held), clocks[one], 0.5, POLICY)
        if settled.then is not None:
            updates += 1
            held = settled.then.report
            settled = settle(settled.entry, settled.then, Delivered("id"), clocks[one])
        entries[one] = settled.entry
    assert (updates, held) == (1, report("Success", at_ms=dates[1]))


def test_an_older_message_over_one_that_a_question_found_is_put_right() -> None:
    """Ours was found there: that an older one of the same status is there now is no StatusUnchanged (rule 5)."""
    held = report("Failed", at_ms=SEEN_MS)
    found = told(Held(held)).entry
    settled = compared(found, Held(report("Failed", "an older one", at_ms=SEEN_MS - 1)))
    assert settled.then is not None
    assert settled.then.report == held


@pytest.mark.parametrize("answer", [HeldNothing(), Unserved(PROBLEM)])
def test_what_somebody_else_wrote_is_not_written_again_for_them(answer: Answer) -> None:
    """A status that was adopted and is gone at the service is forgotten here too."""
    settled = compared(acknowledged("Success", via=Via.ADOPTED), answer)
    assert settled.then is None
    assert settled.entry.acknowledged is None


def test_an_association_that_is_gone_makes_no_call_at_reconciliation() -> None:
    """Its status is forgotten; the next result finds out whether it is back."""
    settled = compared(acknowledged("Success"), Unserved(PROBLEM))
    assert settled.then is None
    assert settled.entry.acknowledged is None
    assert settled.counts == ()


@pytest.mark.parametrize(
    "answer",
    [NotToBeHad(PROBLEM), *(FAILURES[name] for name in ("server error", "busy", "throttled", "node", "refused"))],
)
def test_a_question_without_an_answer_changes_nothing(answer: Answer) -> None:
    """What was not learnt this time is asked at the next reconciliation."""
    entry = acknowledged("Success")
    assert compared(entry, answer) == Settled(entry)


def test_reconciliation_compares_as_the_service_does() -> None:
    """Where the status alone is compared, another message is no loss."""
    held = Held(report("Success", "another", at_ms=-1))
    assert compared(acknowledged("Success"), held).then is not None
    assert compared(acknowledged("Success"), held, BY_STATUS).then is None


# Rule 7: what StatusUnchanged teaches.


def test_the_old_message_still_held_after_status_unchanged_is_evidence() -> None:
    """The service got a new message, said "unchanged", and holds the old one: it compares the status alone."""
    entry = seen(acknowledged("Success", "old"), result("Success", "new", at_ms=1), now=at(1))
    flying, claim = sent(entry, at(1))
    assert learnt(claim, flying, report("Success", "old"))
    assert not learnt(claim, flying, report("Success", "new", at_ms=1))
    assert not learnt(claim, flying, report("Success", "somebody's", at_ms=1))
    assert not learnt(claim, flying, report("Failed", "old"))
    assert not learnt(replace(claim, confirm_unchanged=False), flying, report("Success", "old"))
