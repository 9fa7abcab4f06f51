"""What inotify tells about paths and the directories on the way to them.

Rules:
  * Watches are set before the first look, so that nothing falls between the two.
  * Every directory on the way is watched, for its own end and for what takes the place of the next: what is
    missing, removed, moved or replaced is noticed, at any level, without polling. So is it where symbolic links lead.
  * A directory that may be passed but not read cannot be watched. `PathWatch.sees_all` says so: whoever waits then
    looks again after a while (`Relook`).
  * Events say where to look, nothing else; they keep their order. An overflow of the queue says: everywhere.
  * One drain reads a bounded number of events, and what it left is announced again: it may have been read from the
    kernel already, which then tells nothing more.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final, NamedTuple, Self

from asyncinotify import Inotify, Mask

from ssm_status_reporter.domain.limits import EVENTS_PER_DRAIN_MAX
from ssm_status_reporter.ports import Clock
from ssm_status_reporter.race import race

_FULL_SIZE_EVENTS_PER_READ: Final = 64

# Plain integers: comparing flags of the enumeration costs more than the event itself.
ENDS: Final = int(Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.UNMOUNT | Mask.IGNORED)
"""What ends a watched directory."""
_OVERFLOW: Final = int(Mask.Q_OVERFLOW)

SELF: Final = Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.ONLYDIR
ARRIVALS: Final = Mask.CREATE | Mask.MOVED_TO
DEPARTURES: Final = Mask.DELETE | Mask.MOVED_FROM
# A directory that is held open reports its own removal only when it is closed; its parent does so at once.
# MASK_ADD: two paths may share a directory.
_ON_THE_WAY: Final = SELF | ARRIVALS | DEPARTURES | Mask.MASK_ADD


class Event(NamedTuple):
    """One event of an added watch."""

    watch: int
    bits: int
    name: str | None


@dataclass(slots=True)
class Drained:
    """What happened since the last drain."""

    events: list[Event] = field(default_factory=list)
    """Those of the added watches."""
    overflowed: bool = False
    """Events were lost: look everywhere."""
    displaced: set[str] = field(default_factory=set)
    """The paths that may lead elsewhere by now."""
    ended: bool = False
    """A directory on the way is gone from its place."""


class PathWatch:
    """The watches on the way to some paths, and those added. Raises OSError when inotify has no room.

    ``of_themselves`` is what else of the paths themselves displaces them: that they are written to, for example.
    """

    def __init__(self, *paths: str, of_themselves: Mask = Mask(0)) -> None:  # noqa: B008 - an integer
        self._inotify = Inotify(cache_size=_FULL_SIZE_EVENTS_PER_READ, sync_timeout=0)
        self._steps: dict[int, dict[str, set[str]]] = {}
        self._ready: Callable[[], None] | None = None
        self._left_some = False
        self.sees_all = True
        """Whether every directory that is there on the way may be watched."""
        try:
            for path in paths:
                for way in dict.fromkeys((path, os.path.realpath(path))):
                    self._watch_way(PurePosixPath(way), path, of_themselves)
        except BaseException:
            self._inotify.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._inotify.close()

    def add(self, directory: str, mask: Mask) -> int:
        """Watch a directory that is on none of the ways; its events bear the number returned. Raises OSError."""
        return self._inotify.add_watch(directory, mask).wd

    def notify(self, ready: Callable[[], None] | None) -> None:
        """Call ``ready`` on the running loop when there is something to drain, once a drain; None: no more."""
        self._ready = ready
        self._rearm()

    async def displaced(self) -> None:
        """Wait until a path may lead elsewhere."""
        ready = asyncio.Event()
        self.notify(ready.set)
        try:
            while True:
                drained = self.drain_events()
                if drained.displaced or drained.ended or drained.overflowed:
                    return
                await ready.wait()
                ready.clear()
        finally:
            self.notify(None)

    def drain_events(self) -> Drained:
        """What can be read now, up to a bound, without waiting."""
        drained = Drained()
        self._left_some = False
        for _ in range(EVENTS_PER_DRAIN_MAX):
            event = self._inotify.sync_get()
            if event is None:
                break
            bits = int(event.mask)
            name = None if event.name is None else str(event.name)
            if bits & _OVERFLOW:
                drained.overflowed = True
            elif event.watch is None:
                continue
            elif (steps := self._steps.get(event.watch.wd)) is None:
                drained.events.append(Event(event.watch.wd, bits, name))
            elif bits & ENDS:
                drained.ended = True
            elif name in steps:
                drained.displaced |= steps[name]
        else:
            self._left_some = True
        self._rearm()
        return drained

    def _watch_way(self, way: PurePosixPath, path: str, of_itself: Mask) -> None:
        for directory, step in zip(reversed(way.parents), way.parts[1:], strict=True):
            mask = _ON_THE_WAY | of_itself if directory == way.parent else _ON_THE_WAY
            try:
                watch = self._inotify.add_watch(str(directory), mask)
            except (FileNotFoundError, NotADirectoryError):
                break
            except PermissionError:
                self.sees_all = False
                continue
            self._steps.setdefault(watch.wd, {}).setdefault(step, set()).add(path)

    def _rearm(self) -> None:
        loop = asyncio.get_running_loop()
        if self._ready is None:
            loop.remove_reader(self._inotify.fd)
        elif self._left_some:
            self._ready()
        else:
            loop.add_reader(self._inotify.fd, self._announce)

    def _announce(self) -> None:
        # Readable remains readable until the next drain: say it once.
        asyncio.get_running_loop().remove_reader(self._inotify.fd)
        if self._ready is not None:
            self._ready()


class Relook:
    """When to look again where no event tells of a change: at intervals that double, within a range."""

    def __init__(self, clock: Clock, least_ms: int, most_ms: int) -> None:
        self._clock = clock
        self._least_ms = least_ms
        self._most_ms = most_ms
        self._next_ms = least_ms

    def begin_anew(self) -> None:
        """What was looked for has been seen: the next interval is the shortest."""
        self._next_ms = self._least_ms

    async def until_displaced(self, watch: PathWatch | None, *, told: bool) -> None:
        """Wait until a path may lead elsewhere, and where that may go unnoticed an interval at most.

        ``told``: what is waited for is an event, if every directory on the way may be watched.
        """
        waits: list[Coroutine[Any, Any, None]] = []
        if watch is not None:
            waits.append(watch.displaced())
        if not told or watch is None or not watch.sees_all:
            look_at_ms = self._clock.now().steady_ms + self._next_ms
            self._next_ms = min(2 * self._next_ms, self._most_ms)
            waits.append(self._clock.sleep_until(look_at_ms))
        await race(*waits)
