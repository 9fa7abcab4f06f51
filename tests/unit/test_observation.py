"""Observation: what is news, what is unchanged, what is stale (rules 2 to 5)."""

import pytest

from domain_support import (
    HOUR,
    MINUTE,
    POLICY,
    PROBLEM,
    SECOND,
    START_MS,
    WEB,
    acknowledged,
    at,
    ends_of,
    look,
    report,
    result,
    seen,
    sent,
    settle,
    total,
)
from ssm_status_reporter.domain.answer import answered
from ssm_status_reporter.domain.claim import claimed
from ssm_status_reporter.domain.entry import Cause, Count, Dead, Entry, Policy, State, Step
from ssm_status_reporter.domain.limits import CLOCK_AHEAD_MS_MAX, REDELIVERED_WAIT_MS_MIN, UNSERVED_MS
from ssm_status_reporter.domain.observation import Finding
from ssm_status_reporter.domain.outcome import Delivered, Effect, Held, Refused, Throttled, Unavailable, Unserved
from ssm_status_reporter.domain.report import Comparison
from ssm_status_reporter.domain.result import Edge, Served, Writer
from ssm_status_reporter.domain.settlement import recovered
from values import replace

BY_STATUS = replace(POLICY, comparison=Comparison.STATUS)
ASKING = replace(POLICY, asks_first=True)


def dead(cause: Cause, parked_from_ms: int = START_MS) -> Entry:
    """An association whose last report the service refused for good."""
    return replace(acknowledged("Success"), latest_ms=START_MS, dead=Dead(report("Failed"), cause, parked_from_ms))


# Rule 2: state, not events.


def test_of_several_changes_only_the_newest_waits() -> None:
    """A burst leaves one report to deliver, and the others are counted as replaced."""
    entry = seen(Entry(WEB), result("Pending"), now=at())
    after = look(entry, result("Failed", at_ms=1), at(1))
    assert after.entry.pending is not None
    assert after.entry.pending.report == report("Failed", at_ms=1)
    assert after.entry.version == entry.version + 1
    assert ends_of(after.counts) == {Count.COALESCED: 1}


def test_a_report_that_is_out_is_not_counted_as_replaced_before_its_call_has_ended() -> None:
    """Each result ends once: the one in flight ends when the service has answered."""
    flying, _ = sent(seen(Entry(WEB), result("Pending"), now=at()), at())
    after = look(flying, result("Failed", at_ms=1), at(1))
    assert ends_of(after.counts) == {}
    assert after.entry.state is State.IN_FLIGHT


def test_a_report_that_is_only_asked_about_is_replaced_at_once() -> None:
    """A question sends nothing: what it is about may still be replaced."""
    entry = seen(Entry(WEB), result("Pending"), now=at())
    asking, claim = claimed(entry, at(), ASKING)
    assert claim.step is Step.ASK
    assert ends_of(look(asking, result("Failed", at_ms=1), at(1)).counts) == {Count.COALESCED: 1}


# Rule 3: unchanged is silence.


def test_what_the_service_has_acknowledged_makes_no_call() -> None:
    """A run that ends as the last one did is not reported again."""
    after = look(acknowledged("Success"), result("Success", at_ms=HOUR), at(HOUR))
    assert after.finding is Finding.UNCHANGED
    assert after.entry.pending is None
    assert ends_of(after.counts) == {Count.SUPPRESSED_UNCHANGED: 1}


def test_where_several_daemons_report_what_was_acknowledged_here_is_no_evidence() -> None:
    """Success from this gateway, Failed from another, Success again here: the service is asked, not taken for known."""
    again = result("Success", at_ms=HOUR, writer=Writer.SHARED, edge=Edge.TRAILING)
    after = look(acknowledged("Success"), again, at(HOUR))
    assert after.finding is Finding.NEWS
    asking, claim = claimed(after.entry, at(HOUR + MINUTE), POLICY)
    assert claim.step is Step.ASK
    told = answered(asking, claim, Held(report("Failed", at_ms=MINUTE)), at(HOUR + MINUTE), 0.5, POLICY)
    assert told.then is not None
    assert told.then.report == again.report


@pytest.mark.parametrize(("policy", "finding"), [(POLICY, Finding.NEWS), (BY_STATUS, Finding.UNCHANGED)])
def test_a_new_message_is_news_unless_the_status_alone_is_compared(policy: Policy, finding: Finding) -> None:
    """`debounce.compare` decides whether a change of message alone makes a call."""
    after = look(acknowledged("Success", "one"), result("Success", "two", at_ms=1), at(1), policy)
    assert after.finding is finding


def test_what_equals_the_pending_report_makes_no_further_one_and_brings_its_newer_date() -> None:
    """The same result twice is one report, dated as it was seen last."""
    entry = seen(Entry(WEB), result("Failed"), now=at())
    after = look(entry, result("Failed", at_ms=500), at(500))
    assert after.finding is Finding.UNCHANGED
    assert after.entry.version == entry.version
    assert after.entry.pending is not None
    assert after.entry.pending.report.observed_at_ms == START_MS + 500
    assert ends_of(after.counts) == {Count.SUPPRESSED_UNCHANGED: 1}


def test_a_change_taken_back_before_it_was_tried_makes_no_call() -> None:
    """A → B → A within a window: the service is not bothered."""
    entry = seen(acknowledged("Success"), result("Failed", at_ms=1), now=at(1))
    after = look(entry, result("Success", at_ms=2), at(2))
    assert after.entry.pending is None
    assert ends_of(after.counts) == {Count.SUPPRESSED_UNCHANGED: 1, Count.COALESCED: 1}
    assert after.entry.state is State.ACKNOWLEDGED


def test_a_change_taken_back_after_it_was_tried_is_reported() -> None:
    """A → B → A with B on its way: the service may hold B by now, so A goes out after it."""
    flying, claim = sent(seen(acknowledged("Success"), result("Failed", at_ms=1), now=at(1)), at(1))
    after = look(flying, result("Success", at_ms=2), at(2))
    assert after.finding is Finding.NEWS
    landed = settle(after.entry, claim, Delivered("id"), at(3)).entry
    assert landed.pending is not None
    assert landed.pending.report.status == "Success"


@pytest.mark.parametrize("is_out", [True, False])
def test_a_change_taken_back_after_it_failed_is_asked_about(*, is_out: bool) -> None:
    """A → B → A with B throttled: whether it was applied or not, StatusUnchanged is not provoked."""
    flying, claim = sent(seen(acknowledged("Success"), result("Failed", at_ms=1), now=at(1)), at(1))
    back = result("Success", at_ms=3)
    if is_out:
        entry = settle(seen(flying, back, now=at(3)), claim, Throttled(PROBLEM), at(4)).entry
    else:
        entry = seen(settle(flying, claim, Throttled(PROBLEM), at(2)).entry, back, now=at(3))
    assert claimed(entry, at(HOUR), POLICY)[1].step is Step.ASK


@pytest.mark.parametrize("effect", list(Effect))
def test_after_a_server_error_nothing_is_unchanged(effect: Effect) -> None:
    """A server error may hide an update that was applied: the old status is reported again, not suppressed."""
    flying, claim = sent(seen(acknowledged("Success"), result("Failed", at_ms=1), now=at(1)), at(1))
    unsure = settle(flying, claim, Unavailable(PROBLEM, effect), at(2)).entry
    after = look(unsure, result("Success", at_ms=3), at(3))
    assert after.finding is Finding.NEWS
    back, again = claimed(after.entry, at(HOUR), POLICY)
    assert again.step is Step.ASK
    assert back.unsure


def test_a_refused_report_stays_dead_until_something_else_is_seen() -> None:
    """What the service will never take is not sent to it again at every run, and a differing report is news."""
    entry = dead(Cause.REFUSED)
    assert look(entry, result("Failed", at_ms=30 * 24 * HOUR), at(30 * 24 * HOUR)).finding is Finding.UNCHANGED
    revived = look(entry, result("Failed", "another", at_ms=1), at(1))
    assert revived.finding is Finding.NEWS
    assert revived.entry.dead is None


def test_a_report_that_was_not_served_may_be_parked_again_once_its_time_is_over() -> None:
    """An association made later is found: at most once in `give_up_after` an equal report is tried again."""
    entry = dead(Cause.UNSERVED)
    late = POLICY.give_up_after_ms
    assert look(entry, result("Failed", at_ms=late - 1), at(late - 1)).finding is Finding.UNCHANGED
    assert look(entry, result("Failed", at_ms=late), at(late)).finding is Finding.NEWS


def test_a_report_not_served_under_a_clock_that_was_ahead_is_not_dead_for_years() -> None:
    """A parking that began "next year" says nothing: the report is tried again (rule 14)."""
    entry = dead(Cause.UNSERVED, START_MS + 365 * 24 * HOUR)
    assert look(entry, result("Failed", at_ms=1), at(1)).finding is Finding.NEWS


# Rule 5: older never overwrites newer.


def test_an_older_observation_is_dropped_and_counted() -> None:
    """A result that was written before what is known already makes no call."""
    after = look(acknowledged("Success"), result("Failed", at_ms=-1), at(1))
    assert after.finding is Finding.STALE
    assert after.entry == acknowledged("Success")
    assert ends_of(after.counts) == {Count.SUPPRESSED_STALE: 1}


def test_an_unchanged_observation_makes_older_ones_stale_too() -> None:
    """What was seen last, reported or not, is what later results are held against."""
    entry = seen(acknowledged("Success"), result("Success", at_ms=MINUTE), now=at(MINUTE))
    assert look(entry, result("Failed", at_ms=SECOND), at(MINUTE)).finding is Finding.STALE


def test_at_equal_times_the_later_arrival_wins() -> None:
    """Two results within one second of a runner's clock: the one handed in last is the status."""
    assert look(acknowledged("Success"), result("Failed"), at()).finding is Finding.NEWS


def test_a_stored_date_in_the_future_is_no_evidence() -> None:
    """After the clock was put back by an hour, results are reported again at once, not after an hour."""
    entry = acknowledged("Success", at_ms=HOUR)
    after = look(entry, result("Failed", at_ms=0), at())
    assert after.finding is Finding.NEWS
    assert after.entry.latest_ms == START_MS


@pytest.mark.parametrize(
    ("stored_ms", "finding"),
    [
        (2, Finding.STALE),
        (CLOCK_AHEAD_MS_MAX, Finding.STALE),
        (CLOCK_AHEAD_MS_MAX + 1, Finding.NEWS),
    ],
)
def test_of_two_dates_a_little_ahead_the_later_one_stands(stored_ms: int, finding: Finding) -> None:
    """A clock behind its publishers' does not let their older result over the newer one that came first."""
    assert look(acknowledged("Success", at_ms=stored_ms), result("Failed", at_ms=1), at()).finding is finding


def test_a_date_too_far_ahead_is_taken_as_now() -> None:
    """A runner's clock that is an hour fast does not shadow all results of the next hour."""
    ahead = CLOCK_AHEAD_MS_MAX + 1
    entry = seen(Entry(WEB), result("Failed", at_ms=ahead), now=at())
    assert entry.latest_ms == START_MS
    assert entry.pending is not None
    assert entry.pending.report.observed_at_ms == START_MS


def test_a_date_a_little_ahead_is_kept() -> None:
    """Clocks that differ by minutes are nothing unusual."""
    entry = seen(Entry(WEB), result("Failed", at_ms=CLOCK_AHEAD_MS_MAX), now=at())
    assert entry.latest_ms == START_MS + CLOCK_AHEAD_MS_MAX


# Rule 4: when it may go out.


def test_news_of_a_quiet_association_is_due_at_once_and_the_next_after_the_window() -> None:
    """The first change goes out without delay, the second waits for the end of the window."""
    first = seen(Entry(WEB), result("Pending"), now=at())
    assert first.due_at_ms == START_MS
    flying, claim = sent(first, at())
    landed = settle(flying, claim, Delivered("id"), at(1)).entry
    second = seen(landed, result("Failed", at_ms=2), now=at(2))
    assert second.due_at_ms == START_MS + POLICY.window_ms


def test_a_flapping_association_behind_a_spent_rate_is_still_due() -> None:
    """However often it changes while nothing can go out, its place in the queue is that of its first change."""
    entry = Entry(WEB)
    for second in range(60):
        status = ("Success", "Failed")[second % 2]
        entry = seen(entry, result(status, at_ms=second * SECOND), now=at(second * SECOND))
        assert entry.due_at_ms == START_MS


def test_a_change_while_a_call_is_out_does_not_follow_it_within_the_window() -> None:
    """Two calls for one association are a window apart, even when the first one takes its time."""
    flying, claim = sent(seen(Entry(WEB), result("Pending"), now=at()), at())
    changed = seen(flying, result("Failed", at_ms=100), now=at(100))
    landed = settle(changed, claim, Delivered("id"), at(200)).entry
    assert landed.due_at_ms == START_MS + POLICY.window_ms


def test_a_redelivered_result_waits_a_window() -> None:
    """What may be an old message delivered again does not go out at once."""
    entry = seen(Entry(WEB), result("Failed", edge=Edge.TRAILING), now=at())
    assert entry.due_at_ms == START_MS + POLICY.window_ms


def test_redelivered_results_make_no_call_however_short_the_window() -> None:
    """After a crash the broker delivers again what was stored: the older one waits for the newer one behind it."""
    policy = replace(POLICY, window_ms=0)
    held = acknowledged("Success", "new")
    older = seen(held, result("Failed", "old", at_ms=10, edge=Edge.TRAILING), now=at(10), policy=policy)
    assert older.due_at_ms == START_MS + 10 + REDELIVERED_WAIT_MS_MIN
    again = recovered(older, at(20), policy).entry
    assert again.due_at_ms == older.due_at_ms, "another crash does not release it"
    newer = seen(older, result("Success", "new", at_ms=900, edge=Edge.TRAILING), now=at(900), policy=policy)
    assert newer.pending is None


def test_a_new_report_does_not_shorten_the_backoff() -> None:
    """A runner that writes a new message every second does not make a failing call a second."""
    flying, claim = sent(seen(Entry(WEB), result("Failed"), now=at()), at())
    failed = settle(flying, claim, Unavailable(PROBLEM, Effect.NONE, 30 * SECOND), at(1)).entry
    entry = seen(failed, result("Failed", "another", at_ms=2), now=at(2))
    assert entry.due_at_ms == START_MS + 1 + 30 * SECOND


def test_a_backoff_from_another_clock_is_brought_back() -> None:
    """A deadline written before the clock was put back does not keep new reports waiting for a year (rule 14)."""
    entry = replace(acknowledged("Success"), retry_at_ms=START_MS + 365 * 24 * HOUR)
    due_ms = seen(entry, result("Failed", at_ms=1), now=at(1)).due_at_ms
    assert due_ms is not None
    assert due_ms <= START_MS + 1 + POLICY.deadline_ms_max


def test_a_new_report_of_a_parked_association_has_its_own_time_to_be_served() -> None:
    """The last run's report is given up after a day; that of the next run starts its own day."""
    flying, claim = sent(seen(Entry(WEB), result("Failed"), now=at()), at())
    parked = settle(flying, claim, Unserved(PROBLEM), at(1)).entry
    assert parked.state is State.PARKED
    entry = seen(parked, result("Success", at_ms=HOUR), now=at(HOUR))
    assert entry.parked_since_ms == START_MS + HOUR
    assert entry.state is State.PARKED


# Beside a second writer.


def test_a_run_that_ends_as_the_last_one_did_is_news_beside_a_second_writer() -> None:
    """The agent has written Pending since: what we knew the service to hold is no reason for silence (rule 8)."""
    again = result("Success", at_ms=HOUR, writer=Writer.SECOND)
    after = look(acknowledged("Success"), again, at(HOUR))
    assert after.finding is Finding.NEWS
    asking, claim = claimed(after.entry, at(HOUR), POLICY)
    assert claim.step is Step.ASK
    lost = answered(asking, claim, Held(report("Pending", at_ms=HOUR - MINUTE)), at(HOUR), 0.5, POLICY)
    assert lost.then is not None
    assert (lost.then.step, lost.then.report) == (Step.SEND, again.report)
    healthy = answered(asking, claim, Held(report("Success", at_ms=HOUR + 2)), at(HOUR + 5), 0.5, POLICY)
    assert (healthy.then, healthy.entry.pending) == (None, None)
    assert ends_of(healthy.counts) == {Count.ALREADY_HELD: 1}


def test_a_change_taken_back_beside_a_second_writer_is_asked_about() -> None:
    """A → B → A and B was never tried, but the agent may have reported it: the service is asked."""
    entry = seen(acknowledged("Success"), result("Failed", at_ms=1, writer=Writer.SECOND), now=at(1))
    after = look(entry, result("Success", at_ms=2, writer=Writer.SECOND), at(2))
    assert after.finding is Finding.NEWS
    assert ends_of(after.counts) == {Count.COALESCED: 1}
    assert claimed(after.entry, at(HOUR), POLICY)[1].step is Step.ASK


def test_a_second_writer_that_is_met_while_a_report_waits_is_not_forgotten() -> None:
    """A runner's report waits, the agent's run says the same: the agent has reported it, so it is asked about."""
    entry = seen(Entry(WEB), result("Failed"), result("Failed", at_ms=1, writer=Writer.SECOND), now=at(1))
    assert claimed(entry, at(1), POLICY)[1].step is Step.ASK
    entry = seen(entry, result("Failed", at_ms=2), now=at(2))
    assert claimed(entry, at(2), POLICY)[1].step is Step.ASK


def test_a_runner_does_not_make_the_second_writer_forgotten() -> None:
    """The agent's run failed, which it reported; a runner then says Success again: that is asked about, not dropped."""
    failed = seen(acknowledged("Success"), result("Failed", at_ms=1, writer=Writer.SECOND), now=at(1))
    after = look(failed, result("Success", at_ms=2), at(2))
    assert after.finding is Finding.NEWS
    assert claimed(after.entry, at(HOUR), POLICY)[1].step is Step.ASK


# Results that may be none of ours.


def test_a_result_that_the_service_knows_nothing_of_is_none_of_ours_for_an_hour() -> None:
    """Runs of associations that this API does not serve make one question an hour, and no dead letter."""
    maybe = replace(result("Failed", writer=Writer.SECOND), served=Served.ASKED)
    asking, claim = claimed(seen(Entry(WEB), maybe, now=at()), at(), POLICY)
    settled = answered(asking, claim, Unserved(PROBLEM), at(1), 0.5, POLICY)
    assert settled.entry.pending is None
    assert total(settled.counts, Count.RECEIVED) == -1
    assert total(settled.counts, Count.REFUSED) == 1
    soon = look(settled.entry, maybe, at(UNSERVED_MS))
    assert soon.finding is Finding.UNSERVED
    assert soon.counts == ((Count.REFUSED, 1),)
    assert look(settled.entry, maybe, at(UNSERVED_MS + 1)).finding is Finding.NEWS


@pytest.mark.parametrize("put_back_ms", [SECOND, 365 * 24 * HOUR])
def test_the_word_that_it_is_none_of_ours_is_not_believed_for_years(put_back_ms: int) -> None:
    """The clock was put back while the daemon was down: the service is asked anew, not in a year (rule 14)."""
    entry = replace(Entry(WEB), unserved_until_ms=START_MS + UNSERVED_MS)
    maybe = replace(result("Failed", at_ms=-put_back_ms, writer=Writer.SECOND), served=Served.ASKED)
    assert look(entry, maybe, at(-put_back_ms)).finding is Finding.NEWS


def test_a_runners_word_outlasts_what_only_the_service_knows() -> None:
    """A runner's result that equals the agent's pending one is parked like any of its own, not taken for none."""
    maybe = replace(result("Failed", writer=Writer.SECOND), served=Served.ASKED)
    entry = seen(Entry(WEB), maybe, result("Failed", at_ms=1), now=at(1))
    asking, claim = claimed(entry, at(1), POLICY)
    settled = answered(asking, claim, Unserved(PROBLEM), at(2), 0.5, POLICY)
    assert settled.entry.state is State.PARKED


def test_an_acknowledgement_ends_the_word_that_the_association_is_none_of_ours() -> None:
    """An association made within the hour is reported from its first success on."""
    entry = replace(Entry(WEB), unserved_until_ms=START_MS + UNSERVED_MS)
    flying, claim = sent(seen(entry, result("Failed"), now=at()), at())
    landed = settle(flying, claim, Delivered("id"), at(1)).entry
    maybe = replace(result("Success", at_ms=2), served=Served.ASKED)
    assert look(landed, maybe, at(2)).finding is Finding.NEWS


def test_a_refused_report_is_a_dead_letter_that_a_known_status_takes_the_place_of() -> None:
    """Seeing again what the service holds is unchanged, and the association is no longer shown as dead."""
    flying, claim = sent(seen(acknowledged("Success"), result("Failed", at_ms=1), now=at(1)), at(1))
    buried = settle(flying, claim, Refused(PROBLEM), at(2)).entry
    assert buried.state is State.DEAD
    after = look(buried, result("Success", at_ms=3), at(3))
    assert after.finding is Finding.UNCHANGED
    assert after.entry.state is State.ACKNOWLEDGED
