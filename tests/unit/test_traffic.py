"""Traffic: what all calls go by, and what an answer to one changes for the others (rules 9, 10 and 12)."""

import pytest

from domain_support import NODE, OTHER_NODE, PROBLEM, SECOND, START_MS, at, report
from ssm_status_reporter.domain.association import Association
from ssm_status_reporter.domain.backoff import Backoff
from ssm_status_reporter.domain.entry import Claim, Step
from ssm_status_reporter.domain.holds import Open, Opening, Probe, Shut, Shutting
from ssm_status_reporter.domain.limits import RECONCILE_RATE_SHARE
from ssm_status_reporter.domain.outcome import Delivered, Outcome, Scope, Throttled, Withheld
from ssm_status_reporter.domain.rate import RAMP_SHARE
from ssm_status_reporter.domain.traffic import Pace, Traffic
from values import replace

PACE = Pace(concurrency=3, rate_per_second=5.0, burst=10, backoff=Backoff(initial_ms=SECOND, max_ms=60 * SECOND))
EXPIRED = Withheld(Scope.CREDENTIALS, PROBLEM)
INVALID = Withheld(Scope.NODE, PROBLEM)


def claim(document: str, instance_id: str = NODE) -> Claim:
    return Claim(Association(instance_id, document), 1, Step.SEND, report("Failed"))


FIRST, SECOND_ONE, THIRD = claim("A"), claim("B"), claim("C", OTHER_NODE)


def noted(traffic: Traffic, subject: Claim, outcome: Outcome, ms: int) -> list[type]:
    """What the outcome did to the holds."""
    return [type(change) for change in traffic.note(subject, outcome, at(ms), 0.5)]


def next_token_after_ms(traffic: Traffic) -> int | None:
    """How long after the start; None: there is one."""
    return None if traffic.next_token_ms is None else traffic.next_token_ms - START_MS


def is_quiet(traffic: Traffic) -> bool:
    """Asked in a function: a type checker takes a property for what it was."""
    return traffic.is_quiet


@pytest.fixture
def traffic() -> Traffic:
    return Traffic(PACE, at(0).steady_ms)


def test_calls_take_slots_until_they_end(traffic: Traffic) -> None:
    """Three may be out; a fourth waits for a slot, not for a token."""
    for each in (FIRST, SECOND_ONE, THIRD):
        traffic.begin(each, START_MS)
    assert (traffic.calls_out, traffic.slots, next_token_after_ms(traffic)) == (3, 0, None)
    traffic.end(SECOND_ONE)
    assert traffic.slots == 1


def test_a_call_waits_for_a_token_where_slots_are_free() -> None:
    """With the burst spent the next call goes out when its token has come."""
    traffic = Traffic(replace(PACE, burst=1), at(0).steady_ms)
    traffic.begin(FIRST, START_MS)
    assert next_token_after_ms(traffic) in {200, 201}
    assert isinstance(traffic.admission(at(201)), Open)
    assert (traffic.slots, next_token_after_ms(traffic)) == (1, None)


def test_a_call_after_a_quiet_time_takes_a_token_of_its_own_time() -> None:
    """A full bucket keeps nothing of what would have come before: with a burst of one the second call waits."""
    traffic = Traffic(replace(PACE, burst=1), START_MS)
    traffic.begin(FIRST, at(3600 * SECOND).steady_ms)
    traffic.admission(at(3600 * SECOND))
    assert traffic.slots == 0


def test_questions_of_reconciliation_have_their_share(traffic: Traffic) -> None:
    """The next one waits, while reports may go out."""
    assert traffic.next_question_ms(at(0).steady_ms) is None
    traffic.begin_question(FIRST, START_MS)
    waits_ms = 1000 / (PACE.rate_per_second * RECONCILE_RATE_SHARE)
    next_ms = traffic.next_question_ms(at(0).steady_ms)
    assert next_ms is not None
    assert next_ms - at(0).steady_ms == pytest.approx(waits_ms, abs=1)
    assert traffic.slots == 2


def test_it_is_quiet_while_nothing_is_out_and_nothing_is_shut(traffic: Traffic) -> None:
    """A call, and a hold on whatever, end the quiet."""
    assert is_quiet(traffic)
    traffic.begin(FIRST, START_MS)
    assert not is_quiet(traffic)
    noted(traffic, FIRST, INVALID, 0)
    traffic.end(FIRST)
    assert not is_quiet(traffic)
    noted(traffic, FIRST, Delivered("request"), SECOND)
    assert is_quiet(traffic)


def test_a_throttled_answer_slows_all_calls_and_a_good_one_speeds_them_up(traffic: Traffic) -> None:
    """What the service says to one call is meant for all."""
    noted(traffic, FIRST, Throttled(PROBLEM, None), 0)
    assert traffic.calls_per_second == PACE.rate_per_second / 2
    noted(traffic, THIRD, Delivered("request"), 0)
    assert PACE.rate_per_second / 2 < traffic.calls_per_second < PACE.rate_per_second


def test_what_opens_everything_ramps_up(traffic: Traffic) -> None:
    """The backlog does not come all at once."""
    assert noted(traffic, FIRST, EXPIRED, 0) == [Shutting]
    assert isinstance(traffic.admission(at(0)), Shut)
    assert isinstance(traffic.admission(at(60 * SECOND)), Probe)
    assert noted(traffic, FIRST, Delivered("request"), 60 * SECOND) == [Opening]
    assert isinstance(traffic.admission(at(60 * SECOND)), Open)
    assert traffic.calls_per_second == PACE.rate_per_second * RAMP_SHARE


def test_a_shut_node_has_one_probe(traffic: Traffic) -> None:
    """It is due in its time, and not while it is out; the other node is not concerned."""
    noted(traffic, FIRST, INVALID, 0)
    (due_ms,) = traffic.later_probes_ms(at(0).steady_ms)
    assert traffic.shut_nodes() == {NODE}
    assert traffic.nodes_to_probe(due_ms - 1) == []
    assert traffic.no_questions_until_ms(due_ms - 1) == {NODE: due_ms - 1 + PACE.backoff.initial_ms}
    assert traffic.nodes_to_probe(due_ms) == [NODE]
    assert traffic.no_questions_until_ms(due_ms) == {}
    traffic.begin(SECOND_ONE, START_MS)
    assert traffic.nodes_to_probe(due_ms) == []
    assert traffic.no_questions_until_ms(due_ms) == {NODE: due_ms + PACE.backoff.initial_ms}


def test_what_may_have_been_mended_is_probed_at_once(traffic: Traffic) -> None:
    """There is something to hurry only while the scope is shut."""
    assert not traffic.hurry(Scope.CREDENTIALS, at(0))
    noted(traffic, FIRST, EXPIRED, 0)
    assert traffic.hurry(Scope.CREDENTIALS, at(1))
    assert isinstance(traffic.admission(at(1)), Probe)


def test_a_probe_that_was_out_when_it_was_mended_is_followed_by_another(traffic: Traffic) -> None:
    """It may have gone with the keys from before; the one after it waits its time."""
    traffic.begin(FIRST, START_MS)
    traffic.hurry(Scope.CREDENTIALS, at(0))
    noted(traffic, FIRST, EXPIRED, 10)
    traffic.end(FIRST)
    assert isinstance(traffic.admission(at(10)), Probe)
    traffic.begin(FIRST, START_MS)
    noted(traffic, FIRST, EXPIRED, 20)
    traffic.end(FIRST)
    assert isinstance(traffic.admission(at(20)), Shut)


def test_an_association_that_is_held_for_itself_is_hurried_by_name(traffic: Traffic) -> None:
    """Its report waits in its own backoff, which the outbox ends; it is told once."""
    noted(traffic, FIRST, Withheld(Scope.PERMISSION, PROBLEM), 0)
    assert traffic.take_hurried() == set()
    assert traffic.hurry(Scope.PERMISSION, at(1))
    assert traffic.take_hurried() == {FIRST.association}
    assert traffic.take_hurried() == set()


def test_a_reload_counts_for_what_goes_out_from_now_on(traffic: Traffic) -> None:
    """Fewer slots than calls are out: nothing more until they end."""
    traffic.begin(FIRST, START_MS)
    traffic.begin(SECOND_ONE, START_MS)
    traffic.repace(replace(PACE, concurrency=1, rate_per_second=1.0))
    assert (traffic.slots, traffic.free_slots, traffic.calls_per_second) == (0, -1, 1.0)
    traffic.end(FIRST)
    traffic.end(SECOND_ONE)
    assert traffic.slots == 1
