"""What inotify tells about the SSM Agent's state directories and the way to them: see `path_watch`.

Rules:
  * ``completed`` is not watched: the agent writes nothing there, and makes it anew at every start.
  * Events keep their order: a name may stand for one file after the other.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple

from asyncinotify import Mask

from ssm_status_reporter.path_watch import ARRIVALS, DEPARTURES, ENDS, SELF, PathWatch

_DIRECTORY: Final = int(Mask.ISDIR)
_IGNORED: Final = int(Mask.IGNORED)
_IN_PLACE: Final = SELF | ARRIVALS | DEPARTURES | Mask.MODIFY | Mask.CLOSE_WRITE


class Place(Enum):
    """The state directories that matter."""

    PENDING = "pending"
    CURRENT = "current"


class Turn(Enum):
    """What happened to a state file."""

    APPEARED = int(Mask.CREATE | Mask.MOVED_TO)
    WRITTEN = int(Mask.MODIFY | Mask.CLOSE_WRITE)
    LEFT = int(Mask.DELETE | Mask.MOVED_FROM)


class Change(NamedTuple):
    """One event of one state file."""

    place: Place
    turn: Turn
    name: str


@dataclass(slots=True)
class Changes:
    """What happened since the last drain."""

    files: list[Change] = field(default_factory=list)
    overflowed: bool = False
    """Events were lost: look everywhere."""
    displaced: bool = False
    """The path of ``current`` may lead elsewhere by now."""
    pending_displaced: bool = False
    """There may be another ``pending``."""
    ended: bool = False
    """``current``, or a directory on the way to it, is gone from its place."""


class AgentWatch(PathWatch):
    """The watches on the state directory ``path``. Raises OSError when inotify has no room."""

    def __init__(self, path: str) -> None:
        self._paths = {place: f"{path}/{place.value}" for place in Place}
        super().__init__(*self._paths.values())
        self._places: dict[int, Place] = {}

    def watch(self, place: Place) -> None:
        """Watch a state directory. Raises OSError."""
        self._places[self.add(self._paths[place], _IN_PLACE)] = place

    def drain(self) -> Changes:
        """What can be read now, up to a bound, without waiting."""
        drained = self.drain_events()
        changes = Changes(
            overflowed=drained.overflowed,
            displaced=self._paths[Place.CURRENT] in drained.displaced,
            pending_displaced=self._paths[Place.PENDING] in drained.displaced,
            ended=drained.ended,
        )
        for watch, bits, name in drained.events:
            place = self._places.get(watch)
            if place is None:
                continue
            if bits & ENDS:
                changes.ended |= place is Place.CURRENT
                if bits & _IGNORED:
                    del self._places[watch]
            elif name is not None and not bits & _DIRECTORY:
                turn = next(turn for turn in Turn if bits & turn.value)
                changes.files.append(Change(place, turn, name))
        return changes
