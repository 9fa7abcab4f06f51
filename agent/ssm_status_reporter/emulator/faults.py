"""The fault plan: what the emulator does to requests, as values; ``plan_file`` reads it from a file.

Rules:
  * A rule matches by operation, document and instance id, each a pattern (``*``, ``?``, ``[…]``; default
    ``*``). Rules are looked at in order; latencies of all that match add up, the first fault wins.
  * ``errors`` is a sequence: each matching request takes the next one, an entry with ``times`` serves so
    many (0: for ever), and what is used up matters no more. An entry is an error code, a kind of fault, or
    a `Fault` in full.
  * A fault strikes before the service's own checks. Its ``effect`` says whether the request is nevertheless
    carried out: ``lose_reply`` and ``cut_200`` are, the others are not unless they say so.
  * Latency is processing time: another update of the same association meanwhile is TooManyUpdates.

`EXAMPLE` is such a file; ``ssm-status-reporter emulator --help`` shows it.
"""

from enum import StrEnum
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct, field

from ssm_status_reporter.domain.quantity import DURATION_PATTERN, duration_ms, duration_text

EXAMPLE: Final = """\
compare: status+message          # what StatusUnchanged compares: status | status+message
                                 #   | status+message+additional_info
associations: any                # every (instance_id, document) asked for exists; or those listed:
#  - {instance_id: i-0123456789abcdef0, document: AWS-RunPatchBaseline}
nodes: {invalid: ["i-dead*"]}    # InvalidInstanceId
documents: {invalid: ["Gone-*"]} # InvalidDocument
credentials:                     # without accept, every access key id is
  accept: [AKIAGOOD, AKIAOLD]    # others: UnrecognizedClientException
  expired: [AKIAOLD]             # ExpiredTokenException
deny:                            # AccessDeniedException
  - {operation: DescribeAssociation, instance_id: "mi-*"}
clock_skew: -1s                  # the emulator's clock against this machine's
outages: [{after: 50s, for: 10s}]  # connections are closed; counted from the start
rules:
  - {operation: UpdateAssociationStatus, latency: 20ms}
  - throttle: {rate: 50, burst: 100}      # calls a second; ThrottlingException beyond
  - document: AWS-RunPatchBaseline
    errors:                               # one a request, in turn
      - InternalServerError               # any error code
      - {code: ThrottlingException, retry_after: 3s, times: 2}
      - {code: ServiceUnavailable, status: 503, message: "come back later", effect: applied}
      - reset                             # TCP RST, nothing applied
      - hang                              # no answer till the client gives up
      - lose_reply                        # applied, then the connection is closed
      - empty_200                         # a 200 without a body
      - cut_200                           # applied, and a 200 whose JSON is cut
      - {kind: html, status: 407}         # a proxy's page; 502 unless said
"""

CLOCK_SKEW_MS_MAX: Final = 10 * 366 * 24 * 60 * 60 * 1000
"""Ten years: beyond what a battery loses, and far from the ends of what a date can say."""

Duration = Annotated[str, Meta(pattern=DURATION_PATTERN)]
SignedDuration = Annotated[str, Meta(pattern=DURATION_PATTERN.replace("^", "^-?", 1))]
Code = Annotated[str, Meta(pattern="^[A-Z][A-Za-z0-9.]{2,63}$")]


class Compared(StrEnum):
    """Which members StatusUnchanged compares; the service documents none."""

    STATUS = "status"
    STATUS_AND_MESSAGE = "status+message"
    ALL = "status+message+additional_info"


class Kind(StrEnum):
    """The kinds of fault."""

    ERROR = "error"
    RESET = "reset"
    HANG = "hang"
    LOSE_REPLY = "lose_reply"
    EMPTY_200 = "empty_200"
    CUT_200 = "cut_200"
    HTML = "html"


class Effect(StrEnum):
    """Whether the request a fault strikes is carried out all the same."""

    NONE = "none"
    APPLIED = "applied"


CodeOrKind = Annotated[
    str, Meta(pattern=rf"^([A-Z][A-Za-z0-9.]{{2,63}}|{'|'.join(kind for kind in Kind if kind != Kind.ERROR)})$")
]


class _Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the plan."""


class Match(_Part, frozen=True, kw_only=True):
    """Which requests; patterns as in file names, case counts. What a request does not name matches only ``*``."""

    operation: str = "*"
    document: str = "*"
    instance_id: str = "*"


class Fault(_Part, frozen=True, kw_only=True):
    """One fault in full. ``status`` and ``message`` default to the code's own."""

    kind: Kind = Kind.ERROR
    code: Code | None = None
    status: Annotated[int, Meta(ge=400, le=599)] | None = None
    message: str | None = None
    retry_after: Duration | None = None
    effect: Effect | None = None
    times: Annotated[int, Meta(ge=0)] = 1

    def __post_init__(self) -> None:
        """Refuse combinations that mean nothing."""
        if (self.kind is Kind.ERROR) != (self.code is not None):
            raise ValueError(
                "name either an error code (code: ThrottlingException) or a kind other than error (kind: hang)"
            )
        if self.status is not None and self.kind not in {Kind.ERROR, Kind.HTML}:
            raise ValueError(f"{self.kind} has no status")

    @property
    def applied(self) -> bool:
        """Whether the request is carried out all the same."""
        if self.effect is None:
            return self.kind in {Kind.LOSE_REPLY, Kind.CUT_200}
        return self.effect is Effect.APPLIED


class Throttle(_Part, frozen=True, kw_only=True):
    """A token bucket: so many calls a second, so many at once."""

    rate: Annotated[float, Meta(gt=0)]
    burst: Annotated[int, Meta(ge=1)] = 1


class Rule(Match, frozen=True, kw_only=True):
    """What happens to matching requests."""

    latency: Duration = "0s"
    throttle: Throttle | None = None
    errors: tuple[CodeOrKind | Fault, ...] = ()


class Outage(_Part, frozen=True, kw_only=True):
    """A time in which connections are closed, counted from when the plan was set."""

    after: Duration
    lasting: Duration = field(name="for")


class Invalid(_Part, frozen=True, kw_only=True):
    """Patterns of what the service calls invalid."""

    invalid: tuple[str, ...] = ()


class Credentials(_Part, frozen=True, kw_only=True):
    """Access key ids; ``accept`` None accepts every one."""

    accept: tuple[str, ...] | None = None
    expired: tuple[str, ...] = ()


class Listed(_Part, frozen=True, kw_only=True):
    """An association that exists from the start."""

    instance_id: str
    document: str


class FaultPlan(_Part, frozen=True, kw_only=True):
    """The whole plan; the default one is a healthy service that knows every association asked for."""

    compare: Compared = Compared.STATUS_AND_MESSAGE
    associations: Literal["any"] | tuple[Listed, ...] = "any"
    nodes: Invalid = Invalid()
    documents: Invalid = Invalid()
    credentials: Credentials = Credentials()
    deny: tuple[Match, ...] = ()
    clock_skew: SignedDuration = "0s"
    outages: tuple[Outage, ...] = ()
    rules: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a clock that no date can show."""
        if abs(skew_ms(self.clock_skew)) > CLOCK_SKEW_MS_MAX:
            raise ValueError(f"clock_skew: at most {duration_text(CLOCK_SKEW_MS_MAX)} either way")


def skew_ms(text: str) -> int:
    """Milliseconds in a duration that may be negative, such as ``-10m``."""
    return -duration_ms(text[1:]) if text.startswith("-") else duration_ms(text)
