"""Holds: what concerns everything is charged to nothing (rule 10)."""

import pytest

from domain_support import (
    FAILURES,
    MINUTE,
    NO_REQUEST,
    NODE,
    OTHER_NODE,
    PROBLEM,
    SECOND,
    START_MS,
    WEB,
    at,
    report,
)
from ssm_status_reporter.domain.association import Association
from ssm_status_reporter.domain.backoff import Backoff
from ssm_status_reporter.domain.entry import Step
from ssm_status_reporter.domain.holds import (
    EVERYTHING,
    Change,
    Hold,
    HoldBoard,
    Node,
    Open,
    Opening,
    Probe,
    Remaining,
    Shut,
    Shutting,
    Subject,
    Turned,
)
from ssm_status_reporter.domain.limits import ENDPOINT_FAILURES_IN_A_ROW, PERMISSION_DENIALS_IN_A_ROW
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
from values import replace

BACKOFF = Backoff(SECOND, 5 * MINUTE)
OTHER = Association(NODE, "Deploy-Worker")
THIRD = Association(OTHER_NODE, "Deploy-Web")
DENIED = Withheld(Scope.PERMISSION, PROBLEM)
EXPIRED = Withheld(Scope.CREDENTIALS, PROBLEM)
SKEWED = Withheld(Scope.CLOCK, PROBLEM)
INVALID = Withheld(Scope.NODE, PROBLEM)
ERROR = Unavailable(PROBLEM, Effect.NONE)
NO_CONNECTION = Unreachable(PROBLEM)
ALMOST_ONE = 1 - 2**-53


def board(*outcomes: tuple[Association, Outcome | Answer], chance: float = 0.5) -> HoldBoard:
    """A board that took note of these at the start."""
    noted = HoldBoard(BACKOFF)
    for association, outcome in outcomes:
        noted.record(association, outcome, at(), chance)
    return noted


def is_shut(noted: HoldBoard) -> bool:
    """Whether everything is."""
    return not isinstance(noted.admission(at()), Open)


def probe_ms(noted: HoldBoard, scope: Scope, subject: Subject = EVERYTHING) -> int:
    """When the scope is probed next."""
    hold = noted.find(scope, subject)
    assert hold is not None
    return hold.next_probe_ms


# What shuts what.


def test_the_question_before_an_update_opens_nothing() -> None:
    """What refuses a node's updates may well answer questions about it: the update decides, and the backoff grows."""
    noted = board((WEB, INVALID))
    first_ms = probe_ms(noted, Scope.NODE, Node(NODE))
    assert noted.record(WEB, HeldNothing(), at(500), 0.5, Step.SEND) == ()
    (change,) = noted.record(WEB, INVALID, at(500), 0.5)
    assert isinstance(change, Remaining)
    assert change.hold.next_probe_ms - START_MS - 500 > first_ms - START_MS
    assert [type(each) for each in noted.record(WEB, HeldNothing(), at(501), 0.5)] == [Opening]


@pytest.mark.parametrize("update", [Refused(PROBLEM), Throttled(PROBLEM), ERROR])
@pytest.mark.parametrize("first", [EXPIRED, SKEWED, INVALID])
def test_what_the_question_showed_counts_when_the_update_fails_of_something_else(
    first: Withheld, update: Outcome
) -> None:
    """The keys were good for the question: that the report is refused is no reason to show a hold for ever."""
    noted = board((WEB, first))
    assert noted.record(WEB, HeldNothing(), at(500), 0.5, Step.SEND) == ()
    assert [type(each) for each in noted.record(WEB, update, at(500), 0.5)] == [Opening]
    assert list(noted) == []


def test_what_the_question_showed_is_no_evidence_against_the_update() -> None:
    """An endpoint that answers questions and fails updates stays shut, and so does a permission that is denied."""
    noted = board(*[(association, NO_CONNECTION) for association in (WEB, OTHER, THIRD)])
    noted.record(WEB, HeldNothing(), at(500), 0.5, Step.SEND)
    (change,) = noted.record(WEB, ERROR, at(500), 0.5)
    assert isinstance(change, Remaining)
    denied = board((WEB, DENIED))
    denied.record(WEB, Held(report()), at(500), 0.5, Step.SEND)
    assert denied.record(WEB, ERROR, at(500), 0.5) == ()


def test_what_a_question_showed_counts_for_its_own_update_alone() -> None:
    """A later call of the association has no question before it to speak for it."""
    noted = board((OTHER, EXPIRED))
    noted.record(WEB, HeldNothing(), at(500), 0.5, Step.SEND)
    noted.record(OTHER, Delivered("id"), at(500), 0.5)
    noted.record(WEB, Delivered("id"), at(500), 0.5)
    noted.record(OTHER, EXPIRED, at(500), 0.5)
    assert noted.record(WEB, Throttled(PROBLEM), at(2000), 0.5) == ()


def test_a_question_tells_nothing_of_what_was_shut_after_it() -> None:
    """The keys expired between the question and its update."""
    noted = HoldBoard(BACKOFF)
    noted.record(WEB, HeldNothing(), at(), 0.5, Step.SEND)
    noted.record(OTHER, EXPIRED, at(1), 0.5)
    assert noted.record(WEB, Throttled(PROBLEM), at(2), 0.5) == ()


@pytest.mark.parametrize("permitted", [INVALID, Busy(PROBLEM)])
def test_after_any_permitted_update_it_takes_several_denials_again(permitted: Outcome) -> None:
    """What was denied before holds itself alone: else everything would open and shut again without end."""
    noted = board(*[(Association(OTHER_NODE, f"Document-{number}"), DENIED) for number in range(3)])
    assert is_shut(noted)
    noted.record(WEB, permitted, at(1), 0.5)
    noted.record(Association(OTHER_NODE, "Document-0"), DENIED, at(1000), 0.5)
    assert not is_shut(noted)


@pytest.mark.parametrize("answered", [Throttled(PROBLEM), Refused(PROBLEM)])
def test_whatever_the_service_answers_keys_that_were_missing_are_there(answered: Outcome) -> None:
    """The call was signed."""
    noted = board((WEB, Withheld(Scope.CREDENTIALS, NO_REQUEST)))
    assert [type(change) for change in noted.record(WEB, answered, at(500), 0.5)] == [Opening]


@pytest.mark.parametrize("outcome", [EXPIRED, SKEWED])
def test_credentials_and_clock_shut_everything_at_once(outcome: Withheld) -> None:
    """Expired credentials concern every report: none is tried in vain."""
    noted = HoldBoard(BACKOFF)
    (change,) = noted.record(WEB, outcome, at(), 0.5)
    assert isinstance(change, Shutting)
    assert (change.hold.scope, change.hold.subject) == (outcome.scope, EVERYTHING)
    assert change.hold.since_ms == START_MS
    assert noted.admission(at(499)) == Shut(START_MS + 500)
    assert noted.admission(at(500)) == Probe()


def test_an_invalid_node_shuts_that_node_alone() -> None:
    """One node that is not registered keeps the reports for the others going."""
    noted = board((WEB, INVALID))
    assert isinstance(noted.admission(at()), Open)
    assert [node for node, _ in noted.shut_nodes()] == [Node(NODE)]


def test_a_denied_permission_shuts_its_association_first() -> None:
    """IAM can restrict by document: one denied document keeps the others going."""
    noted = board((WEB, DENIED))
    assert isinstance(noted.admission(at()), Open)
    assert noted.find(Scope.PERMISSION, WEB) is not None
    assert noted.find(Scope.PERMISSION, OTHER) is None


def test_a_permission_denied_to_several_associations_in_a_row_shuts_everything() -> None:
    """A missing IAM action concerns everybody: it is found out within three calls."""
    distinct = [Association(NODE, f"Document-{number}") for number in range(PERMISSION_DENIALS_IN_A_ROW)]
    assert not is_shut(board(*((each, DENIED) for each in distinct[:-1])))
    assert is_shut(board(*((each, DENIED) for each in distinct)))


@pytest.mark.parametrize(("between", "shuts"), [(Delivered("id"), False), (Unchanged("id"), False), (ERROR, True)])
def test_an_update_that_was_permitted_in_between_shows_that_not_everything_is_denied(
    between: Outcome, *, shuts: bool
) -> None:
    """Denials of some documents among successes of others never shut everything."""
    noted = board((WEB, DENIED), (OTHER, DENIED), (Association(NODE, "Fine"), between), (THIRD, DENIED))
    assert is_shut(noted) is shuts


def test_the_same_association_denied_again_and_again_shuts_nothing_else() -> None:
    """It is distinct associations that count."""
    noted = board()
    for minute in range(20):
        noted.record(WEB, DENIED, at(minute * 10 * MINUTE), 0.5)
    assert not is_shut(noted)


def test_documents_known_to_be_denied_do_not_shut_the_permitted_ones_again() -> None:
    """IAM denies some documents for good: after one update was permitted, their denials concern them alone."""
    denied = [Association(NODE, f"Document-{number}") for number in range(PERMISSION_DENIALS_IN_A_ROW)]
    noted = board(*((each, DENIED) for each in denied))
    assert is_shut(noted)
    noted.record(WEB, Delivered("id"), at(), 0.5)
    for minute in range(20):
        for each in denied:
            noted.record(each, DENIED, at(minute * 10 * MINUTE), 0.5)
    assert not is_shut(noted)
    for number in range(PERMISSION_DENIALS_IN_A_ROW):  # now it is missing for others as well
        noted.record(Association(OTHER_NODE, f"Document-{number}"), DENIED, at(), 0.5)
    assert is_shut(noted)


def test_a_scope_that_stays_shut_for_another_reason_is_news() -> None:
    """Keys appeared, and they are expired: an operator who waits for them is told."""
    noted = board((WEB, Withheld(Scope.CREDENTIALS, NO_REQUEST)))
    expired = Withheld(Scope.CREDENTIALS, replace(PROBLEM, code="ExpiredTokenException"))
    (turned,) = noted.record(WEB, expired, at(MINUTE), 0.5)
    assert isinstance(turned, Turned)
    assert turned.hold.problem.code == "ExpiredTokenException"
    (remaining,) = noted.record(WEB, expired, at(10 * MINUTE), 0.5)
    assert isinstance(remaining, Remaining)


def test_a_denied_question_shuts_nothing() -> None:
    """A denied DescribeAssociation never holds updates."""
    noted = board(*((each, NotToBeHad(PROBLEM)) for each in (WEB, OTHER, THIRD)))
    assert list(noted) == []


def test_a_dead_endpoint_is_shut_after_several_failures_in_a_row() -> None:
    """No connection is nobody's own fault: three in a row shut the endpoint, even of one association."""
    assert not is_shut(board(*[(WEB, NO_CONNECTION)] * (ENDPOINT_FAILURES_IN_A_ROW - 1)))
    assert is_shut(board(*[(WEB, NO_CONNECTION)] * ENDPOINT_FAILURES_IN_A_ROW))


def test_server_errors_shut_the_endpoint_only_when_several_associations_share_them() -> None:
    """One document that the service fails on does not keep the others waiting."""
    assert not is_shut(board(*[(WEB, ERROR)] * 50))
    assert is_shut(board(*[(WEB, ERROR)] * 2, (OTHER, ERROR)))


@pytest.mark.parametrize(
    "answer", [Delivered("id"), Held(report()), Throttled(PROBLEM), Unserved(PROBLEM), DENIED]
)
def test_any_answer_in_between_shows_that_the_endpoint_lives(answer: Outcome | Answer) -> None:
    """Failures shut the endpoint only when they come in a row."""
    noted = board((WEB, NO_CONNECTION), (OTHER, NO_CONNECTION), (THIRD, answer), (WEB, NO_CONNECTION))
    assert noted.find(Scope.ENDPOINT, EVERYTHING) is None


# What opens what.

_OPENED = {
    "delivered": {"credentials", "clock", "endpoint", "own permission", "permission", "node"},
    "unchanged": {"credentials", "clock", "endpoint", "own permission", "permission", "node"},
    "busy": {"credentials", "clock", "endpoint", "own permission", "permission", "node"},
    "held": {"credentials", "clock", "endpoint", "own permission", "node"},
    "held nothing": {"credentials", "clock", "endpoint", "own permission", "node"},
    "held, and an update follows": set(),
    "not to be had": {"credentials", "clock", "endpoint"},
    "node": {"credentials", "clock", "endpoint", "own permission", "permission"},
    "unserved": {"credentials", "clock", "endpoint", "own permission"},
    "permission": {"credentials", "clock", "endpoint"},
    "credentials": {"endpoint"},
    "clock": {"endpoint"},
    "refused": {"endpoint", "own permission"},
    "throttled": {"endpoint"},
    "no credentials": set(),
    "unusable settings": set(),
    "unreachable": set(),
    "server error": set(),
}
_OUTCOMES: dict[str, Outcome | Answer] = {
    **FAILURES,
    "delivered": Delivered("id"),
    "unchanged": Unchanged("id"),
    "held": Held(report()),
    "held nothing": HeldNothing(),
    "held, and an update follows": Held(report()),
    "not to be had": NotToBeHad(PROBLEM),
    "no credentials": Withheld(Scope.CREDENTIALS, NO_REQUEST),
    "unusable settings": Withheld(Scope.ENDPOINT, NO_REQUEST),
}
_HOLDS: dict[str, tuple[Scope, Subject]] = {
    "credentials": (Scope.CREDENTIALS, EVERYTHING),
    "clock": (Scope.CLOCK, EVERYTHING),
    "endpoint": (Scope.ENDPOINT, EVERYTHING),
    "permission": (Scope.PERMISSION, EVERYTHING),
    "own permission": (Scope.PERMISSION, WEB),
    "node": (Scope.NODE, Node(NODE)),
}


@pytest.mark.parametrize("name", sorted(_OPENED))
def test_an_answer_opens_every_scope_that_it_shows_to_be_in_order(name: str) -> None:
    """A probe that fails for its own sake does not keep shut what it has proven to work."""
    noted = HoldBoard(BACKOFF)
    noted._holds = {key: Hold(*key, PROBLEM, START_MS, 1, START_MS) for key in _HOLDS.values()}
    next_step = Step.SEND if "follows" in name else None
    changes = noted.record(WEB, _OUTCOMES[name], at(), 0.5, next_step)
    opened = {(change.hold.scope, change.hold.subject) for change in changes if isinstance(change, Opening)}
    assert opened == {_HOLDS[each] for each in _OPENED[name]}


def test_a_call_that_went_out_shows_that_keys_are_there() -> None:
    """Keys that were missing here and came are no hold any more, though the network is missing next."""
    noted = board((WEB, Withheld(Scope.CREDENTIALS, NO_REQUEST)))
    noted.record(WEB, NO_CONNECTION, at(60 * MINUTE), 0.5)
    assert noted.find(Scope.CREDENTIALS, EVERYTHING) is None
    refused = board((WEB, EXPIRED))
    refused.record(WEB, NO_CONNECTION, at(60 * MINUTE), 0.5)
    assert refused.find(Scope.CREDENTIALS, EVERYTHING) is not None


def test_another_associations_success_does_not_open_what_is_denied_to_one() -> None:
    """A document that IAM denies stays held while others are delivered."""
    noted = board((WEB, DENIED))
    assert noted.record(OTHER, Delivered("id"), at(1), 0.5) == ()
    assert noted.find(Scope.PERMISSION, WEB) is not None


def test_another_nodes_success_does_not_open_a_node() -> None:
    """Each node proves itself."""
    noted = board((WEB, INVALID))
    noted.record(THIRD, Delivered("id"), at(1), 0.5)
    assert noted.find(Scope.NODE, Node(NODE)) is not None
    (change,) = noted.record(OTHER, Delivered("id"), at(2), 0.5)
    assert isinstance(change, Opening)


# Probes.


def test_probes_follow_the_backoff() -> None:
    """A service that is away for hours is probed every few minutes, by one call at a time."""
    noted = HoldBoard(BACKOFF)
    now_ms, waits = 0, []
    for failures in range(1, 15):
        noted.record(WEB, EXPIRED, at(now_ms), ALMOST_ONE)
        hold = noted.find(Scope.CREDENTIALS, EVERYTHING)
        assert hold is not None
        assert hold.failures == failures
        waits.append(hold.next_probe_ms - START_MS - now_ms)
        now_ms = hold.next_probe_ms - START_MS
    assert waits == [BACKOFF.delay_ms(failures, ALMOST_ONE) for failures in range(1, 15)]
    assert waits[-1] == 5 * MINUTE


def test_a_failed_probe_keeps_the_time_the_hold_began() -> None:
    """`status` shows since when the scope is shut, and the latest reason."""
    noted = board((WEB, EXPIRED))
    newer = replace(EXPIRED, problem=replace(PROBLEM, message="newer"))
    (change,) = noted.record(OTHER, newer, at(1000), 0.5)
    assert isinstance(change, Remaining)
    assert change.hold.since_ms == START_MS
    assert change.hold.problem.message == "newer"


def test_a_call_that_was_out_when_the_scope_was_shut_is_no_failed_probe() -> None:
    """Four calls in flight that all find the credentials expired are one failure, not four."""
    noted = board((WEB, EXPIRED), chance=ALMOST_ONE)
    before = probe_ms(noted, Scope.CREDENTIALS)
    assert noted.record(OTHER, EXPIRED, at(999), ALMOST_ONE) == ()
    assert probe_ms(noted, Scope.CREDENTIALS) == before


def test_a_retry_after_hint_puts_the_probe_off() -> None:
    """An endpoint that says when it will be back is not probed before."""
    hinting = Unavailable(PROBLEM, Effect.NONE, 30_000)
    noted = board((WEB, hinting), (OTHER, hinting), (WEB, hinting), chance=0.0)
    assert probe_ms(noted, Scope.ENDPOINT) == START_MS + 30_000


def test_of_several_holds_the_last_to_be_probed_decides() -> None:
    """Two reasons to wait are waited out together."""
    noted = board((WEB, EXPIRED), (WEB, SKEWED), chance=0.5)
    noted.record(OTHER, SKEWED, at(500), 0.5)
    assert noted.admission(at(500)) == Shut(START_MS + 500 + BACKOFF.delay_ms(2, 0.5))


def test_whoever_mended_something_has_it_probed_at_once() -> None:
    """A new credentials file, or a reload, is tried now and not in five minutes."""
    noted = board((WEB, EXPIRED), chance=ALMOST_ONE)
    assert noted.hurry(Scope.CREDENTIALS, at(10))
    assert noted.admission(at(10)) == Probe()
    assert not noted.hurry(Scope.CREDENTIALS, at(10))
    assert not noted.hurry(Scope.NODE, at(10))


# What it means for the report.


def changes_of(noted: HoldBoard) -> tuple[Change, ...]:
    """Shut the endpoint."""
    return tuple(change for _ in range(3) for change in noted.record(WEB, NO_CONNECTION, at(), 0.5))


def test_failures_behind_a_shut_endpoint_are_the_endpoints() -> None:
    """During an outage no report is charged an attempt, and doubt about what was applied remains."""
    noted = HoldBoard(BACKOFF)
    lost = Unavailable(PROBLEM, Effect.POSSIBLE)
    assert noted.for_the_report(WEB, lost) == lost
    assert [type(change) for change in changes_of(noted)] == [Shutting]
    assert noted.for_the_report(WEB, lost) == Withheld(Scope.ENDPOINT, PROBLEM, Effect.POSSIBLE)
    assert noted.for_the_report(WEB, NO_CONNECTION) == Withheld(Scope.ENDPOINT, PROBLEM)


def test_a_denied_association_waits_until_its_own_probe() -> None:
    """Nothing else waits for it, and it does not spin."""
    noted = board((WEB, DENIED))
    assert noted.for_the_report(WEB, DENIED) == replace(DENIED, until_ms=START_MS + 500)


def test_where_everything_is_denied_the_scope_decides_when_to_probe() -> None:
    """Behind a hold of everything a report has no time of its own."""
    noted = board((OTHER, DENIED), (THIRD, DENIED), (WEB, DENIED))
    assert noted.for_the_report(WEB, DENIED) == DENIED


@pytest.mark.parametrize(
    "failure", [Busy(PROBLEM), Throttled(PROBLEM), Unserved(PROBLEM), Refused(PROBLEM), INVALID]
)
def test_any_other_failure_is_the_reports(failure: Busy | Throttled | Unserved | Refused | Withheld) -> None:
    """A shut endpoint excuses nothing that the service answered."""
    noted = HoldBoard(BACKOFF)
    changes_of(noted)
    assert noted.for_the_report(WEB, failure) is failure
