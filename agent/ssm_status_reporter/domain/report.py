"""The report: one association status as the service takes it, and what makes two of them equal.

Rules:
  * The API knows three statuses. A run status maps onto one of them (``RUN_STATUSES``); no other is taken.
  * Message and additional information fit the API's limits; what is longer is cut so that a reader sees it.
  * Equality is the service's, not ours: which members it compares is documented nowhere, hence `Comparison`.

Source: https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_AssociationStatus.html
"""

from enum import StrEnum
from typing import Final

from msgspec import Struct

from ssm_status_reporter.domain.limits import CUT_MARK, STATUS_TEXT_CHARS_MAX


class Status(StrEnum):
    """The statuses of the API: AssociationStatusName."""

    PENDING = "Pending"
    SUCCESS = "Success"
    FAILED = "Failed"


RUN_STATUSES: Final[dict[str, Status]] = {
    "Pending": Status.PENDING,
    "Success": Status.SUCCESS,
    "Failed": Status.FAILED,
    "NotStarted": Status.PENDING,
    "InProgress": Status.PENDING,
    "SuccessAndReboot": Status.PENDING,
    "PassedAndReboot": Status.PENDING,
    "Skipped": Status.SUCCESS,
    "TimedOut": Status.FAILED,
    "Cancelled": Status.FAILED,
}
"""Every status a result may carry, and the API status it is reported as."""


class Comparison(StrEnum):
    """Which members the service compares to tell whether a status changed."""

    STATUS = "status"
    STATUS_AND_MESSAGE = "status+message"


class Report(Struct, frozen=True):
    """One association status, within the API's limits. ``observed_at_ms`` is wall time: the call's ``Date``."""

    status: str
    message: str
    additional_info: str | None
    observed_at_ms: int

    def same_as(self, other: "Report", comparison: Comparison) -> bool:
        """Whether the service would call the two unchanged."""
        if self.status != other.status:
            return False
        return comparison is Comparison.STATUS or self.message == other.message


def default_message(document: str, run_status: str) -> str:
    """The message of a result that brings none: the API requires at least one character."""
    return cut(f"{document}: {run_status}")


def cut(text: str) -> str:
    """The text within the API's 1,024 characters; the end of a longer one is replaced by a visible mark."""
    if len(text) <= STATUS_TEXT_CHARS_MAX:
        return text
    return text[: STATUS_TEXT_CHARS_MAX - len(CUT_MARK)] + CUT_MARK
