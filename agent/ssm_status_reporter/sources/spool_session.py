"""One open results directory, from its first scan until it is gone: what is read when, and what is handed in.

Rules:
  * A turn reads a bounded number of files, hands in what they came to as one batch, and gives way. Commits
    overlap with further turns; `RESULTS_IN_FLIGHT_MAX` bounds what is claimed and not committed.
  * Events are drained between turns. What the kernel had to drop, a scan finds.
  * A scan goes by parts, oldest file first, so that a directory of any size takes bounded memory.
  * What the file system does not do now is said once, and tried again at growing intervals; so is said that it does.
  * A stop waits, within a bound, for the commits that are under way, and removes their files.
"""

import asyncio
import errno
import heapq
import os
from typing import Final

import structlog

from ssm_status_reporter.domain.limits import (
    FILES_PER_TURN_MAX,
    REMEMBERED_FILES_MAX,
    RESULTS_IN_FLIGHT_MAX,
    SPOOL_RETRY_MS_MAX,
    SPOOL_RETRY_MS_MIN,
    SPOOL_STOP_SECONDS_MAX,
)
from ssm_status_reporter.domain.sighting import Sighting
from ssm_status_reporter.ports import Clock, Intake
from ssm_status_reporter.sources.quoting import printable
from ssm_status_reporter.sources.seen import KeptFiles, name_bytes
from ssm_status_reporter.sources.spool import Place, ScanEntry, Spool, Spot
from ssm_status_reporter.sources.spool_queue import Held, SpoolQueue
from ssm_status_reporter.sources.spool_reader import Accepted, Settings, SpoolReader
from ssm_status_reporter.sources.spool_removal import SpoolRemoval
from ssm_status_reporter.sources.spool_watch import SpoolWatch

_ENTRIES_PER_TURN: Final = 512
"""Directory entries scanned before other tasks get their turn: about 2 ms."""

_REMEDY: Final = "let this daemon read and write in the directory (no sticky bit)"
_REMEDIES: Final[dict[int | None, str]] = {
    errno.ENOSPC: "make room on the disk",
    errno.EDQUOT: "make room on the disk: its quota is used up",
    errno.EROFS: "make its file system writable",
    errno.EIO: "check the disk",
    errno.EMFILE: "raise the limit of open files",
    errno.ENFILE: "raise fs.file-max, the machine's limit of open files",
}

log = structlog.get_logger()


class SpoolSession:
    """Serves one spool until it is gone from its path."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        kept: KeptFiles,
        intake: Intake,
        sightings: dict[bytes, Sighting],
        spool: Spool,
        watch: SpoolWatch,
    ) -> None:
        self._path = settings.path
        self._clock = clock
        self._kept = kept
        self._intake = intake
        self._sightings = sightings
        self._spool = spool
        self._watch = watch
        self._queue = SpoolQueue()
        self._reader = SpoolReader(settings, spool, self._queue, clock, intake.count_refused, sightings)
        self._removal = SpoolRemoval(settings.path, spool, self._queue)
        self._wake = asyncio.Event()
        self._in_flight = 0
        self._scan_due = True
        self._scanned_to: ScanEntry | None = None
        self._scanned_names: set[bytes] = set()
        self._timer: asyncio.Task[None] | None = None
        self._retry: asyncio.Task[None] | None = None
        self._retry_ms = SPOOL_RETRY_MS_MIN
        self._retry_spots: dict[Spot, None] = {}
        self._troubles_said: set[int | None] = set()

    def recover(self) -> None:
        """Take up what an earlier process claimed and did not remove, or refused without a word. Raises OSError."""
        self._reader.take_back_refused()
        for _, _, name in sorted(self._spool.scan(Place.TAKEN)):
            self._queue.hold(name, Held.UNFINISHED)
            self._queue.add(Spot(Place.TAKEN, name))

    async def serve(self) -> None:
        """Read and hand in; returns when the directory is gone and what was handed in is committed."""
        async with asyncio.TaskGroup() as tasks:
            self._watch.notify(self._wake.set)
            try:
                self._wake.set()
                while await self._turn(tasks):
                    pass
            finally:
                self._watch.notify(None)
                for task in (self._timer, self._retry):
                    if task is not None:
                        task.cancel()

    async def _turn(self, tasks: asyncio.TaskGroup) -> bool:
        """One turn. False: the directory is gone."""
        await self._wake.wait()
        self._wake.clear()
        if not self._follow_events():
            return False
        if self._scan_due and not self._queue:
            await self._scan_part(tasks)
        batch: list[Accepted] = []
        for spot in self._queue.take(max(0, min(FILES_PER_TURN_MAX, RESULTS_IN_FLIGHT_MAX - self._in_flight))):
            batch += self._read(spot, tasks)
        if batch:
            self._in_flight += len(batch)
            storing = asyncio.ensure_future(self._store(batch))
            tasks.create_task(self._commit(batch, storing))
        self._look_after(tasks)
        if (self._queue or self._scan_due) and self._in_flight < RESULTS_IN_FLIGHT_MAX:
            self._wake.set()
        await asyncio.sleep(0)  # the others' turn
        return True

    def _follow_events(self) -> bool:
        """Take note of what inotify tells. False: the directory is gone."""
        changes = self._watch.drain()
        if changes.ended or (changes.displaced and not self._spool.is_at(self._path)):
            return False
        for spot in changes.written:
            self._queue.add(spot)
        if changes.created:
            now_ms = self._clock.now().steady_ms
            for spot in changes.created:
                self._queue.expect(spot, now_ms)
        if changes.overflowed:
            log.warning("more files than inotify could tell of: scanning the results directory", path=self._path)
            self._scan_anew()
        return True

    def _read(self, spot: Spot, tasks: asyncio.TaskGroup) -> list[Accepted]:
        try:
            return self._reader.read(spot)
        except OSError as error:
            # Where it is now: it may have been claimed before the error.
            place = Place.TAKEN if self._queue.is_unfinished(spot.name) else Place.SPOOL
            self._try_later([Spot(place, spot.name)], error, tasks)
            return []

    async def _commit(self, batch: list[Accepted], storing: asyncio.Future[None]) -> None:
        try:
            await asyncio.shield(storing)
        except asyncio.CancelledError:
            # What is committed is not left behind, for the next start would count it a second time.
            done, _ = await asyncio.wait({storing}, timeout=SPOOL_STOP_SECONDS_MAX)
            if done:
                storing.result()
                self._release(batch)
            storing.cancel()
            raise
        self._release(batch)
        self._in_flight -= len(batch)
        if self._queue or self._scan_due or self._removal.left_some:
            self._wake.set()

    async def _store(self, batch: list[Accepted]) -> None:
        plain = [accepted.result for accepted in batch if accepted.sighting is None]
        if plain:
            await self._intake.observe(plain)
        sighted = [(accepted.result, accepted.sighting) for accepted in batch if accepted.sighting is not None]
        if sighted:
            await self._kept.observe_kept(sighted)
            self._sightings.update((sighting.name, sighting) for _, sighting in sighted)
        await asyncio.sleep(0)  # what was handed in may be going out just now, and its file has time

    def _release(self, batch: list[Accepted]) -> None:
        said = log.bind()  # once, not for each of them
        for accepted in batch:
            self._removal.release(accepted)
            said.debug(
                "result accepted", file=printable(accepted.name), association=str(accepted.result.association)
            )

    # Scanning.

    def _scan_anew(self) -> None:
        self._scan_due = True
        self._scanned_to = None
        self._scanned_names.clear()

    async def _scan_part(self, tasks: asyncio.TaskGroup) -> None:
        """Add the next files to the queue, oldest first, as many as it holds."""
        self._scan_due = False
        try:
            part = await self._next_part()
        except OSError as error:
            self._scan_anew()
            self._scan_due = False
            self._try_later([], error, tasks)
            return
        for _, _, name in part:
            self._queue.add(Spot(Place.SPOOL, name))
        if self._sightings:
            self._scanned_names.update(name_bytes(name) for _, _, name in part)
        if len(part) == REMEMBERED_FILES_MAX:
            self._scan_due = True
            self._scanned_to = part[-1]
            return
        for missing in self._sightings.keys() - self._scanned_names:
            self._queue.add(Spot(Place.SPOOL, os.fsdecode(missing)))
        self._scanned_to = None
        self._scanned_names.clear()

    async def _next_part(self) -> list[ScanEntry]:
        part: list[ScanEntry] = []
        for number, entry in enumerate(self._spool.scan(Place.SPOOL)):
            if number % _ENTRIES_PER_TURN == 0:
                await asyncio.sleep(0)
            if self._scanned_to is None or entry > self._scanned_to:
                part.append(entry)
            if len(part) >= 2 * REMEMBERED_FILES_MAX:
                part = heapq.nsmallest(REMEMBERED_FILES_MAX, part)
        return heapq.nsmallest(REMEMBERED_FILES_MAX, part)

    # What is to be done besides.

    def _look_after(self, tasks: asyncio.TaskGroup) -> None:
        if self._reader.vanished:
            names = list(self._reader.vanished)
            self._reader.vanished.clear()
            tasks.create_task(self._forget(names))
        if self._queue.forgot:
            self._queue.forgot = False
            self._scan_anew()
        if (self._queue.crowded or self._removal.left_some) and self._retry is None:
            self._queue.crowded = False
            self._retry = tasks.create_task(self._retry_later())
        if self._timer is None and self._queue.next_deadline_ms() is not None:
            self._timer = tasks.create_task(self._ripen())
        if self._retry is None and not self._queue and not self._scan_due:
            self._note_recovery()

    def _note_recovery(self) -> None:
        """Everything was looked at, and nothing is left to be tried again."""
        self._retry_ms = SPOOL_RETRY_MS_MIN
        if self._troubles_said:
            self._troubles_said.clear()
            log.info("files in the results directory can be taken again", path=self._path)

    async def _forget(self, names: list[bytes]) -> None:
        for name in names:
            self._sightings.pop(name, None)
        await self._kept.forget(names)

    async def _ripen(self) -> None:
        while (deadline_ms := self._queue.next_deadline_ms()) is not None:
            await self._clock.sleep_until(deadline_ms)
            self._queue.ripen(self._clock.now().steady_ms)
            self._wake.set()
        self._timer = None

    def _try_later(self, spots: list[Spot], error: OSError, tasks: asyncio.TaskGroup) -> None:
        """What no event will tell the end of; ``spots`` empty: everything."""
        if error.errno not in self._troubles_said:
            self._troubles_said.add(error.errno)
            log.warning(
                "files in the results directory cannot be taken now; they stay, and are tried again",
                path=self._path,
                file=printable(spots[0].name) if spots else None,
                error=error.strerror,
                hint=_REMEDIES.get(error.errno, _REMEDY),
            )
        if len(self._retry_spots) + len(spots) <= REMEMBERED_FILES_MAX:
            self._retry_spots.update(dict.fromkeys(spots))
        if self._retry is None:
            self._retry = tasks.create_task(self._retry_later())

    async def _retry_later(self) -> None:
        await self._clock.sleep_until(self._clock.now().steady_ms + self._retry_ms)
        self._retry_ms = min(2 * self._retry_ms, SPOOL_RETRY_MS_MAX)
        for spot in self._retry_spots:
            self._queue.add(spot)
        self._retry_spots.clear()
        self._retry = None
        if self._removal.left_some:
            self._removal.remove_left()
        self._scan_anew()
        self._wake.set()
