"""The report: which statuses there are, what makes two reports equal, what does not fit is cut visibly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain_support import is_cut, report
from ssm_status_reporter.domain.limits import STATUS_TEXT_CHARS_MAX
from ssm_status_reporter.domain.report import RUN_STATUSES, Comparison, Report, Status, cut, default_message

STATUS, BOTH = Comparison.STATUS, Comparison.STATUS_AND_MESSAGE


@pytest.mark.parametrize(
    ("run_status", "status"),
    [
        ("Pending", "Pending"),
        ("NotStarted", "Pending"),
        ("InProgress", "Pending"),
        ("SuccessAndReboot", "Pending"),
        ("PassedAndReboot", "Pending"),
        ("Success", "Success"),
        ("Skipped", "Success"),
        ("Failed", "Failed"),
        ("TimedOut", "Failed"),
        ("Cancelled", "Failed"),
    ],
)
def test_every_run_status_is_reported_as_one_that_the_service_knows(run_status: str, status: str) -> None:
    """A runner may say how its run ended in the agent's words; the service gets one of its three."""
    assert RUN_STATUSES[run_status] == Status(status)
    assert len(RUN_STATUSES) == 10


@pytest.mark.parametrize(
    ("other", "by_status", "by_both"),
    [
        (report("Success", "done", at_ms=0), True, True),
        (report("Success", "done", at_ms=5, info="other"), True, True),
        (report("Success", "done twice"), True, False),
        (report("Failed", "done"), False, False),
    ],
)
def test_two_reports_are_the_same_as_far_as_the_service_compares(
    other: Report, *, by_status: bool, by_both: bool
) -> None:
    """A new date alone is no news; a new message is, unless the service compares the status alone."""
    one = report("Success", "done")
    assert one.same_as(other, STATUS) is by_status
    assert one.same_as(other, BOTH) is by_both


@given(st.text(max_size=3000))
def test_a_text_that_is_cut_fits_and_shows_it(text: str) -> None:
    """A long message arrives up to the service's limit, and its reader sees that there was more."""
    short = cut(text)
    assert len(short) <= STATUS_TEXT_CHARS_MAX
    assert short == text if len(text) <= STATUS_TEXT_CHARS_MAX else is_cut(short)
    assert text.startswith(short) or is_cut(short)


def test_a_text_that_just_fits_is_not_cut() -> None:
    """1,024 characters are within the limit."""
    assert cut("x" * STATUS_TEXT_CHARS_MAX) == "x" * STATUS_TEXT_CHARS_MAX
    assert len(cut("x" * (STATUS_TEXT_CHARS_MAX + 1))) == STATUS_TEXT_CHARS_MAX


def test_the_default_message_names_the_document_and_the_status_as_given() -> None:
    """A result without a message is reported as `<document>: <status as given>`."""
    assert default_message("Deploy-Web", "TimedOut") == "Deploy-Web: TimedOut"
