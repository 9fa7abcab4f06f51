"""The settlement: what came of a call, what a crash left, what becomes of dead letters (rules 2, 3, 9 to 11)."""

from collections.abc import Sequence

import pytest

from domain_support import (
    ENDS,
    FAILURES,
    HOUR,
    MINUTE,
    NO_REQUEST,
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
from ssm_status_reporter.domain.claim import claimed, questioned
from ssm_status_reporter.domain.entry import (
    Cause,
    Claim,
    Count,
    Counts,
    Entry,
    Settled,
    State,
    Step,
    Via,
    pending_of,
)
from ssm_status_reporter.domain.limits import BUSY_BACKOFF_MS_MAX, PARKED_JITTER_SHARE
from ssm_status_reporter.domain.observation import Finding
from ssm_status_reporter.domain.outcome import (
    Busy,
    Delivered,
    Effect,
    Failure,
    Held,
    Outcome,
    Refused,
    Scope,
    Throttled,
    Unavailable,
    Unchanged,
    Unserved,
    Withheld,
)
from ssm_status_reporter.domain.result import Result
from ssm_status_reporter.domain.settlement import recovered, revived
from values import replace

YEAR_MS = 365 * 24 * HOUR
ALMOST_ONE = 1 - 2**-53


def out(entry: Entry | None = None) -> tuple[Entry, Claim]:
    """A failed run whose call is out."""
    return sent(seen(entry or acknowledged("Success"), result("Failed", at_ms=1), now=at(1)), at(1))


def out_and_replaced() -> tuple[Entry, Claim]:
    """The same, and a newer result came meanwhile."""
    flying, claim = out()
    return seen(flying, result("Success", "newer", at_ms=2), now=at(2)), claim


def ended(counts: Counts) -> int:
    """How many results ended."""
    return sum(change for name, change in counts if name in ENDS)


# The error table: what each answer means for the report.


@pytest.mark.parametrize(
    ("outcome", "via", "end"),
    [(Delivered("id"), Via.DELIVERED, Count.DELIVERED), (Unchanged("id"), Via.ALREADY_HELD, Count.ALREADY_HELD)],
)
def test_an_acknowledgement_ends_the_report(outcome: Outcome, via: Via, end: Count) -> None:
    """200 and StatusUnchanged are both acknowledgements: nothing is pending, nothing in doubt."""
    flying, claim = out(replace(acknowledged("Success"), unsure=True, failures=3))
    settled = settle(flying, claim, outcome, at(10))
    assert settled.entry.state is State.ACKNOWLEDGED
    assert settled.entry.acknowledged is not None
    assert settled.entry.acknowledged.report == report("Failed", at_ms=1)
    assert (settled.entry.acknowledged.via, settled.entry.acknowledged.at_ms) == (via, START_MS + 10)
    assert not settled.entry.unsure
    assert (settled.entry.failures, settled.entry.retry_at_ms, settled.entry.sent) == (0, 0, ())
    assert ends_of(settled.counts) == {end: 1}
    assert total(settled.counts, Count.CALLS) == 1


@pytest.mark.parametrize(
    ("name", "state", "attempts", "retried"),
    [
        ("busy", State.PENDING, 1, 1),
        ("throttled", State.PENDING, 0, 1),
        ("unreachable", State.PENDING, 0, 1),
        ("server error", State.PENDING, 1, 1),
        ("lost reply", State.PENDING, 1, 1),
        ("unserved", State.PARKED, 1, 0),
        ("refused", State.DEAD, 0, 0),
        ("credentials", State.PENDING, 0, 0),
        ("permission", State.PENDING, 0, 0),
        ("clock", State.PENDING, 0, 0),
        ("endpoint", State.PENDING, 0, 0),
        ("node", State.PENDING, 0, 0),
    ],
)
def test_each_failure_leads_where_the_error_table_says(
    name: str, state: State, attempts: int, retried: int
) -> None:
    """What the service answers decides whether a report is retried, parked, dead, or waits uncharged."""
    flying, claim = out()
    settled = settle(flying, claim, FAILURES[name], at(10))
    assert settled.entry.state is state
    assert settled.entry.flight is None
    assert (0 if settled.entry.pending is None else settled.entry.pending.attempts) == attempts
    assert total(settled.counts, Count.CALLS) == 1
    assert total(settled.counts, Count.RETRIED) == retried
    assert ended(settled.counts) == (state is State.DEAD)
    assert settled.entry.last_error is not None
    assert settled.entry.last_error.problem is PROBLEM


def test_credentials_missing_here_make_no_call() -> None:
    """`calls` counts what went out: without credentials nothing does."""
    flying, claim = out()
    settled = settle(flying, claim, Withheld(Scope.CREDENTIALS, NO_REQUEST), at(10))
    assert settled.counts == ()


@pytest.mark.parametrize("failures", [0, 1, 5, 50])
def test_a_failure_that_may_pass_is_retried_with_full_jitter_for_ever(failures: int) -> None:
    """The pauses double up to the cap and stay there; none is skipped and none is the last (rule 9)."""
    flying, claim = out(replace(acknowledged("Success"), failures=failures))
    for chance in (0.0, 0.5, ALMOST_ONE):
        entry = settle(flying, claim, Unavailable(PROBLEM, Effect.NONE), at(10), chance).entry
        assert entry.failures == failures + 1
        assert entry.due_at_ms == START_MS + 10 + POLICY.backoff.delay_ms(failures + 1, chance)


@pytest.mark.parametrize("failure", [Throttled(PROBLEM, 30_000), Unavailable(PROBLEM, Effect.NONE, 30_000)])
def test_a_retry_after_hint_is_a_lower_bound(failure: Failure) -> None:
    """A service that names a time is not called before it (rule 9)."""
    flying, claim = out()
    assert settle(flying, claim, failure, at(10), 0.0).entry.due_at_ms == START_MS + 10 + 30_000


def test_too_many_updates_is_waited_out_shortly() -> None:
    """Another update of the same association is over within seconds: the backoff does not grow to minutes."""
    flying, claim = out(replace(acknowledged("Success"), failures=20))
    due_ms = settle(flying, claim, Busy(PROBLEM), at(10), ALMOST_ONE).entry.due_at_ms
    assert due_ms == START_MS + 10 + BUSY_BACKOFF_MS_MAX


@pytest.mark.parametrize("name", ["credentials", "permission", "clock", "endpoint", "node"])
def test_a_hold_moves_no_deadline_and_charges_nothing(name: str) -> None:
    """Behind a hold the report waits as it was: due, without an attempt, without a longer backoff (rule 10)."""
    flying, claim = out(replace(acknowledged("Success"), failures=2))
    entry = settle(flying, claim, FAILURES[name], at(10)).entry
    assert (entry.failures, entry.retry_at_ms) == (2, flying.retry_at_ms)
    assert pending_of(entry).attempts == 0


def test_a_hold_of_this_association_alone_tells_when_to_look_again() -> None:
    """Denied for one document, its report waits until the probe and holds nothing else up."""
    flying, claim = out()
    until_ms = START_MS + MINUTE
    failure = Withheld(Scope.PERMISSION, PROBLEM, until_ms=until_ms)
    assert settle(flying, claim, failure, at(10)).entry.due_at_ms == until_ms


# Parking.


def parked_at(entry: Entry, claim: Claim, at_ms: int, chance: float = 0.0) -> Settled:
    """The service did not know the association then."""
    return settle(entry, claim, Unserved(PROBLEM), at(at_ms), chance)


def tried_again(entry: Entry) -> tuple[Entry, Claim]:
    """The next attempt, however it is made."""
    due_ms = entry.due_at_ms
    assert due_ms is not None
    return claimed(entry, at(due_ms - START_MS), POLICY)


@pytest.mark.parametrize("chance", [0.0, ALMOST_ONE])
def test_a_parked_report_is_retried_every_interval_with_a_little_jitter(chance: float) -> None:
    """`park.retry_every`: parked reports do not march in step, and none comes early."""
    entry = parked_at(*out(), 10, chance).entry
    assert entry.due_at_ms is not None
    wait_ms = entry.due_at_ms - START_MS - 10
    assert POLICY.retry_every_ms <= wait_ms <= POLICY.retry_every_ms * (1 + PARKED_JITTER_SHARE)


@pytest.mark.parametrize(("chance", "retries"), [(0.0, 96), (0.9, 89)])
def test_a_parked_report_is_given_up_when_its_time_is_over_and_not_before(chance: float, retries: int) -> None:
    """`park.give_up_after`: the last attempt comes when the day is over, and makes a dead letter."""
    first_ms = 10
    settled = parked_at(*out(), first_ms)
    attempts, last_ms = 1, 0
    while settled.buried is None:
        entry = settled.entry
        assert entry.due_at_ms is not None
        flying, claim = tried_again(entry)
        settled = settle(
            flying, replace(claim, step=Step.SEND), Unserved(PROBLEM), at(entry.due_at_ms - START_MS), chance
        )
        attempts += 1
        last_ms = entry.due_at_ms
    assert last_ms == START_MS + first_ms + POLICY.give_up_after_ms
    assert attempts == retries + 1
    assert settled.entry.state is State.DEAD
    assert settled.entry.dead is not None
    assert settled.entry.dead.cause is Cause.UNSERVED
    assert settled.buried.problem is PROBLEM
    assert ends_of(settled.counts) == {Count.DEAD: 1}


def test_other_failures_in_between_do_not_stop_the_time_of_a_parked_report() -> None:
    """A throttle on the way does not give a report another day."""
    entry = parked_at(*out(), 10).entry
    flying, claim = tried_again(entry)
    entry = settle(flying, claim, Throttled(PROBLEM), at(HOUR)).entry
    assert entry.parked_since_ms == START_MS + 10
    assert entry.state is State.PARKED


# Rule 2: an answer about an older version.


@pytest.mark.parametrize("outcome", [Delivered("id"), Unchanged("id")])
def test_the_acknowledgement_of_a_replaced_report_does_not_settle_the_newer_one(outcome: Outcome) -> None:
    """The older one was delivered and is counted; the newer one goes out after it."""
    flying, claim = out_and_replaced()
    settled = settle(flying, claim, outcome, at(10))
    assert settled.entry.acknowledged is not None
    assert settled.entry.acknowledged.report == report("Failed", at_ms=1)
    assert pending_of(settled.entry).report.message == "newer"
    assert ended(settled.counts) == 1


def test_what_waits_is_unchanged_when_its_equal_was_just_delivered() -> None:
    """B, then A, then B again while the first B was on its way: one call, and ours is as new as the second B."""
    flying, claim = out()
    changed = seen(flying, result("Success", "other", at_ms=2), result("Failed", at_ms=3), now=at(3))
    settled = settle(changed, claim, Delivered("id"), at(10))
    assert settled.entry.state is State.ACKNOWLEDGED
    assert settled.entry.acknowledged is not None
    assert settled.entry.acknowledged.ours(START_MS + 10) == report("Failed", at_ms=3)
    assert ends_of(settled.counts) == {Count.DELIVERED: 1, Count.SUPPRESSED_UNCHANGED: 1}


@pytest.mark.parametrize("between", [(), (result("Success", "other", at_ms=2),)])
def test_what_was_observed_again_while_its_call_was_out_is_as_new_as_that(between: Sequence[Result]) -> None:
    """What another writer wrote in between is older than what our runner saw last (rules 5, 6)."""
    flying, claim = out()
    again = seen(flying, *between, result("Failed", at_ms=MINUTE), now=at(MINUTE))
    landed = settle(again, claim, Delivered("id"), at(MINUTE)).entry
    asked = questioned(landed)
    assert asked is not None
    settled = answered(*asked, Held(report("Success", at_ms=MINUTE - 1)), at(2 * MINUTE), 0.5, POLICY)
    assert settled.then is not None
    assert settled.then.report == report("Failed", at_ms=MINUTE)


@pytest.mark.parametrize("outcome", [Delivered("id"), Unchanged("id"), *FAILURES.values()])
@pytest.mark.parametrize("there", ["nothing", "something pending"])
def test_what_was_received_in_another_outbox_has_no_end_in_this_one(outcome: Outcome, there: str) -> None:
    """The outbox was set aside or replaced while the call was out: the ends still add up to what was received."""
    _, claim = out()
    new = Entry(claim.association)
    if there != "nothing":
        new = seen(new, result("Success", "newer", at_ms=2), result("Success", "newest", at_ms=3), now=at(3))
    settled = settle(new, claim, outcome, at(10))
    assert ended(settled.counts) == 0
    assert (settled.entry.pending is None) == (new.pending is None)
    if isinstance(outcome, Delivered | Unchanged):
        assert settled.entry.acknowledged is not None
        assert settled.entry.acknowledged.report == claim.report


@pytest.mark.parametrize("name", sorted(FAILURES))
def test_the_failure_of_a_replaced_report_ends_it_and_charges_the_newer_one_nothing(name: str) -> None:
    """Nobody waits for it any more: it is counted as replaced, makes no dead letter, and the newer one lives."""
    flying, claim = out_and_replaced()
    settled = settle(flying, claim, FAILURES[name], at(10))
    newer = pending_of(settled.entry)
    assert (newer.report.message, newer.attempts) == ("newer", 0)
    assert settled.buried is None
    assert ends_of(settled.counts) == {Count.COALESCED: 1}


def test_a_replaced_report_that_runs_out_of_time_does_not_take_the_newer_one_with_it() -> None:
    """The old run's report is given up while the new run's waits: the new one has its own time."""
    short = replace(POLICY, retry_every_ms=10, give_up_after_ms=10)
    entry = settle(*out(), Unserved(PROBLEM), at(10), policy=short).entry
    flying, claim = sent(entry, at(20), short)
    flying = seen(flying, result("Success", "newer", at_ms=25), now=at(25), policy=short)
    settled = settle(flying, claim, Unserved(PROBLEM), at(10 * SECOND), policy=short)
    assert pending_of(settled.entry).report.message == "newer"
    assert settled.entry.state is State.PARKED
    assert settled.buried is None
    assert ends_of(settled.counts) == {Count.COALESCED: 1}


# Rule 3: doubt.


@pytest.mark.parametrize(
    ("failure", "unsure", "doubtful"),
    [
        (Unavailable(PROBLEM, Effect.POSSIBLE), True, True),
        (Unavailable(PROBLEM, Effect.NONE), True, False),
        (Withheld(Scope.ENDPOINT, PROBLEM, Effect.POSSIBLE), True, True),
        (Withheld(Scope.ENDPOINT, PROBLEM), False, False),
        (Busy(PROBLEM), False, False),
        (Throttled(PROBLEM), False, False),
    ],
)
def test_a_call_that_may_have_been_applied_leaves_doubt(failure: Failure, *, unsure: bool, doubtful: bool) -> None:
    """After a lost reply only the service knows what it holds; after a plain refusal nothing has changed."""
    entry = settle(*out(), failure, at(10)).entry
    assert entry.unsure is unsure
    assert pending_of(entry).doubtful is doubtful


# Recovery.


def test_a_call_lost_in_a_crash_is_asked_about() -> None:
    """Killed with the call out, the daemon asks what became of it instead of sending it twice."""
    flying, _ = out()
    found = recovered(flying, at(HOUR), POLICY)
    assert found.entry.flight is None
    assert found.entry.unsure
    assert claimed(found.entry, at(HOUR), POLICY)[1].step is Step.ASK
    assert total(found.counts, Count.CALLS) == 1
    assert ended(found.counts) == 0


def test_a_replaced_call_lost_in_a_crash_ends_as_replaced() -> None:
    """Its result ends although nobody will ever answer for it (rule 11)."""
    flying, _ = out_and_replaced()
    found = recovered(flying, at(HOUR), POLICY)
    assert ends_of(found.counts) == {Count.COALESCED: 1}
    assert not pending_of(found.entry).doubtful


def test_a_question_lost_in_a_crash_leaves_no_trace() -> None:
    """Nothing was sent."""
    taken = questioned(acknowledged("Success"))
    assert taken is not None
    assert recovered(taken[0], at(1), POLICY) == Settled(acknowledged("Success"))


def test_what_was_found_pending_leaves_doubt() -> None:
    """A claim need not survive a power loss: what waits may have gone out, and nothing is unchanged."""
    entry = recovered(seen(acknowledged("Success"), result("Failed", at_ms=1), now=at(1)), at(2), POLICY).entry
    assert entry.unsure
    assert seen(entry, result("Success", at_ms=3), now=at(3)).pending is not None


def test_the_next_attempt_survives_a_restart() -> None:
    """A restart is no reason to try earlier (rule 9)."""
    entry = settle(*out(), Unavailable(PROBLEM, Effect.NONE, 30_000), at(10)).entry
    assert recovered(entry, at(20), POLICY).entry.due_at_ms == entry.due_at_ms
    assert recovered(entry, at(20), POLICY).entry.failures == entry.failures


@pytest.mark.parametrize("parked", [True, False])
def test_deadlines_from_another_clock_are_brought_back(*, parked: bool) -> None:
    """The clock was put back by a year while the daemon was down: no report waits for that (rule 14)."""
    failure: Failure = Unserved(PROBLEM) if parked else Unavailable(PROBLEM, Effect.NONE)
    entry = settle(*out(), failure, at(10)).entry
    found = recovered(replace(entry, window_end_ms=START_MS + 5 * SECOND), at(-YEAR_MS), POLICY).entry
    assert found.due_at_ms is not None
    assert found.due_at_ms <= START_MS - YEAR_MS + POLICY.deadline_ms_max
    assert pending_of(found).release_at_ms <= START_MS - YEAR_MS + POLICY.window_ms
    assert found.parked_since_ms is None or found.parked_since_ms <= START_MS - YEAR_MS


@pytest.mark.parametrize("put_back_ms", [MINUTE, 50 * MINUTE, YEAR_MS])
@pytest.mark.parametrize("name", ["server error", "busy", "unserved", "permission"])
def test_a_retry_waits_no_longer_than_it_was_to_wait_whatever_the_clock_is_set_to(
    name: str, put_back_ms: int
) -> None:
    """A node that boots with its clock an hour behind retries within `delivery.backoff.max`, not in an hour (14)."""
    failure = FAILURES[name]
    if isinstance(failure, Withheld):
        failure = replace(failure, until_ms=START_MS + 10 + 3 * SECOND)
    entry = settle(*out(), failure, at(10)).entry
    wait_ms = entry.retry_at_ms - START_MS - 10
    assert wait_ms > 0
    assert (
        recovered(entry, at(10 - put_back_ms), POLICY).entry.retry_at_ms == START_MS + 10 - put_back_ms + wait_ms
    )


# Dead letters.


def buried() -> Entry:
    """A report that the service refused."""
    return settle(*out(), Refused(PROBLEM), at(10)).entry


def test_a_dead_letter_that_is_tried_again_takes_its_end_back() -> None:
    """Retried, it is pending once more, and due at once."""
    again = revived(buried(), report("Failed", at_ms=1), "dead-letters", at(20), POLICY)
    assert again.entry.state is State.PENDING
    assert again.entry.due_at_ms == START_MS + 20
    assert ends_of(again.counts) == {Count.DEAD: -1}


def test_a_dead_letter_is_due_by_the_clock_of_a_daemon_that_started_before_it_was_set() -> None:
    """A machine without a clock of its own starts in the past: the command counts another steady time."""
    again = revived(buried(), report("Failed", at_ms=1), "dead-letters", at(YEAR_MS), POLICY).entry
    assert again.due_at_ms is not None
    assert again.due_at_ms <= at(MINUTE).steady_ms


def test_an_old_dead_letter_is_asked_about_before_it_goes_out_again() -> None:
    """Somebody else may have written something newer since: a retry never overwrites it (rule 5)."""
    again = revived(buried(), report("Failed", at_ms=1), "dead-letters", at(HOUR), POLICY).entry
    assert claimed(again, at(HOUR), POLICY)[1].step is Step.ASK


def test_a_dead_letter_that_was_observed_again_is_tried_again_with_the_newer_date() -> None:
    """A runner that repeats its status makes no news, and does not outdate the letter."""
    entry = seen(buried(), result("Failed", at_ms=100), result("Failed", at_ms=150), now=at(150))
    again = revived(entry, report("Failed", at_ms=1), "dead-letters", at(200), POLICY)
    assert pending_of(again.entry).report == report("Failed", at_ms=150)
    assert ends_of(again.counts) == {Count.DEAD: -1}


def test_a_stale_dead_letter_leaves_nothing_dead_behind() -> None:
    """What the service was found to hold is newer: the letter is gone, and an equal result is news again."""
    entry = replace(buried(), latest_ms=START_MS + 100)
    again = revived(entry, report("Failed", at_ms=1), "dead-letters", at(200), POLICY)
    assert ends_of(again.counts) == {Count.DEAD: -1, Count.SUPPRESSED_STALE: 1}
    assert again.entry.dead is None
    assert look(again.entry, result("Failed", at_ms=300), at(300)).finding is Finding.NEWS


def test_a_dead_letter_is_stale_when_something_newer_is_known() -> None:
    """The association has moved on: the retry is dropped, and says so."""
    entry = seen(buried(), result("Success", at_ms=100), now=at(100))
    again = revived(entry, report("Failed", at_ms=1), "dead-letters", at(200), POLICY)
    assert again.entry == entry
    assert ends_of(again.counts) == {Count.DEAD: -1, Count.SUPPRESSED_STALE: 1}


def test_a_dead_letter_does_not_replace_what_is_pending() -> None:
    """A report on its way is newer by arrival."""
    entry = seen(buried(), result("Success", "newer", at_ms=1), now=at(100))
    again = revived(entry, report("Failed", at_ms=1), "dead-letters", at(200), POLICY)
    assert again.entry.pending == entry.pending
    assert ends_of(again.counts) == {Count.DEAD: -1, Count.SUPPRESSED_STALE: 1}


def test_a_dead_letter_that_the_service_holds_meanwhile_makes_no_call() -> None:
    """Somebody else delivered the same: it is unchanged."""
    held = replace(acknowledged("Failed", at_ms=1), dead=buried().dead)
    again = revived(held, report("Failed", at_ms=1), "dead-letters", at(20), POLICY)
    assert again.entry.state is State.ACKNOWLEDGED
    assert ends_of(again.counts) == {Count.DEAD: -1, Count.SUPPRESSED_UNCHANGED: 1}


def test_a_dead_letter_behind_a_future_date_is_tried() -> None:
    """A date stored before the clock was put back is no evidence against it."""
    entry = replace(buried(), latest_ms=START_MS + HOUR)
    assert revived(entry, report("Failed", at_ms=1), "dead-letters", at(20), POLICY).entry.state is State.PENDING


def test_an_entry_with_nothing_in_it_is_not_worth_keeping() -> None:
    """A discarded letter of an association that was never acknowledged leaves no row behind."""
    entry = settle(*out(Entry(WEB)), Refused(PROBLEM), at(10)).entry
    assert not entry.is_blank
    assert entry.without_dead().is_blank
    assert not buried().without_dead().is_blank
