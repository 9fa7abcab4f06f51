"""The reply: HTTP as it came, and what can be read from it.

Reading raises nothing, whatever a reply holds: each part is there, or it is None.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, Final

import msgspec

from ssm_status_reporter.domain.limits import RETRY_AFTER_MS_MAX
from ssm_status_reporter.domain.outcome import Held, HeldNothing
from ssm_status_reporter.domain.report import Report
from ssm_status_reporter.ssm.request import epoch_ms
from ssm_status_reporter.ssm.text import REQUEST_ID_CHARS_MAX, plain, printable


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP reply. Header names are in lower case.

    ``received_at_ms`` is our wall clock; ``correction_ms`` is what was added to it when the call was signed.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    received_at_ms: int
    correction_ms: int


@dataclass(frozen=True, slots=True)
class ServiceError:
    """What an error reply says. ``code`` is None when this is not the service's JSON; the text is fit to print."""

    code: str | None
    message: str


_EpochSeconds = Annotated[float, msgspec.Meta(ge=-62_135_596_800, le=253_402_300_799)]
"""The years 1 to 9999: what a date can be."""


class _ErrorBody(msgspec.Struct):
    type: str | None = msgspec.field(default=None, name="__type")
    lower: Any = msgspec.field(default=None, name="message")
    upper: Any = msgspec.field(default=None, name="Message")


class _Anything(msgspec.Struct):
    """An object, whatever it holds."""


class _UpdateBody(msgspec.Struct):
    description: _Anything | None = msgspec.field(default=None, name="AssociationDescription")


class _Status(msgspec.Struct, rename="pascal"):
    name: str
    date: _EpochSeconds
    message: str = ""
    additional_info: str | None = None


class _Description(msgspec.Struct):
    status: _Status | None = msgspec.field(default=None, name="Status")


class _DescribeBody(msgspec.Struct):
    description: _Description | None = msgspec.field(default=None, name="AssociationDescription")


_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""All that decoding strange bytes raises."""
_error_body: Final = msgspec.json.Decoder(_ErrorBody)
_update_body: Final = msgspec.json.Decoder(_UpdateBody)
_describe_body: Final = msgspec.json.Decoder(_DescribeBody)


def has_description(reply: Reply) -> bool:
    """Whether the body holds an AssociationDescription."""
    try:
        return _update_body.decode(reply.body).description is not None
    except _UNREADABLE:
        return False


def held_status(reply: Reply) -> Held | HeldNothing | None:
    """The status in the body's AssociationDescription; None without a description that can be read."""
    try:
        description = _describe_body.decode(reply.body).description
    except _UNREADABLE:
        return None
    if description is None:
        return None
    status = description.status
    if status is None:
        return HeldNothing()
    return Held(Report(status.name, status.message, status.additional_info, epoch_ms(status.date)))


def service_error(reply: Reply) -> ServiceError:
    """The error in the body, or in the header that stands in for it."""
    try:
        body = _error_body.decode(reply.body)
    except _UNREADABLE:
        body = _ErrorBody()
    # As the protocol allows: namespace#Code:address.
    named = body.type or reply.headers.get("x-amzn-errortype") or ""
    code = plain(named.partition(":")[0].rpartition("#")[2])
    if not code:
        return ServiceError(None, plain(f"HTTP {reply.status}: {text(reply)}"))
    message = body.lower if isinstance(body.lower, str) else body.upper
    return ServiceError(code, plain(message if isinstance(message, str) else ""))


def text(reply: Reply) -> str:
    """The body as text, to be quoted."""
    return reply.body.decode("utf-8", errors="replace")


def request_id(reply: Reply) -> str | None:
    """The request id for the service's support."""
    given = reply.headers.get("x-amzn-requestid") or reply.headers.get("x-amz-request-id") or ""
    return printable(given[:REQUEST_ID_CHARS_MAX]) or None


def retry_after_ms(reply: Reply) -> int | None:
    """The Retry-After header, in seconds or as a date, bounded; None when there is none that can be read."""
    given = reply.headers.get("retry-after", "").strip()
    if given.isascii() and given.isdigit():
        # A number of any length: ten digits already exceed the bound.
        return min(int(given[:10]) * 1000, RETRY_AFTER_MS_MAX)
    until_ms = _http_date_ms(given)
    if until_ms is None:
        return None
    # Both dates by the service's clock, where there are both.
    dated_ms = _http_date_ms(reply.headers.get("date"))
    since_ms = reply.received_at_ms if dated_ms is None else dated_ms
    return min(max(until_ms - since_ms, 0), RETRY_AFTER_MS_MAX)


def skew_ms(reply: Reply) -> int | None:
    """How far the service's clock is ahead of ours, by its Date header; None when there is no such header.

    The header counts whole seconds, so half a second more is its best guess.
    """
    dated_ms = _http_date_ms(reply.headers.get("date"))
    return None if dated_ms is None else dated_ms + 500 - reply.received_at_ms


def _http_date_ms(given: str | None) -> int | None:
    if not given:
        return None
    try:
        dated = parsedate_to_datetime(given)
        return round((dated if dated.tzinfo else dated.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
