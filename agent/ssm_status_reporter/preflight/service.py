"""The service, as this machine reaches it: credentials, endpoint, clock and permission, by one question.

DescribeAssociation reads only. UpdateAssociationStatus is not tried, for it would change a status; what the daemon
met with it is in its outbox.

A question that one thing keeps from being answered says nothing of the others: each is told apart by what the answer
proves.
"""

from collections.abc import Iterator
from typing import Final

from ssm_status_reporter.domain.association import Association
from ssm_status_reporter.domain.limits import CLOCK_SKEW_MS_ADVISED, CREDENTIALS_LEFT_MS_ADVISED
from ssm_status_reporter.domain.outcome import (
    Answer,
    Held,
    HeldNothing,
    NotToBeHad,
    Problem,
    Scope,
    Throttled,
    Unavailable,
    Unreachable,
    Withheld,
)
from ssm_status_reporter.domain.rfc3339 import date_text
from ssm_status_reporter.preflight.finding import Finding, amiss, fine
from ssm_status_reporter.ssm.client import CREDENTIALS_HINT
from ssm_status_reporter.ssm.credentials import NoKeysError, Origin

CREDENTIALS: Final = "credentials"
ENDPOINT: Final = "endpoint"
CLOCK: Final = "clock"
PERMISSION: Final = "permission"
NODE: Final = "node"
_UNANSWERED: Final = frozenset({Scope.CREDENTIALS, Scope.CLOCK, Scope.ENDPOINT})
"""Scopes of failures that come before the permission is looked at."""
_UNKNOWN: Final = "mend what is amiss above, then run doctor again"
_SKEWED: Final = (
    "start time synchronisation (chrony, systemd-timesyncd); the daemon corrects its signatures meanwhile"
)


def credentials_finding(origin: Origin | NoKeysError, now_ms: int) -> Finding:
    """Whether there are keys, whence, and for how long."""
    if isinstance(origin, NoKeysError):
        return amiss(CREDENTIALS, f"{origin.code}: {origin}", CREDENTIALS_HINT)
    if origin.expires_at_ms is None:
        return fine(CREDENTIALS, f"by {origin.method}, without a known end")
    until = f"by {origin.method}, valid until {date_text(origin.expires_at_ms)}"
    if origin.expires_at_ms - now_ms < CREDENTIALS_LEFT_MS_ADVISED:
        return amiss(CREDENTIALS, until, "check what renews them: the instance role, or the SSM Agent")
    return fine(CREDENTIALS, until)


def answer_findings(
    answer: Answer, association: Association, address: str, skew_ms: int | None
) -> Iterator[Finding]:
    """What the answer to DescribeAssociation shows."""
    refused = answer.scope if isinstance(answer, Withheld) else None
    problem = None if isinstance(answer, Held | HeldNothing) else answer.problem
    if refused is Scope.CREDENTIALS and problem is not None and problem.request_id is not None:
        yield _amiss(CREDENTIALS, problem)
    yield from _reached(answer, address)
    if skew_ms is None:
        yield amiss(CLOCK, "not known: the service did not answer", _UNKNOWN)
    elif abs(skew_ms) > CLOCK_SKEW_MS_ADVISED or refused is Scope.CLOCK:
        yield amiss(CLOCK, f"{abs(skew_ms) / 1000:.0f} s {'behind' if skew_ms > 0 else 'ahead'}", _SKEWED)
    else:
        yield fine(CLOCK, f"within {CLOCK_SKEW_MS_ADVISED // 1000} s of the service's")
    if refused is Scope.NODE and problem is not None:
        yield _amiss(NODE, problem)
    if isinstance(answer, NotToBeHad):
        yield _amiss(PERMISSION, answer.problem)
    elif isinstance(answer, Unreachable | Unavailable | Throttled) or refused in _UNANSWERED:
        yield amiss(PERMISSION, "not known: the question was not answered", _UNKNOWN)
    elif refused is Scope.PERMISSION and problem is not None:
        yield _amiss(PERMISSION, problem)
    else:
        what = f"ssm:DescribeAssociation is allowed on {association}"
        yield fine(PERMISSION, f"{what}; ssm:UpdateAssociationStatus is not tried, for it would change a status")


def _reached(answer: Answer, address: str) -> Iterator[Finding]:
    match answer:
        case Unreachable(problem) | Unavailable(problem) | Throttled(problem) | Withheld(Scope.ENDPOINT, problem):
            yield _amiss(ENDPOINT, problem, f"{address}: ")
        case Withheld(Scope.CREDENTIALS, Problem(request_id=None)):
            yield amiss(ENDPOINT, f"{address}: not asked, without credentials", _UNKNOWN)
        case _:
            yield fine(ENDPOINT, f"{address} answers")


def _amiss(check: str, problem: Problem, before: str = "") -> Finding:
    request = f" [request {problem.request_id}]" if problem.request_id else ""
    return amiss(check, f"{before}{problem.code}: {problem.message}{request}", problem.hint or _UNKNOWN)
