"""What an answer of the service means: sum types that carry their reason, never a boolean.

An `Outcome` is what came of one UpdateAssociationStatus; an `Answer` is what came of one
DescribeAssociation. Both share the failures. Each failure carries a `Problem`, which is what an operator
reads in the log, in ``status`` and in a dead letter.

The table from error codes to outcomes is in ``ssm/codes.py``, read by ``ssm/answer.py``; what an outcome leads to is in
``domain/settlement.py`` and ``domain/failure.py`` (the report), ``domain/answer.py`` (a question) and
``domain/holds.py`` (everything else).
"""

from dataclasses import dataclass
from enum import StrEnum

from ssm_status_reporter.domain.report import Report


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as the operator needs it: what was answered, by which request, and what to do."""

    code: str
    message: str
    request_id: str | None = None
    hint: str | None = None


class Scope(StrEnum):
    """What a failure concerns when it concerns more than one report."""

    CREDENTIALS = "credentials"
    PERMISSION = "permission"
    CLOCK = "clock"
    ENDPOINT = "endpoint"
    NODE = "node"


class Effect(StrEnum):
    """Whether a call that failed may nevertheless have been applied by the service."""

    NONE = "none"
    POSSIBLE = "possible"


@dataclass(frozen=True, slots=True)
class Delivered:
    """The service took the report: it answered with the association's description."""

    request_id: str | None


@dataclass(frozen=True, slots=True)
class Unchanged:
    """StatusUnchanged: the service holds this status already, which is an acknowledgement."""

    request_id: str | None


@dataclass(frozen=True, slots=True)
class Busy:
    """TooManyUpdates: another update of the same association is under way."""

    problem: Problem


@dataclass(frozen=True, slots=True)
class Throttled:
    """The service asks for a lower rate."""

    problem: Problem
    retry_after_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Unreachable:
    """No connection: refused, no name, no TLS, a proxy in between. No association's own fault."""

    problem: Problem


@dataclass(frozen=True, slots=True)
class Unavailable:
    """A server error, a timeout, a cut or empty reply. May be this association's alone, may be everybody's."""

    problem: Problem
    effect: Effect
    retry_after_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Unserved:
    """The service knows no such association here (yet), or answers an error nobody documented: park it."""

    problem: Problem


@dataclass(frozen=True, slots=True)
class Refused:
    """The service will never take this report: a dead letter."""

    problem: Problem


@dataclass(frozen=True, slots=True)
class Withheld:
    """The failure is the scope's, not the report's: the report waits, uncharged, until the scope opens.

    ``until_ms`` (steady) is set when this report alone waits, until then.
    """

    scope: Scope
    problem: Problem
    effect: Effect = Effect.NONE
    until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """DescribeAssociation: the status the service holds. ``report.status`` may be a name the API's model lacks."""

    report: Report


@dataclass(frozen=True, slots=True)
class HeldNothing:
    """DescribeAssociation: the association is there and has no status yet."""


@dataclass(frozen=True, slots=True)
class NotToBeHad:
    """DescribeAssociation is denied or not offered here: go on without asking."""

    problem: Problem


Failure = Busy | Throttled | Unreachable | Unavailable | Unserved | Refused | Withheld
Outcome = Delivered | Unchanged | Failure
Answer = Held | HeldNothing | NotToBeHad | Failure
