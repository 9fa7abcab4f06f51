"""What inotify tells about the results directory and the way to it.

Rules:
  * Watches are set before the first look, so that nothing falls between the two.
  * Every directory on the way is watched, for its own end and for what takes the place of the next: a results
    directory that is missing, removed, moved or replaced is noticed, at any level, without polling.
  * Events say where to look, nothing else. An overflow of the queue says: everywhere.
"""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final, Self

from asyncinotify import Inotify, Mask, Watch

from ssm_status_reporter.sources.spool import TAKEN, Place, Spot, is_result_name

EVENTS_PER_DRAIN_MAX: Final = 1024
"""Events read before files are looked at: about 8 ms. The kernel keeps the others."""
_FULL_SIZE_EVENTS_PER_READ: Final = 64

# Plain integers: comparing flags of the enumeration costs more than the event itself.
_ENDS: Final = int(Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.UNMOUNT | Mask.IGNORED)
_WRITTEN: Final = int(Mask.CLOSE_WRITE | Mask.MOVED_TO | Mask.MOVED_FROM | Mask.DELETE)
_CREATED: Final = int(Mask.CREATE)
_OVERFLOW: Final = int(Mask.Q_OVERFLOW)

_SELF: Final = Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.ONLYDIR
_ARRIVALS: Final = Mask.CREATE | Mask.MOVED_TO
_DEPARTURES: Final = Mask.DELETE | Mask.MOVED_FROM
# A directory that is held open reports its own removal only when it is closed; its parent does so at once.
_ON_THE_WAY: Final = _SELF | _ARRIVALS | _DEPARTURES
_IN_TAKEN: Final = _SELF | Mask.CLOSE_WRITE
_IN_SPOOL: Final = _SELF | _ARRIVALS | Mask.CLOSE_WRITE


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


class SpoolWatch:
    """The watches on a results directory and on the way to it. Raises OSError when inotify has no room."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._inotify = Inotify(cache_size=_FULL_SIZE_EVENTS_PER_READ, sync_timeout=0)
        self._steps: dict[int, str] = {}
        self._spool: Watch | None = None
        self._taken: Watch | None = None
        self._ready: Callable[[], None] | None = None
        way = PurePosixPath(path)
        for directory, step in zip(reversed(way.parents), way.parts[1:], strict=True):
            try:
                watch = self._inotify.add_watch(str(directory), _ON_THE_WAY)
            except (FileNotFoundError, NotADirectoryError):
                break
            except PermissionError:
                continue  # it may be passed, not read: its changes are noticed later, or not
            self._steps[watch.wd] = step

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._inotify.close()

    def notify(self, ready: Callable[[], None] | None) -> None:
        """Call ``ready`` on the running loop when there is something to drain, once a drain; None: no more."""
        self._ready = ready
        self._rearm()

    async def displaced(self) -> None:
        """Wait until the path may lead elsewhere."""
        ready = asyncio.Event()
        self.notify(ready.set)
        try:
            while True:
                changes = self.drain()
                if changes.displaced or changes.ended or changes.overflowed:
                    return
                await ready.wait()
                ready.clear()
        finally:
            self.notify(None)

    def watch_spool(self) -> None:
        """Watch the directory itself: new files."""
        self._spool = self._inotify.add_watch(self._path, _IN_SPOOL)

    def watch_departures(self) -> None:
        """Watch the directory itself: new files, and those that go."""
        self._spool = self._inotify.add_watch(self._path, _IN_SPOOL | _DEPARTURES)

    def watch_taken(self) -> None:
        """Watch ``.taken/``: a file may still be written to after it was claimed."""
        self._taken = self._inotify.add_watch(os.path.join(self._path, TAKEN), _IN_TAKEN)  # noqa: PTH118 - a Path normalises

    def drain(self) -> Changes:
        """What can be read now, up to a bound, without waiting."""
        changes = Changes()
        for _ in range(EVENTS_PER_DRAIN_MAX):
            event = self._inotify.sync_get()
            if event is None:
                break
            bits = int(event.mask)
            name = None if event.name is None else str(event.name)
            if bits & _OVERFLOW:
                changes.overflowed = True
            elif event.watch is None:
                continue
            elif event.watch is self._spool:
                self._in_spool(bits, name, changes)
            elif event.watch is self._taken:
                self._in_taken(bits, name, changes)
            elif bits & _ENDS:
                changes.ended = True
            elif name == self._steps.get(event.watch.wd):
                changes.displaced = True
        self._rearm()
        return changes

    def _rearm(self) -> None:
        loop = asyncio.get_running_loop()
        if self._ready is None:
            loop.remove_reader(self._inotify.fd)
        else:
            loop.add_reader(self._inotify.fd, self._announce)

    def _announce(self) -> None:
        # Readable remains readable until the next drain: say it once.
        asyncio.get_running_loop().remove_reader(self._inotify.fd)
        if self._ready is not None:
            self._ready()

    @staticmethod
    def _in_spool(bits: int, name: str | None, changes: Changes) -> None:
        if bits & _ENDS:
            changes.ended = True
        elif name is not None and is_result_name(name):
            if bits & _WRITTEN:
                changes.written.append(Spot(Place.SPOOL, name))
            elif bits & _CREATED:
                changes.created.append(Spot(Place.SPOOL, name))

    @staticmethod
    def _in_taken(bits: int, name: str | None, changes: Changes) -> None:
        if bits & _ENDS:
            changes.ended = True
        elif name is not None and is_result_name(name):
            changes.written.append(Spot(Place.TAKEN, name))
