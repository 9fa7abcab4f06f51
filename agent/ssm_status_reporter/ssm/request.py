"""What a call says: an association and a report as the body of a request, and the service's dates back.

Rules:
  * ``Date`` is epoch seconds with milliseconds, as the SDK writes it, exact both ways: so large a number, as a
    double, is off by less than a microsecond, and rounding restores it.
  * The bodies are JSON 1.1's; a test holds them against those of the SDK's serialiser.
"""

import msgspec

from ssm_status_reporter.domain.association import Association
from ssm_status_reporter.domain.report import Report


class _Status(msgspec.Struct, frozen=True):
    name: str = msgspec.field(name="Name")
    date: float = msgspec.field(name="Date")
    message: str = msgspec.field(name="Message")
    additional_info: str | msgspec.UnsetType = msgspec.field(name="AdditionalInfo", default=msgspec.UNSET)


class _Update(msgspec.Struct, frozen=True):
    instance_id: str = msgspec.field(name="InstanceId")
    document: str = msgspec.field(name="Name")
    status: _Status = msgspec.field(name="AssociationStatus")


class _Question(msgspec.Struct, frozen=True):
    instance_id: str = msgspec.field(name="InstanceId")
    document: str = msgspec.field(name="Name")


def update_body(association: Association, report: Report) -> bytes:
    """The body of UpdateAssociationStatus."""
    info = msgspec.UNSET if report.additional_info is None else report.additional_info
    status = _Status(report.status, report.observed_at_ms / 1000, report.message, info)
    return msgspec.json.encode(_Update(association.instance_id, association.document, status))


def describe_body(association: Association) -> bytes:
    """The body of DescribeAssociation."""
    return msgspec.json.encode(_Question(association.instance_id, association.document))


def epoch_ms(epoch_seconds: float) -> int:
    """Epoch seconds as the service writes them, in whole milliseconds."""
    return round(epoch_seconds * 1000)
