"""What inotify tells about the results directory and the way to it: see `path_watch`."""

import os
from dataclasses import dataclass, field
from typing import Final

from asyncinotify import Mask

from ssm_status_reporter.path_watch import ARRIVALS, DEPARTURES, ENDS, SELF, PathWatch
from ssm_status_reporter.sources.spool import TAKEN, Place, Spot, is_result_name

_WRITTEN: Final = int(Mask.CLOSE_WRITE | Mask.MOVED_TO | Mask.MOVED_FROM | Mask.DELETE)
_CREATED: Final = int(Mask.CREATE)

_IN_TAKEN: Final = SELF | Mask.CLOSE_WRITE
_IN_SPOOL: Final = SELF | ARRIVALS | Mask.CLOSE_WRITE


@dataclass(slots=True)
class Changes:
    """What happened since the last drain."""

    written: list[Spot] = field(default_factory=list)
    """Closed after writing, renamed to, or gone: look now."""
    created: list[Spot] = field(default_factory=list)
    """There now, and perhaps being written: its writer will close it, unless it is a link or no regular file."""
    overflowed: bool = False
    """Events were lost: look everywhere."""
    displaced: bool = False
    """The path may lead elsewhere by now."""
    ended: bool = False
    """A directory that was watched is gone from its place."""


class SpoolWatch(PathWatch):
    """The watches on a results directory and on the way to it. Raises OSError when inotify has no room."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._path = path
        self._spool: int | None = None
        self._taken: int | None = None

    def watch_spool(self) -> None:
        """Watch the directory itself: new files."""
        self._spool = self.add(self._path, _IN_SPOOL)

    def watch_departures(self) -> None:
        """Watch the directory itself: new files, and those that go."""
        self._spool = self.add(self._path, _IN_SPOOL | DEPARTURES)

    def watch_taken(self) -> None:
        """Watch ``.taken/``: a file may still be written to after it was claimed."""
        self._taken = self.add(os.path.join(self._path, TAKEN), _IN_TAKEN)  # noqa: PTH118 - a Path normalises

    def drain(self) -> Changes:
        """What can be read now, up to a bound, without waiting."""
        drained = self.drain_events()
        changes = Changes(overflowed=drained.overflowed, displaced=bool(drained.displaced), ended=drained.ended)
        for watch, bits, name in drained.events:
            if bits & ENDS:
                changes.ended = True
            elif name is None or not is_result_name(name):
                continue
            elif watch == self._taken:
                changes.written.append(Spot(Place.TAKEN, name))
            elif bits & _WRITTEN:
                changes.written.append(Spot(Place.SPOOL, name))
            elif bits & _CREATED:
                changes.created.append(Spot(Place.SPOOL, name))
        return changes
