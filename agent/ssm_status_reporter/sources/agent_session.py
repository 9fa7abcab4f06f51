"""One state directory of the SSM Agent, from its first survey until it is gone: what is looked at, and when.

Rules:
  * Events are followed in their order and at once: a run that is not opened in time is lost.
  * What the kernel had to drop, a survey finds at once; what the file system refuses, with no event to tell the
    end of it, a survey at growing intervals.
  * At a stop, what can be read now is read: its file may be gone.
"""

import asyncio
from contextlib import ExitStack

import structlog

from ssm_status_reporter.domain.limits import SPOOL_RETRY_MS_MAX, SPOOL_RETRY_MS_MIN
from ssm_status_reporter.ports import Clock
from ssm_status_reporter.sources.agent_reader import AgentReader
from ssm_status_reporter.sources.agent_state import StateDirectory
from ssm_status_reporter.sources.agent_watch import AgentWatch, Change, Place, Turn

log = structlog.get_logger()


class AgentSession:
    """Serves one state directory. Its directories are closed with ``stack``."""

    def __init__(self, path: str, reader: AgentReader, clock: Clock, watch: AgentWatch, stack: ExitStack) -> None:
        self._path = path
        self._reader = reader
        self._clock = clock
        self._watch = watch
        self._current = stack.enter_context(ExitStack())
        self._pending = stack.enter_context(ExitStack())
        self._places: dict[Place, StateDirectory] = {}
        self._wake = asyncio.Event()
        self._retry: asyncio.Task[None] | None = None
        self._trouble_said: int | None = None

    def begin(self) -> None:
        """Watch the directories and look at what is in them. Raises OSError when that cannot be done."""
        self._enter(Place.CURRENT, self._current)
        self._enter_pending()
        self._survey()

    async def serve(self) -> None:
        """Follow until the directory is gone from its path; its runs have been read a last time then."""
        self._watch.notify(self._wake.set)
        self._wake.set()
        try:
            async with asyncio.TaskGroup() as tasks:
                while await self._turn(tasks):
                    pass
                if self._retry is not None:
                    self._retry.cancel()
            # A new pending may be there before the new current.
            self._reader.leave_all_but([place for place in self._places.values() if place.is_in_place])
        except asyncio.CancelledError:
            self._follow_events()
            self._reader.stop()
            raise
        finally:
            self._watch.notify(None)

    async def _turn(self, tasks: asyncio.TaskGroup) -> bool:
        """One turn. False: the directory is gone."""
        await self._wake.wait()
        self._wake.clear()
        there = self._follow_events()
        if self._reader.trouble is not None and self._retry is None:
            self._retry = tasks.create_task(self._survey_until_untroubled())
        await asyncio.sleep(0)  # the others' turn
        return there

    def _follow_events(self) -> bool:
        """Do what inotify tells. False: the directory is gone."""
        changes = self._watch.drain()
        touched: dict[str, None] = {}
        for change in changes.files:
            self._follow(change, touched)
        if changes.overflowed:
            log.warning(
                "more of the SSM Agent's files than inotify could tell of: surveying them", path=self._path
            )
        if changes.pending_displaced:
            self._enter_pending()
        if changes.overflowed or changes.pending_displaced:
            self._survey()
        for name in touched:
            self._reader.read(name)
        return not changes.ended and (not changes.displaced or self._places[Place.CURRENT].is_in_place)

    def _follow(self, change: Change, touched: dict[str, None]) -> None:
        name = change.name
        directory = self._places.get(change.place)
        if directory is None:
            return  # pending, which went meanwhile
        if change.turn is Turn.LEFT:
            if change.place is Place.PENDING:
                self._reader.leave_for(name, self._places[Place.CURRENT])
            else:
                self._reader.leave(name)
        elif self._reader.meet(name, directory):
            touched[name] = None
        elif change.place is Place.CURRENT and change.turn is Turn.APPEARED:
            self._reader.miss(name)

    # Looking everywhere.

    def _enter(self, place: Place, stack: ExitStack) -> None:
        self._watch.watch(place)
        self._places[place] = stack.enter_context(StateDirectory(f"{self._path}/{place.value}"))

    def _enter_pending(self) -> None:
        """The agent may do without; all of its runs come to current."""
        self._pending.close()  # the one that it takes the place of
        try:
            self._enter(Place.PENDING, self._pending)
        except OSError as error:
            self._places.pop(Place.PENDING, None)
            log.debug("no pending runs of the SSM Agent", path=self._path, error=error.strerror)

    def _survey(self) -> None:
        # Pending is listed first: what moves on between the two is then met in current.
        self._reader.survey([self._places[place] for place in Place if place in self._places])

    async def _survey_until_untroubled(self) -> None:
        retry_ms = SPOOL_RETRY_MS_MIN
        while (trouble := self._reader.trouble) is not None:
            if trouble.errno != self._trouble_said:
                self._trouble_said = trouble.errno
                log.warning(
                    "state files of the SSM Agent cannot be read now; they are tried again",
                    path=self._path,
                    error=trouble.strerror,
                    hint="the daemon needs CAP_DAC_READ_SEARCH, as its unit gives it, and room for open files",
                )
            await self._clock.sleep_until(self._clock.now().steady_ms + retry_ms)
            retry_ms = min(2 * retry_ms, SPOOL_RETRY_MS_MAX)
            self._reader.trouble = None
            self._survey()
        self._retry = self._trouble_said = None
