"""What a call says: an association and a report as the SDK's arguments, and back.

Rules:
  * ``Date`` is exact to the millisecond both ways. The SDK takes a datetime and writes epoch seconds, rounding
    once, from whole microseconds; the datetime is therefore built from integers, never from a float.
  * An epoch second with milliseconds, read as a double, is off by less than a microsecond: rounding restores it.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from ssm_status_reporter.domain.association import Association
from ssm_status_reporter.domain.report import Report

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def update_arguments(association: Association, report: Report) -> dict[str, Any]:
    """The keyword arguments of ``update_association_status``."""
    status: dict[str, Any] = {
        "Name": report.status,
        "Date": moment(report.observed_at_ms),
        "Message": report.message,
    }
    if report.additional_info is not None:
        status["AdditionalInfo"] = report.additional_info
    return {"InstanceId": association.instance_id, "Name": association.document, "AssociationStatus": status}


def describe_arguments(association: Association) -> dict[str, Any]:
    """The keyword arguments of ``describe_association``."""
    return {"InstanceId": association.instance_id, "Name": association.document}


def moment(epoch_ms: int) -> datetime:
    """The moment so many milliseconds after 1970-01-01T00:00:00Z."""
    return EPOCH + timedelta(milliseconds=epoch_ms)


def epoch_ms(epoch_seconds: float) -> int:
    """Epoch seconds as the service writes them, in whole milliseconds."""
    return round(epoch_seconds * 1000)
