"""What inotify tells about the SSM Agent's state directories and the way to them.

Rules:
  * Watches are set before the first look, so that nothing falls between the two.
  * Every directory on the way to ``current`` is watched for what takes the place of the next: a tree that does not
    exist yet, is removed or made again is noticed, at any level, without polling. What may be passed but not read
    is left out.
  * ``completed`` is not watched: the agent writes nothing there, and makes it anew at every start.
  * Events keep their order: a name may stand for one file after the other.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import PurePosixPath
from typing import Final, NamedTuple, Self

from asyncinotify import Inotify, Mask, Watch

EVENTS_PER_DRAIN_MAX: Final = 1024
"""Events read before files are looked at: about 8 ms. The kernel keeps the others."""
_FULL_SIZE_EVENTS_PER_READ: Final = 64

# Plain integers: comparing flags of the enumeration costs more than the event itself.
_ENDS: Final = int(Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.UNMOUNT | Mask.IGNORED)
_OVERFLOW: Final = int(Mask.Q_OVERFLOW)
_DIRECTORY: Final = int(Mask.ISDIR)

_ON_THE_WAY: Final = Mask.CREATE | Mask.MOVED_TO | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.ONLYDIR
_IN_PLACE: Final = _ON_THE_WAY | Mask.MODIFY | Mask.CLOSE_WRITE | Mask.MOVED_FROM | Mask.DELETE


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
    """The path may lead elsewhere by now."""
    pending_made: bool = False
    """There may be another ``pending``."""
    more: bool = False
    """There was more to read than one drain reads."""
    ended: bool = False
    """``current``, or a directory on the way to it, is gone from its place."""


class AgentWatch:
    """The watches on the state directory ``path``. Raises OSError when inotify has no room."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._inotify = Inotify(cache_size=_FULL_SIZE_EVENTS_PER_READ, sync_timeout=0)
        self._places: dict[int, Place] = {}
        self._ready: Callable[[], None] | None = None
        self._steps: dict[int, str] = {}
        self._state: Watch | None = None
        self.sees_all = True
        """Whether every directory that is there on the way may be watched."""
        current = PurePosixPath(path) / Place.CURRENT.value
        for directory, step in zip(reversed(current.parents), current.parts[1:], strict=True):
            try:
                watch = self._inotify.add_watch(str(directory), _ON_THE_WAY)
            except (FileNotFoundError, NotADirectoryError):
                break
            except PermissionError:
                self.sees_all = False
                continue
            self._steps[watch.wd] = step
            self._state = watch if directory == current.parent else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._inotify.close()

    def add(self, place: Place) -> None:
        """Watch a state directory. Raises OSError."""
        watch = self._inotify.add_watch(f"{self._path}/{place.value}", _IN_PLACE)
        self._places[watch.wd] = place

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
                if not changes.more:
                    await ready.wait()
                    ready.clear()
        finally:
            self.notify(None)

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
            elif (place := self._places.get(event.watch.wd)) is not None:
                self._in_place(place, bits, name, event.watch.wd, changes)
            elif bits & _ENDS:
                changes.ended = True
            else:
                self._on_the_way(event.watch, name, changes)
        else:
            changes.more = True  # perhaps read from the kernel already, which then announces nothing
        self._rearm()
        return changes

    def _in_place(self, place: Place, bits: int, name: str | None, wd: int, changes: Changes) -> None:
        if bits & _ENDS:
            if place is Place.CURRENT:
                changes.ended = True
            if bits & int(Mask.IGNORED):
                del self._places[wd]
        elif name is not None and not bits & _DIRECTORY:
            turn = next(turn for turn in Turn if bits & turn.value)
            changes.files.append(Change(place, turn, name))

    def _on_the_way(self, watch: Watch, name: str | None, changes: Changes) -> None:
        if name == self._steps.get(watch.wd):
            changes.displaced = True
        elif watch is self._state and name == Place.PENDING.value:
            changes.pending_made = True

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
