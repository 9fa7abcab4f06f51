"""One file of the results directory at a time: looked at, judged, claimed, refused or handed on. No waiting.

Rules:
  * Judged before it is claimed, so that a file whose writer is not done stays where its writer will find it;
    and looked at again after the claim, so that what is handed on is what was claimed. If another file took the
    name in between, both are handed on.
  * A refused file goes by way of ``.taken/`` as well: a new file that took its name meanwhile is not refused
    for its predecessor's fault.
  * A file is said and counted once for what keeps it where it is, until it changes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from ssm_status_reporter.config import AfterAccept
from ssm_status_reporter.domain.limits import REMEMBERED_FILES_MAX
from ssm_status_reporter.domain.quantity import size_text
from ssm_status_reporter.domain.result import Refusal, Result
from ssm_status_reporter.domain.sighting import Sighting
from ssm_status_reporter.ports import Clock
from ssm_status_reporter.sources.decode import Origin, Undecodable, Verdict, decode
from ssm_status_reporter.sources.quoting import printable
from ssm_status_reporter.sources.rejected import Rejected
from ssm_status_reporter.sources.seen import name_bytes, sighting
from ssm_status_reporter.sources.spool import (
    REJECTED,
    TAKEN,
    Content,
    Irregular,
    Look,
    Oversized,
    Place,
    Spool,
    Spot,
    State,
    Unreadable,
)
from ssm_status_reporter.sources.spool_queue import Held, SpoolQueue

SOURCE: Final = "results_directory"
_NS_PER_MS: Final = 1_000_000
_EMPTY: Final = (
    "is empty: nothing was written, or the power went before it was on disk (its result may have been stored before); "
    "runners must fsync a file before they rename it to *.json"
)
"""A commit of ours may make a renamed file durable before its content is."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Settings:
    """What the configuration and the node's identity say about the results directory."""

    path: str
    """Absolute."""
    after_accept: AfterAccept
    max_file_size_bytes: int
    instance_id: str
    allow: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Accepted:
    """A result to be committed, and what is to be done with its file then."""

    result: Result
    name: str
    claimed: State | None = None
    """The file in ``.taken/``, to be removed. None: there is none; its name was taken by a newer file."""
    sighting: Sighting | None = None
    """The file stays, and this is to be remembered in the same commit."""


@dataclass(frozen=True, slots=True)
class _Judged:
    """What a file was found to be before it was claimed."""

    look: Content | Oversized | Unreadable
    verdict: Result | Refusal


class SpoolReader:
    """Reads the files of one open spool. Raises OSError for what the file system does not do, nothing changed."""

    def __init__(
        self,
        settings: Settings,
        spool: Spool,
        queue: SpoolQueue,
        clock: Clock,
        count_refused: Callable[[int], None],
        sightings: dict[bytes, Sighting],
    ) -> None:
        self._settings = settings
        self._spool = spool
        self._queue = queue
        self._clock = clock
        self._count_refused = count_refused
        self._sightings = sightings
        self._rejected = Rejected(spool)
        self._said: dict[Spot, State] = {}
        self.vanished: set[bytes] = set()
        """Names that have a sighting and no file any more; for the caller to forget and empty."""

    def read(self, spot: Spot) -> list[Accepted]:
        """What the file there comes to: nothing, one result, or two when it was replaced under our eyes."""
        if spot.place is Place.TAKEN:
            return self._read_taken(spot.name, None) if self._queue.is_unfinished(spot.name) else []
        look = self._spool.look(spot)
        if look is None or isinstance(look, Irregular) or self._is_said(spot, look.state):
            self._dismiss(spot, look)
            return []
        sighting = self._sighting(look)
        if sighting is not None and self._sightings.get(sighting.name) == sighting:
            self._queue.decided(spot)
            return []
        verdict = self._judge(spot, look)
        if verdict is None:
            return []
        if sighting is not None and isinstance(verdict, Result):
            self._queue.hold(spot.name, Held.IN_FLIGHT)
            return [Accepted(verdict, spot.name, sighting=sighting)]
        return self._claim(spot, _Judged(look, verdict))

    def take_back_refused(self) -> None:
        """Claim again what lies in ``rejected/`` and does not say why any more."""
        files = self._rejected.take_back()
        if files:
            log.warning(
                "refused files are judged anew: power was lost before their reasons were on disk", files=files
            )

    def _claim(self, spot: Spot, judged: _Judged) -> list[Accepted]:
        try:
            claimed = self._spool.claim(spot.name)
        except OSError as error:
            if isinstance(judged.verdict, Result):
                raise
            self._refuse_in_place(spot, judged.look.state, judged.verdict, error)
            return []
        if not claimed:
            return []
        self._queue.hold(spot.name, Held.UNFINISHED)
        return self._read_taken(spot.name, judged)

    def _read_taken(self, name: str, before: _Judged | None) -> list[Accepted]:
        """Judge a file in ``.taken/``; ``before`` is what stood under its name just before it was claimed."""
        spot = Spot(Place.TAKEN, name)
        look = self._spool.look(spot)
        if look is None:
            self._queue.decided(spot)
            self._queue.free(name)
            return []
        if before is not None and _same(before.look, look):
            return self._settle(spot, look.state, before.verdict)
        # Replaced or written to under our eyes. What was read before is a result all the same.
        earlier = [Accepted(before.verdict, name)] if before and isinstance(before.verdict, Result) else []
        if isinstance(look, Irregular):
            if before is None or not self._put_back(spot):
                self._say_irregular(spot, look)
            return earlier
        return earlier + self._read_replaced(spot, look, returnable=before is not None)

    def _read_replaced(
        self, spot: Spot, look: Content | Oversized | Unreadable, *, returnable: bool
    ) -> list[Accepted]:
        verdict = self._judge(spot, look)
        stays = verdict is None or self._settings.after_accept is AfterAccept.KEEP
        if returnable and stays and self._put_back(spot):
            return []
        if verdict is None:
            self._queue.hold(spot.name, Held.UNFINISHED)
            return []
        return self._settle(spot, look.state, verdict)

    def _settle(self, spot: Spot, state: State, verdict: Result | Refusal) -> list[Accepted]:
        """The end for a file in ``.taken/``."""
        if isinstance(verdict, Result):
            self._queue.hold(spot.name, Held.IN_FLIGHT)
            return [Accepted(verdict, spot.name, claimed=state)]
        self._reject(spot, state, verdict)
        return []

    def _judge(self, spot: Spot, look: Content | Oversized | Unreadable) -> Result | Refusal | None:
        """None: it cannot be decoded, and its writer may not be done."""
        verdict = self._verdict(look)
        if isinstance(verdict, Undecodable):
            settled = self._queue.settled(spot, look.state, self._clock.now().steady_ms)
            return verdict.refusal if settled else None
        self._queue.decided(spot)
        return verdict

    def _verdict(self, look: Content | Oversized | Unreadable) -> Verdict:
        match look:
            case Oversized():
                limit = size_text(self._settings.max_file_size_bytes)
                return Refusal(None, f"larger than {limit}; sources.results_directory.max_file_size is the bound")
            case Unreadable():
                reason = (
                    "this daemon may not read it; let the group ssm-status-reporter read it (chgrp, chmod 0640)"
                )
                return Undecodable(Refusal(None, reason))
            case Content(_, _, b""):
                return Undecodable(Refusal(None, _EMPTY))
            case Content(_, state, payload):
                observed_at_ms = max(0, state.mtime_ns // _NS_PER_MS)
                settings = self._settings
                return decode(payload, Origin(SOURCE, settings.instance_id, observed_at_ms, settings.allow))

    def _sighting(self, look: Content | Oversized | Unreadable) -> Sighting | None:
        if self._settings.after_accept is AfterAccept.KEEP and isinstance(look, Content):
            return sighting(look)
        return None

    def _put_back(self, spot: Spot) -> bool:
        """Undo a claim. False: there is a new file of that name, or the file system does not let us."""
        try:
            returned = self._spool.put_back(spot.name)
        except OSError:
            return False  # it stays in .taken/, and is finished there
        if returned:
            self._queue.decided(spot)
            self._queue.free(spot.name)
            self._queue.add(Spot(Place.SPOOL, spot.name))
        return returned

    # What is refused.

    def _reject(self, spot: Spot, state: State, refusal: Refusal) -> None:
        try:
            removed = self._rejected.add(spot.name, refusal)
        except OSError as error:
            stays = Spot(Place.SPOOL, spot.name) if self._put_back(spot) else spot
            self._refuse_in_place(stays, state, refusal, error)
            return
        self._queue.free(spot.name)
        moved_to = f"{self._settings.path}/{REJECTED}/{spot.name}"
        self._refused(spot.name, refusal, moved_to=printable(moved_to))
        if removed:
            log.warning("earlier refused files were removed to keep rejected/ bounded", files=removed)

    def _refuse_in_place(self, spot: Spot, state: State, refusal: Refusal, error: OSError) -> None:
        self._remember_said(spot, state)
        hint = "let this daemon write in the results directory (no sticky bit), or remove the file"
        self._refused(_shown(spot), refusal, stays=f"cannot be moved: {error.strerror}", hint=hint)

    def _say_irregular(self, spot: Spot, look: Irregular) -> None:
        if not self._is_said(spot, look.state):
            self._remember_said(spot, look.state)
            self._refused(_shown(spot), Refusal(None, f"is {look.kind}, not a regular file"), stays="not touched")

    def _refused(self, file: str, refusal: Refusal, **where: str) -> None:
        self._count_refused(1)
        log.warning("result refused", file=printable(file), field=refusal.field, reason=refusal.reason, **where)

    def _dismiss(self, spot: Spot, look: Look) -> None:
        """Nothing there, something that is no file, or a file that was refused and could not be moved."""
        self._queue.decided(spot)
        if look is None:
            self._said.pop(spot, None)
            name = name_bytes(spot.name)
            if name in self._sightings:
                self.vanished.add(name)
        elif isinstance(look, Irregular):
            self._say_irregular(spot, look)

    def _is_said(self, spot: Spot, state: State) -> bool:
        said = self._said.get(spot)
        return said is not None and said.same_content_as(state)

    def _remember_said(self, spot: Spot, state: State) -> None:
        self._said.pop(spot, None)
        self._said[spot] = state
        if len(self._said) > REMEMBERED_FILES_MAX:
            del self._said[next(iter(self._said))]


def _shown(spot: Spot) -> str:
    return spot.name if spot.place is Place.SPOOL else f"{TAKEN}/{spot.name}"


def _same(before: Content | Oversized | Unreadable, now: Look) -> bool:
    """Whether it is the same file with the same content; a rename changes ctime."""
    if now is None or not before.state.same_content_as(now.state):
        return False
    if isinstance(before, Content) and isinstance(now, Content):
        return before.payload == now.payload
    return type(before) is type(now)
