"""The narration: what the daemon logs and what the service records, in plain words, with the reason.

Rules:
  * Pure: what happened comes in as values, lines come out. Nothing is told that was not logged, recorded or
    read from the outbox.
  * One line an event. What another line tells as well is left out: of a call that succeeded the service's
    record is told and not the daemon's.
  * A reason is given once and left out when it would only be repeated.
  * A warning or an error that this module does not know is told as it stands.
  * ASCII alone: any terminal shows it.
"""

from dataclasses import dataclass, replace
from enum import Enum, StrEnum
from typing import Final

import msgspec

from ssm_status_reporter.demo import ssm_agent
from ssm_status_reporter.demo.daemon_process import WINDOW_SECONDS
from ssm_status_reporter.domain.observation import Finding
from ssm_status_reporter.emulator.faults import Kind
from ssm_status_reporter.emulator.ledger import Entry
from ssm_status_reporter.sources.agent_run import SOURCE
from ssm_status_reporter.ssm.codes import Operation

NOTICEABLE_SECONDS: Final = 0.05
"""What waits no longer than this goes out at once, to a reader."""
OUTAGE: Final = "outage"
"""The service's record of a request that met the outage. Whoever met it, or a reset, tells of it."""


class Actor(StrEnum):
    """Who does something."""

    RUNNER = "runner"
    AGENT = "agent"
    DAEMON = "daemon"
    SERVICE = "service"
    OPERATOR = "operator"


class Said(StrEnum):
    """What the daemon's log calls the events that are told."""

    READY = "ready"
    WATCHING = "watching the SSM Agent's runs"
    RECEIVED = "received"
    REFUSED = "result refused"
    ASKED = "asked the service what it holds"
    HELD_UNASKED = "the service held it already"
    HELD_ASKED = "the service holds it: no call"
    THROTTLED = "the service throttles: calling more slowly"
    RETRIED = "not delivered: it will be retried"
    HOLD = "hold: reports wait unharmed until a probe succeeds"
    HOLD_REMAINS = "hold remains"
    HOLD_OVER = "hold is over"
    DEAD = "dead: the service will not take it"


class Tone(Enum):
    """How a line is meant."""

    PLAIN = "plain"
    ARRIVED = "arrived"
    SAVED = "saved"
    TROUBLE = "trouble"


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that happened, to which document if to one, and why."""

    actor: Actor
    what: str
    why: str = ""
    tone: Tone = Tone.PLAIN
    document: str = ""


class Logged(msgspec.Struct, frozen=True):
    """One line of the daemon's log, as far as it is told."""

    event: str
    level: str = "info"
    document: str = ""
    source: str = ""
    finding: str | None = None
    answer: str | None = None
    code: str = ""
    error: str = ""
    hint: str = ""
    file: str | None = None
    field: str | None = None
    reason: str | None = None
    dead_letter: int | None = None
    retry_in_seconds: float = 0.0
    calls_per_second: float = 0.0


@dataclass(frozen=True, slots=True)
class Reception:
    """How a document stands in the outbox right after a result of it was stored."""

    pending: bool = False
    """Something of it is to be delivered."""
    waits_seconds: float = 0.0
    behind_hold: bool = False
    replaced: bool = False
    """What was to be delivered before never goes out."""


_TROUBLES: Final = {
    "TooManyUpdates": "another update is under way",
    "ThrottlingException": "too many calls",
    "InvalidDocument": "it knows no such document",
}
_RETRY_REASONS: Final = {
    "TooManyUpdates": "the other one is over in a moment",
    "ThrottlingException": "nothing is dropped",
    "ConnectionLost": "no answer: the connection was closed",
}
_REFUSED_FOR_GOOD: Final = "InvalidDocument"


class Narrator:
    """Puts events into lines; remembers which reasons were given, and whose runs the SSM Agent reports too."""

    def __init__(self) -> None:
        self._given: set[str] = set()
        self._agents: set[str] = set()

    def logged(self, said: Logged, reception: Reception) -> Line | None:
        """The line for what the daemon logged; None when there is nothing to tell."""
        if said.source == SOURCE:
            self._agents.add(said.document)
        agents = _of_agents_run(said) if said.document in self._agents else None
        if agents is not None:
            line: Line | None = agents
        elif said.event in set(Said):
            line = _of_event(said, reception)
        elif said.level in {"warning", "error"}:
            line = Line(Actor.DAEMON, said.event, ": ".join(filter(None, (said.code, said.error))), Tone.TROUBLE)
        else:
            line = None
        return None if line is None else self._once(replace(line, document=said.document))

    def recorded(self, entry: Entry) -> Line | None:
        """The line for what the service recorded; None when the daemon's log tells it."""
        document = entry.document or ""
        if entry.operation != Operation.UPDATE or entry.answer in {OUTAGE, Kind.RESET}:
            return None
        if entry.answer == "ok":
            why = "the API's word for InProgress" if entry.status == "Pending" else ""
            if entry.access_key_id == ssm_agent.ACCESS_KEY_ID:
                why = "the SSM Agent's own report"
            return self._once(Line(Actor.SERVICE, f"holds {entry.status} now", why, Tone.ARRIVED, document))
        why = _TROUBLES.get(entry.answer, "")
        return self._once(Line(Actor.SERVICE, f"answers {entry.answer}", why, Tone.TROUBLE, document))

    def _once(self, line: Line) -> Line:
        if line.why in self._given:
            return replace(line, why="")
        self._given.add(line.why)
        return line


def _of_event(said: Logged, reception: Reception) -> Line | None:  # noqa: C901, PLR0912 - a table, a case each
    match said.event:
        case Said.READY:
            return Line(Actor.DAEMON, "is ready, and watches the results directory")
        case Said.WATCHING:
            return Line(Actor.DAEMON, "sees an SSM Agent, and watches its runs", "where there is one, it is found")
        case Said.RECEIVED:
            return _received(said, reception)
        case Said.REFUSED:
            where = f"moved to rejected/, unchanged, beside {said.file}.error"
            return Line(Actor.DAEMON, f"refused: {said.field}: {said.reason}", where, Tone.TROUBLE)
        case Said.ASKED if said.answer == "HeldNothing":
            return Line(
                Actor.DAEMON, "asks first: the service holds nothing yet", "nothing newer is to be overwritten"
            )
        case Said.ASKED if said.answer == "Held":
            why = "the call without an answer might have been carried out"
            return Line(Actor.DAEMON, "asks first: the service holds the old status", why)
        case Said.HELD_ASKED | Said.HELD_UNASKED:
            return Line(
                Actor.DAEMON, "the service holds it already", "a call without an answer did it", Tone.SAVED
            )
        case Said.THROTTLED:
            what = f"slows down to {said.calls_per_second:g} calls a second"
            return Line(Actor.DAEMON, what, "and speeds up again, little by little")
        case Said.RETRIED if said.code != _REFUSED_FOR_GOOD:  # that answers the question before the call
            return Line(
                Actor.DAEMON,
                f"tries again {_soon(said.retry_in_seconds)}",
                _RETRY_REASONS.get(said.code, said.code),
            )
        case Said.HOLD:
            why = f"{said.code} in a row for several documents: not their fault, they wait"
            return Line(Actor.DAEMON, "holds everything back, and probes", why, Tone.TROUBLE)
        case Said.HOLD_REMAINS:
            return Line(Actor.DAEMON, "probes: no answer")
        case Said.HOLD_OVER:
            return Line(
                Actor.DAEMON, "the probe was answered: the hold is over", "what waited follows, slowly at first"
            )
        case Said.DEAD:
            return Line(
                Actor.DAEMON,
                f"sets it aside as dead letter {said.dead_letter}",
                f"hint: {said.hint}",
                Tone.TROUBLE,
            )
        case _:
            return None


def _of_agents_run(said: Logged) -> Line | None:
    """What is told otherwise, or for another reason, where the SSM Agent reports the same run itself."""
    match said.event:
        case Said.RECEIVED if said.finding == Finding.NEWS:
            why = "it held the file open: the path is gone"
            return Line(Actor.DAEMON, "news: has read the end of the run", why)
        case Said.ASKED if said.answer == "Held":
            why = "the agent reports its runs too: ours comes second"
            return Line(Actor.DAEMON, "asks first: the service holds the old status", why)
        case _:
            return None


def _received(said: Logged, reception: Reception) -> Line:
    match said.finding:
        case Finding.UNCHANGED:
            why = "the same is waiting to go out" if reception.pending else "the service holds that already"
            return Line(Actor.DAEMON, "unchanged: no call", why, Tone.SAVED)
        case Finding.STALE:
            return Line(Actor.DAEMON, "stale: no call", "older never overwrites newer", Tone.SAVED)
        case _ if reception.replaced:
            return Line(Actor.DAEMON, "news: replaces what waits, one call saved", "the newest wins", Tone.SAVED)
        case _ if reception.behind_hold:
            return Line(Actor.DAEMON, "news: waits in the outbox", "on disk, until the hold is over")
        case _ if reception.waits_seconds > NOTICEABLE_SECONDS:
            why = f"no two calls for one association within {WINDOW_SECONDS} s"
            return Line(Actor.DAEMON, f"news: waits {reception.waits_seconds:.1f} s", why)
        case _:
            return Line(Actor.DAEMON, "news: goes out at once", "on disk first, only then the file is removed")


def _soon(seconds: float) -> str:
    return f"in {seconds:.1f} s" if seconds > NOTICEABLE_SECONDS else "at once"
