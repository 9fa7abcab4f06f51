"""What a reply means, or that none came: an `Outcome` or an `Answer`.

Rules, in their order:
  1. 200 counts only with an AssociationDescription: the SDK takes an empty or cut body for a success.
  2. A reply that the service cannot have written is a proxy's: below 500 it is `Unreachable`.
  3. A server error is `Unavailable`. The service's own says that the call failed: no effect. A gateway's page
     says nothing about what happened behind it: the effect is possible. (Were the service wrong about itself,
     the repeated call would be answered StatusUnchanged, which is an acknowledgement.)
  4. Below 500 the error code decides (``codes.py``), and for a signature the clocks: with the reply's Date far
     from the time the call was signed with, or a text that says so, the clock is at fault, else the credentials.
  5. Denied or not offered, DescribeAssociation is `NotToBeHad`: updates go on without asking.
  6. Without a reply, what counts is whether the call may have been read: then its effect is possible.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Final

from ssm_status_reporter.domain.association import Association
from ssm_status_reporter.domain.outcome import (
    Answer,
    Busy,
    Delivered,
    Effect,
    Failure,
    NotToBeHad,
    Outcome,
    Problem,
    Refused,
    Scope,
    Throttled,
    Unavailable,
    Unchanged,
    Unreachable,
    Unserved,
    Withheld,
)
from ssm_status_reporter.ssm.codes import MEANINGS, PROXY, Meaning, Operation, hint
from ssm_status_reporter.ssm.reply import (
    Reply,
    ServiceError,
    has_description,
    held_status,
    request_id,
    retry_after_ms,
    service_error,
    skew_ms,
    text,
)
from ssm_status_reporter.ssm.text import plain

CLOCK_SKEW_MS_MIN: Final = 4 * 60 * 1000
"""A signature refused with the clocks this far apart was refused for that: the service tolerates 5 minutes."""
CLOCK_TEXTS: Final = ("signature expired", "not yet current")
"""What the service writes when it refuses a signature for its time."""

OK: Final = 200
REQUEST_TIMEOUT: Final = 408
TOO_MANY_REQUESTS: Final = 429
SERVER_ERROR: Final = 500
NOT_IMPLEMENTED: Final = 501


class Break(StrEnum):
    """How a call ended without a whole reply; the value is the problem's code."""

    CONNECTION = "ConnectionError"
    CONNECT_TIMEOUT = "ConnectTimeout"
    TLS = "TLSError"
    PROXY = "ProxyError"
    TIMEOUT = "Timeout"
    LOST = "ConnectionLost"
    OVERSIZED = "ReplyTooLarge"


_BREAK_HINTS: Final = {
    Break.CONNECTION: "check the network, the name resolution, aws.endpoint_url and the region",
    Break.CONNECT_TIMEOUT: "check the network, a firewall, the VPC endpoint's security group and HTTPS_PROXY",
    Break.TLS: "check aws.ca_bundle, this machine's clock, and whether a proxy intercepts TLS",
    Break.PROXY: "check HTTPS_PROXY with its user and password, and NO_PROXY",
    Break.TIMEOUT: "check the network; delivery.timeout bounds one call",
    Break.LOST: "check the network, and any proxy or gateway in between",
    Break.OVERSIZED: "the reply is not the service's: check aws.endpoint_url, and any proxy in between",
}
_AFTER_SENDING: Final = frozenset({Break.TIMEOUT, Break.LOST, Break.OVERSIZED})
"""The call may have been read, and applied."""


def update_outcome(reply: Reply, association: Association) -> Outcome:
    """What came of one UpdateAssociationStatus."""
    if reply.status == OK:
        if has_description(reply):
            return Delivered(request_id(reply))
        return Unavailable(_no_description(reply), Effect.POSSIBLE, retry_after_ms(reply))
    error = service_error(reply)
    if error.code and MEANINGS.get(error.code) is Meaning.UNCHANGED:
        return Unchanged(request_id(reply))
    return _failure(reply, error, Operation.UPDATE, association)


def describe_answer(reply: Reply, association: Association) -> Answer:
    """What came of one DescribeAssociation."""
    if reply.status == OK:
        held = held_status(reply)
        return held or Unavailable(_no_description(reply), Effect.NONE, retry_after_ms(reply))
    error = service_error(reply)
    ending = _ends_the_asking(reply, error)
    if ending is not None:
        return NotToBeHad(_problem(reply, error, hint(ending, Operation.DESCRIBE, association)))
    return _failure(reply, error, Operation.DESCRIBE, association)


def _ends_the_asking(reply: Reply, error: ServiceError) -> Meaning | None:
    """Why asking on would be in vain, or None: any other failure passes."""
    if reply.status == NOT_IMPLEMENTED:
        return Meaning.NOT_OFFERED
    meaning = MEANINGS.get(error.code or "")
    denied = meaning in (Meaning.PERMISSION, Meaning.NOT_OFFERED) and reply.status < SERVER_ERROR
    return meaning if denied else None


def broken_off(kind: Break, detail: str, operation: Operation) -> Unreachable | Unavailable:
    """What it means that no reply came, or not the whole of one."""
    problem = Problem(kind.value, plain(detail), None, _BREAK_HINTS[kind])
    if kind in _AFTER_SENDING:
        return Unavailable(problem, _possible(operation))
    return Unreachable(problem)


def _failure(reply: Reply, error: ServiceError, operation: Operation, association: Association) -> Failure:
    meaning = MEANINGS.get(error.code or "", Meaning.UNKNOWN)
    if error.code is None and reply.status == TOO_MANY_REQUESTS:
        meaning = Meaning.THROTTLED
    elif reply.status >= SERVER_ERROR or (error.code is None and reply.status == REQUEST_TIMEOUT):
        meaning = Meaning.THROTTLED if meaning is Meaning.THROTTLED else Meaning.TRANSIENT
    elif error.code is None:
        return Unreachable(_problem(reply, error, PROXY))
    elif meaning is Meaning.SIGNATURE and _clocks_apart(reply, error.message):
        meaning = Meaning.CLOCK
    elif meaning is Meaning.UNCHANGED:
        meaning = Meaning.UNKNOWN  # answers no question
    problem = _problem(reply, error, hint(meaning, operation, association))
    if meaning is Meaning.THROTTLED:
        return Throttled(problem, retry_after_ms(reply))
    if meaning is Meaning.TRANSIENT:
        return Unavailable(problem, _possible(operation), retry_after_ms(reply))
    return _FAILURES[meaning](problem)


_FAILURES: Final[dict[Meaning, Callable[[Problem], Failure]]] = {
    Meaning.BUSY: Busy,
    Meaning.REFUSED: Refused,
    Meaning.ABSENT: Unserved,
    Meaning.NOT_OFFERED: Unserved,
    Meaning.UNKNOWN: Unserved,
    Meaning.NODE: lambda problem: Withheld(Scope.NODE, problem),
    Meaning.CREDENTIALS: lambda problem: Withheld(Scope.CREDENTIALS, problem),
    Meaning.SIGNATURE: lambda problem: Withheld(Scope.CREDENTIALS, problem),
    Meaning.CLOCK: lambda problem: Withheld(Scope.CLOCK, problem),
    Meaning.PERMISSION: lambda problem: Withheld(Scope.PERMISSION, problem),
}


def _clocks_apart(reply: Reply, message: str) -> bool:
    if any(clock_text in message.lower() for clock_text in CLOCK_TEXTS):
        return True
    skew = skew_ms(reply)
    return skew is not None and abs(skew - reply.correction_ms) >= CLOCK_SKEW_MS_MIN


def _problem(reply: Reply, error: ServiceError, remedy: str) -> Problem:
    message = error.message or f"HTTP {reply.status} without a message"
    return Problem(error.code or f"HTTP{reply.status}", message, request_id(reply), remedy)


def _no_description(reply: Reply) -> Problem:
    return Problem(
        "NoDescription",
        plain(f"HTTP 200 without a readable AssociationDescription: {text(reply) or 'an empty body'}"),
        request_id(reply),
        "the reply was cut, or is not the service's: check any proxy in between",
    )


def _possible(operation: Operation) -> Effect:
    return Effect.POSSIBLE if operation is Operation.UPDATE else Effect.NONE
