"""Which files are to be looked at, now or later, and which not before their result is committed. Pure.

Rules:
  * A name is handled by one at a time: while it is held (its claimed file is in ``.taken/``, or its result is
    being committed) a new file of that name waits its turn.
  * What cannot be decoded waits until it has not changed for `UNDECODABLE_SETTLE_MS`.
  * Bounded: beyond `REMEMBERED_FILES_MAX` a name is not remembered, and a scan is due to find it again.
"""

from enum import Enum
from itertools import islice, takewhile

from ssm_status_reporter.domain.limits import REMEMBERED_FILES_MAX, UNDECODABLE_SETTLE_MS
from ssm_status_reporter.sources.spool import Place, Spot, State


class Held(Enum):
    """Why a name is held."""

    IN_FLIGHT = "its result is being committed"
    UNFINISHED = "its claimed file waits in .taken/ to be finished"


class SpoolQueue:
    """The files of one spool. Times are steady milliseconds."""

    def __init__(self) -> None:
        self._due: dict[Spot, None] = {}
        self._waiting: dict[Spot, tuple[State | None, int]] = {}
        self._ripe: dict[Spot, State | None] = {}
        self._held: dict[str, Held] = {}
        self._deferred: set[str] = set()
        self.forgot = False
        """Whether due names were not remembered since this was last set to False: scan, now."""
        self.crowded = False
        """Whether waiting names were not remembered, likewise: scan, but later."""

    def __bool__(self) -> bool:
        return bool(self._due)

    def add(self, spot: Spot) -> None:
        """Look at it as soon as may be."""
        held = self._held.get(spot.name)
        if spot.place is Place.TAKEN and held is not Held.UNFINISHED:
            pass  # it is being committed, and whoever releases it sees that it was written to; or it is no more
        elif spot.place is Place.SPOOL and held is not None:
            self._deferred.add(spot.name)
        elif len(self._due) < REMEMBERED_FILES_MAX:
            self._due[spot] = None
        else:
            self.forgot = True

    def take(self, count: int) -> list[Spot]:
        """The next ones, in the order added."""
        spots = list(islice(self._due, count))
        for spot in spots:
            del self._due[spot]
        return spots

    def hold(self, name: str, why: Held) -> None:
        """Nobody looks at new files of this name until `free`."""
        self._held[name] = why
        new = Spot(Place.SPOOL, name)
        if new in self._due:
            del self._due[new]
            self._deferred.add(name)

    def free(self, name: str) -> None:
        """The name may be handled again; a new file of it is due."""
        self._held.pop(name, None)
        if name in self._deferred:
            self._deferred.remove(name)
            self.add(Spot(Place.SPOOL, name))

    def is_held(self, name: str) -> bool:
        """Whether somebody handles the name."""
        return name in self._held

    def is_unfinished(self, name: str) -> bool:
        """Whether a claimed file of that name waits in ``.taken/``."""
        return self._held.get(name) is Held.UNFINISHED

    def expect(self, spot: Spot, now_ms: int) -> None:
        """It is there, and its writer will say when it is done; look anyway after the settling time."""
        if spot not in self._waiting and spot not in self._due:
            self._wait(spot, None, now_ms)

    def settled(self, spot: Spot, state: State, now_ms: int) -> bool:
        """Whether an undecodable file has not changed for the settling time; if not, it waits."""
        if self._ripe.pop(spot, None) == state:
            return True
        if spot not in self._waiting or self._waiting[spot][0] != state:
            self._wait(spot, state, now_ms)
        return False

    def decided(self, spot: Spot) -> None:
        """It waits no more."""
        self._waiting.pop(spot, None)
        self._ripe.pop(spot, None)

    def next_deadline_ms(self) -> int | None:
        """When the first that waits is to be looked at."""
        return next((deadline_ms for _, deadline_ms in self._waiting.values()), None)

    def ripen(self, now_ms: int) -> None:
        """What has waited long enough is due."""
        ripe = list(takewhile(lambda waiting: waiting[1][1] <= now_ms, self._waiting.items()))
        for spot, (state, _) in ripe:
            del self._waiting[spot]
            self._ripe[spot] = state
            self.add(spot)

    def _wait(self, spot: Spot, state: State | None, now_ms: int) -> None:
        self._ripe.pop(spot, None)
        # Taken out and put in: the order of the dictionary is that of the deadlines.
        self._waiting.pop(spot, None)
        if len(self._waiting) < REMEMBERED_FILES_MAX:
            self._waiting[spot] = (state, now_ms + UNDECODABLE_SETTLE_MS)
        else:
            self.crowded = True
