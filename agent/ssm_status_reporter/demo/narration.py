"""The narration: what the daemon logs and what the service records, in plain words, with the reason.

Rules:
  * Pure: what happened comes in as values, lines come out. Nothing is told that was not logged, recorded or
    read from the outbox.
  * One line an event. What another line tells as well is left out: of a call that succeeded the service's
    record is told and not the daemon's.
  * A reason is given at its first occurrence and left out when it would only be repeated.
  * A warning or an error that this module does not know is told as it stands.
  * ASCII alone: any terminal shows it.
"""

from dataclasses import dataclass, replace
from enum import Enum, StrEnum
from typing import Final

import msgspec

from ssm_status_reporter.demo.daemon_process import WINDOW_SECONDS
from ssm_status_reporter.domain.observation import Finding
from ssm_status_reporter.emulator.ledger import Entry
from ssm_status_reporter.ssm.codes import Operation

NOTICEABLE_SECONDS: Final = 0.05
"""What waits no longer than this goes out at once, to a reader."""


class Actor(StrEnum):
    """Who does something."""

    RUNNER = "runner"
    DAEMON = "daemon"
    SERVICE = "service"
    OPERATOR = "operator"


class Said(StrEnum):
    """What the daemon's log calls the events that are told."""

    READY = "ready"
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
    """One thing that happened, and why."""

    actor: Actor
    what: str
    why: str = ""
    tone: Tone = Tone.PLAIN


class Logged(msgspec.Struct, frozen=True):
    """One line of the daemon's log, as far as it is told."""

    event: str
    level: str = "info"
    document: str | None = None
    status: str | None = None
    finding: str | None = None
    answer: str | None = None
    code: str | None = None
    error: str | None = None
    hint: str | None = None
    file: str | None = None
    field: str | None = None
    reason: str | None = None
    dead_letter: int | None = None
    probes: int = 0
    retry_in_seconds: float = 0.0
    probe_in_seconds: float = 0.0
    calls_per_second: float = 0.0


@dataclass(frozen=True, slots=True)
class Reception:
    """How a result that is news stands in the outbox right after it was stored."""

    waits_seconds: float = 0.0
    behind_hold: bool = False
    replaced: bool = False
    """It took the place of one that never went out."""
    pending: bool = False


_RETRY_REASONS: Final = {
    "TooManyUpdates": "the other update is over in a moment",
    "ThrottlingException": "nothing is dropped",
    "ConnectionLost": "the connection was closed without an answer",
}
_TROUBLES: Final = {
    "TooManyUpdates": "another update of this association is under way",
    "ThrottlingException": "too many calls",
    "InvalidDocument": "no such document",
}


class Narrator:
    """Puts events into lines; remembers which reasons were given."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def logged(self, said: Logged, reception: Reception) -> Line | None:
        """The line for what the daemon logged; None when there is nothing to tell."""
        line = self._of_event(said, reception)
        if line is None and said.level in {"warning", "error"}:
            details = ": ".join(part for part in (said.document, said.code, said.error) if part)
            line = Line(Actor.DAEMON, said.event, details, Tone.TROUBLE)
        return None if line is None else self._once(line)

    def recorded(self, entry: Entry) -> Line | None:
        """The line for what the service recorded; None when the daemon's log tells it."""
        if entry.operation != Operation.UPDATE or entry.answer == "outage":
            return None
        if entry.answer == "ok":
            why = "the API's word for InProgress" if entry.status == "Pending" else ""
            return self._once(Line(Actor.SERVICE, f"{entry.document} is {entry.status}", why, Tone.ARRIVED))
        what = f"{entry.document}: {entry.answer}"
        return Line(Actor.SERVICE, what, _TROUBLES.get(entry.answer, ""), Tone.TROUBLE)

    def _once(self, line: Line) -> Line:
        if line.why in self._given:
            return replace(line, why="")
        self._given.add(line.why)
        return line

    def _of_event(self, said: Logged, reception: Reception) -> Line | None:  # noqa: C901, PLR0912 - a table, a case each
        match said.event:
            case Said.READY:
                return Line(Actor.DAEMON, "is ready: watches the results directory")
            case Said.RECEIVED:
                return _received(said, reception)
            case Said.REFUSED:
                where = f"moved to rejected/, unchanged, beside {said.file}.error"
                what = f"refuses it: {said.field}: {said.reason}"
                return Line(Actor.DAEMON, what, where, Tone.TROUBLE)
            case Said.ASKED if said.answer == "HeldNothing":
                why = "before its first report, so that nothing newer is overwritten"
                return Line(Actor.DAEMON, "asks what the service holds: nothing yet", why)
            case Said.ASKED if said.answer == "Held":
                why = "a call without an answer may have been carried out"
                return Line(Actor.DAEMON, f"asks what the service holds for {said.document}: the old status", why)
            case Said.HELD_ASKED | Said.HELD_UNASKED:
                what = f"{said.document}: the service holds it already"
                return Line(Actor.DAEMON, what, "the call went through after all", Tone.ARRIVED)
            case Said.THROTTLED:
                what = f"slows down to {said.calls_per_second:g} calls a second"
                return Line(Actor.DAEMON, what, "and speeds up again, little by little")
            case Said.RETRIED if said.code != "InvalidDocument":
                what = f"{said.document}: tries again in {said.retry_in_seconds:.1f} s"
                return Line(Actor.DAEMON, what, _RETRY_REASONS.get(said.code or "", said.code or ""))
            case Said.RETRIED:
                return None  # the answer to the question before the call, which is made all the same
            case Said.HOLD:
                why = f"{said.code} again and again: not the reports' fault, so they wait"
                return Line(Actor.DAEMON, "holds everything back, probes from time to time", why, Tone.TROUBLE)
            case Said.HOLD_REMAINS:
                return Line(Actor.DAEMON, "probes: no answer yet")
            case Said.HOLD_OVER:
                return Line(
                    Actor.DAEMON, "probes: an answer; the hold is over", "what waited goes out, slowly at first"
                )
            case Said.DEAD:
                what = f"puts it aside as dead letter {said.dead_letter}"
                return Line(Actor.DAEMON, what, f"hint: {said.hint}", Tone.TROUBLE)
            case _:
                return None


def _received(said: Logged, reception: Reception) -> Line:
    match said.finding:
        case Finding.UNCHANGED if reception.pending:
            return Line(Actor.DAEMON, "unchanged: no call", "the same is waiting to go out", Tone.SAVED)
        case Finding.UNCHANGED:
            return Line(Actor.DAEMON, "unchanged: no call", "the service holds that already", Tone.SAVED)
        case Finding.STALE:
            why = "older than what is known, and older never overwrites newer"
            return Line(Actor.DAEMON, "stale: no call", why, Tone.SAVED)
        case _ if reception.replaced:
            why = "the newest wins"
            return Line(Actor.DAEMON, "news: replaces the one that waits; a call saved", why, Tone.SAVED)
        case _ if reception.behind_hold:
            return Line(Actor.DAEMON, "news: waits in the outbox, on disk", "until the hold is over")
        case _ if reception.waits_seconds > NOTICEABLE_SECONDS:
            why = f"{WINDOW_SECONDS} s between two calls for one association"
            return Line(Actor.DAEMON, f"news: waits {reception.waits_seconds:.1f} s", why)
        case _:
            return Line(Actor.DAEMON, "news: goes out at once", "stored on disk first, then the file is removed")
