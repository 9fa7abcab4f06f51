"""What a request is answered, and what a fault makes of it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from http import HTTPStatus
from typing import Final

from ssm_status_reporter.domain.quantity import duration_ms
from ssm_status_reporter.emulator.errors import ServiceError, body_of, status_of
from ssm_status_reporter.emulator.faults import Fault, Kind
from ssm_status_reporter.emulator.service import CONTENT_TYPE

CUT_BODY: Final = b'{"AssociationDescription":{"AssociationId":"4b3f5c2e-'
PROXY_PAGE: Final = (
    "<html><head><title>{0}</title></head><body><h1>{0}</h1><p>The proxy says no.</p></body></html>"
)


class Delivery(Enum):
    """What becomes of the connection."""

    REPLY = auto()
    CLOSE = auto()
    RESET = auto()
    HANG = auto()


DELIVERIES: Final[Mapping[Kind, Delivery]] = {
    Kind.RESET: Delivery.RESET,
    Kind.HANG: Delivery.HANG,
    Kind.LOSE_REPLY: Delivery.CLOSE,
}
"""Faults that leave no HTTP answer."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes out, and what the ledger says of it. ``status`` None: no HTTP answer at all."""

    answer: str
    status: int | None = None
    body: bytes = b""
    content_type: str = CONTENT_TYPE
    delivery: Delivery = Delivery.REPLY
    retry_after_s: int | None = None
    applied: bool = False


OUTAGE: Final = Reply("outage", delivery=Delivery.CLOSE)


def refusal(error: ServiceError, modelled: Mapping[str, int]) -> Reply:
    """The answer that an error is."""
    status, body = status_of(error, modelled), body_of(error, modelled)
    return Reply(error.code, status, body, retry_after_s=error.retry_after_s)


def struck(fault: Fault, modelled: Mapping[str, int], *, applied: bool) -> Reply:
    """What goes out instead, of a request that was carried out or was not."""
    if fault.code is not None:
        # Retry-After is whole seconds.
        retry_after_s = None if fault.retry_after is None else -(-duration_ms(fault.retry_after) // 1000)
        error = ServiceError(fault.code, fault.message, status=fault.status, retry_after_s=retry_after_s)
        return replace(refusal(error, modelled), applied=applied)
    if fault.kind is Kind.HTML:
        status = HTTPStatus.BAD_GATEWAY if fault.status is None else fault.status
        page = PROXY_PAGE.format(fault.message or int(status)).encode()
        return Reply(fault.kind, status, page, content_type="text/html", applied=applied)
    if fault.kind in DELIVERIES:
        return Reply(fault.kind, delivery=DELIVERIES[fault.kind], applied=applied)
    return Reply(fault.kind, HTTPStatus.OK, CUT_BODY if fault.kind is Kind.CUT_200 else b"", applied=applied)
