"""The journal: what is said of a hold and of an answer, and how loudly."""

from collections.abc import Mapping
from typing import Any

import pytest
import structlog

from domain_support import MINUTE, POLICY, PROBLEM, SECOND, acknowledged, at, report, result, seen
from ssm_status_reporter.domain.answer import answered
from ssm_status_reporter.domain.claim import claimed, questioned
from ssm_status_reporter.domain.holds import EVERYTHING, Change, Hold, Remaining, Turned
from ssm_status_reporter.domain.outcome import Answer, Held, HeldNothing, Scope
from ssm_status_reporter.domain.report import Report
from ssm_status_reporter.domain.result import Writer
from ssm_status_reporter.journal import say_answer, say_change
from ssm_status_reporter.outbox.operations import Settlement

HOLD = Hold(Scope.CREDENTIALS, EVERYTHING, PROBLEM, since_ms=0, failures=2, next_probe_ms=0)


def said_of(answer: Answer) -> Mapping[str, Any]:
    """The one line about an answer to reconciliation, where a success is acknowledged."""
    taken = questioned(acknowledged("Success"))
    assert taken is not None
    settled = answered(*taken, answer, at(MINUTE), 0.5, POLICY)
    with structlog.testing.capture_logs() as lines:
        say_answer(taken[1], answer, Settlement(settled), 0)
    (line,) = lines
    return line


def test_reconciliation_that_finds_nothing_new_is_not_said_once_an_association() -> None:
    """A gateway for 10,000 associations does not write as many lines every six hours."""
    assert said_of(Held(report("Success")))["log_level"] == "debug"


def test_a_status_that_somebody_else_wrote_is_said() -> None:
    """Who wonders why an association changed finds it in the journal."""
    line = said_of(Held(report("Failed", at_ms=1)))
    assert (line["log_level"], line["event"]) == ("info", "another writer's status is taken over")
    assert line["status"] == "Failed"


@pytest.mark.parametrize(
    ("held", "event"),
    [
        (report("Failed", at_ms=1), "the service holds it: no call"),
        (report("Success", at_ms=SECOND), "another writer's status is taken over"),
    ],
)
def test_a_report_that_a_question_ends_is_said_to_be_held_only_if_it_is(held: Report, event: str) -> None:
    """A report that a newer status made stale is not said to have reached the service (rule 11)."""
    waiting = seen(acknowledged("Pending"), result("Failed", at_ms=1, writer=Writer.SECOND), now=at(1))
    flying, claim = claimed(waiting, at(MINUTE), POLICY)
    settled = answered(flying, claim, Held(held), at(MINUTE), 0.5, POLICY)
    with structlog.testing.capture_logs() as lines:
        say_answer(claim, Held(held), Settlement(settled), 0)
    assert [(line["event"], line["log_level"]) for line in lines] == [(event, "info")]


@pytest.mark.parametrize("answer", [HeldNothing(), Held(report("Failed", at_ms=-1))])
def test_a_status_that_the_service_lost_is_said(answer: Answer) -> None:
    """An end that is taken back is not taken back in silence (rule 11)."""
    line = said_of(answer)
    assert (line["log_level"], line["status"]) == ("warning", "Success")
    assert line["event"] == "the service does not hold what it acknowledged: it goes out again"


@pytest.mark.parametrize(("change", "level"), [(Remaining(HOLD), "debug"), (Turned(HOLD), "warning")])
def test_a_hold_that_remains_is_said_when_its_reason_is_another(change: Change, level: str) -> None:
    """Keys that appeared and are expired are not "credentials loaded" and then silence."""
    with structlog.testing.capture_logs() as lines:
        say_change(change, 0)
    assert [(line["event"], line["log_level"]) for line in lines] == [("hold remains", level)]
