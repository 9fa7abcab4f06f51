"""The stage: service, daemon, runner and SSM Agent in one directory, and what they do, told as it happens.

Rules:
  * Waiting is for a state (the outbox's, the service's), never for a time. Every event is told first; after
    each one the state is looked at again.
  * The daemon's end, when nobody asked for it, ends the demo.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

import msgspec

from ssm_status_reporter.demo.daemon_process import NODE, DaemonProcess, DemoFailedError, Premises, run_command
from ssm_status_reporter.demo.narration import Line, Logged, Narrator, Reception, Said
from ssm_status_reporter.demo.runner import Runner
from ssm_status_reporter.demo.ssm_agent import SsmAgent
from ssm_status_reporter.domain.entry import Count
from ssm_status_reporter.emulator.ledger import Entry
from ssm_status_reporter.emulator.server import Emulator
from ssm_status_reporter.host.clock import SystemClock
from ssm_status_reporter.outbox.snapshot import Snapshot, snapshot
from ssm_status_reporter.ports import Clock

STORY_SECONDS_MAX: Final = 17.0
"""From the first start to the last check; ending what runs takes its time besides, and 20 s is the promise."""
LOOK_SECONDS: Final = 0.2
"""The state is looked at so often even when nothing is heard: what is counted late is said before it is there."""


class Audience(Protocol):
    """Whoever the story is told to."""

    def heading(self, text: str) -> None:
        """A new scene."""

    def line(self, seconds: float, line: Line) -> None:
        """Something happened, so many seconds after the start."""


class _LogEnded:
    """The daemon's log has ended, and so has the daemon."""


class _Nudge:
    """Something else is over: look at the state."""


Event = Logged | Entry | _LogEnded | _Nudge | BaseException


class Stage:
    """Everything a scene needs. Made by `staged`."""

    def __init__(
        self, premises: Premises, service: Emulator, daemon: DaemonProcess, audience: Audience, clock: Clock
    ) -> None:
        self.premises = premises
        self.service = service
        self.daemon = daemon
        self.runner = Runner(premises.results)
        self.agent = SsmAgent(premises.ssm_agent, service.url)
        self._audience = audience
        self._clock = clock
        self._started_ms = clock.now().steady_ms
        self._narrator = Narrator()
        self._events: asyncio.Queue[tuple[float, Event]] = asyncio.Queue()
        self._counters: Mapping[str, int] = Counter()
        self._log_ended = False
        self.heard: Counter[str] = Counter()
        """How often each event was in the daemon's log."""
        self._recorded = 0
        self.awaited = "the daemon to start"
        """What the story waits for, for whoever has to say that it waited in vain."""

    # What a scene does.

    def heading(self, text: str) -> None:
        """Begin a scene."""
        self._audience.heading(text)

    def tell(self, line: Line) -> None:
        """Tell what was done here, not by the daemon."""
        self._audience.line(self.seconds, line)

    @property
    def seconds(self) -> float:
        """Since the start."""
        return (self._clock.now().steady_ms - self._started_ms) / 1000

    @property
    def wall(self) -> datetime:
        """The time of day, with its offset."""
        return datetime.fromtimestamp(self._clock.now().wall_ms / 1000).astimezone()

    @property
    def utc(self) -> datetime:
        """The time of day, in UTC."""
        return self.wall.astimezone(UTC)

    def state(self) -> Snapshot:
        """What the outbox says now; what ``status --json`` would print."""
        return snapshot(self.premises.outbox, self._clock.now())

    async def until(self, awaited: str, reached: Callable[[], bool]) -> None:
        """Tell what happens until the state is reached.

        Raises `DemoFailedError` if the daemon ends meanwhile. ``awaited`` completes "waited for …".
        """
        self.awaited = awaited
        while not reached():
            if self._log_ended:
                raise DemoFailedError(f"the daemon ended {await self.daemon.last_words()}")
            await self._take_one()
        self._take_waiting()

    async def command(self, *arguments: str) -> bytes:
        """Call a command beside the daemon; returns what it prints. Raises `DemoFailedError` if it fails."""
        call = asyncio.create_task(run_command(self.premises, *arguments))
        call.add_done_callback(lambda _: self._hear(_Nudge()))
        try:
            await self.until(f"{arguments[0]} to end", call.done)
            return await call
        finally:
            call.cancel()

    async def told(self) -> None:
        """Wait until everything that the service has recorded is told."""
        await self.until("the service's record", lambda: self._recorded >= len(self.service.ledger))

    async def taken(self, written: int = 1) -> None:
        """Wait until as many more results are stored as were just written."""
        target = self._counters[Count.RECEIVED] + written
        await self.until("the daemon to take the result", lambda: self._counters[Count.RECEIVED] >= target)

    def has_arrived(self, document: str) -> bool:
        """Whether the service holds the newest result of the document."""
        held, newest = self.service.status_of(NODE, document), self.runner.newest[document]
        return held is not None and (held.status, held.message) == (newest.status, newest.message)

    async def arrived(self) -> None:
        """Wait until the service holds the newest result of every document."""
        await self.until(
            "the service to hold the newest results", lambda: all(map(self.has_arrived, self.runner.newest))
        )

    # What it hears.

    def listen(self) -> list["asyncio.Task[None]"]:
        """Hear the daemon's log and the service's ledger from now on."""
        tasks = [asyncio.create_task(self._hear_log()), asyncio.create_task(self._hear_ledger())]
        for task in tasks:
            task.add_done_callback(self._hear_failure)
        return tasks

    async def _hear_log(self) -> None:
        async for line in self.daemon.lines():
            try:
                self._hear(msgspec.json.decode(line, type=Logged))
            except msgspec.DecodeError:
                continue  # no log line of ours; it is in the file
        self._hear(_LogEnded())

    async def _hear_ledger(self) -> None:
        heard = 0
        while True:
            entries = await self.service.wait_for(_longer_than(heard), 2 * STORY_SECONDS_MAX)
            for entry in entries[heard:]:
                self._hear(entry)
            heard = len(entries)

    def _hear_failure(self, task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._hear(error)

    def _hear(self, event: Event) -> None:
        self._events.put_nowait((self.seconds, event))

    async def _take_one(self) -> None:
        try:
            seconds, event = await asyncio.wait_for(self._events.get(), LOOK_SECONDS)
        except TimeoutError:
            return
        self._take(seconds, event)

    def _take_waiting(self) -> None:
        while not self._events.empty():
            self._take(*self._events.get_nowait())

    def _take(self, seconds: float, event: Event) -> None:
        line = None
        match event:
            case Logged():
                self.heard[event.event] += 1
                line = self._narrator.logged(event, self._reception(event))
            case Entry():
                self._recorded += 1
                line = self._narrator.recorded(event)
            case _LogEnded():
                self._log_ended = True
            case _Nudge():
                pass
            case error:
                raise error
        if line is not None:
            self._audience.line(seconds, line)

    def _reception(self, said: Logged) -> Reception:
        """How the result that was just received stands in the outbox."""
        if said.event != Said.RECEIVED:
            return Reception()
        before, after = self._counters, self.state()
        self._counters = after.counters
        views = [view for view in after.associations if view.document == said.document]
        pending = any(view.pending is not None for view in views)
        waits = max((self._seconds_until(view.next_attempt_at) for view in views), default=0.0)
        return Reception(
            waits_seconds=waits if pending else 0.0,
            behind_hold=pending and bool(after.holds),
            replaced=after.counters[Count.COALESCED] > before[Count.COALESCED],
            pending=pending,
        )

    def _seconds_until(self, moment: str | None) -> float:
        if moment is None:
            return 0.0
        return datetime.fromisoformat(moment).timestamp() - self._clock.now().wall_ms / 1000


@asynccontextmanager
async def staged(directory: Path, audience: Audience) -> AsyncIterator[Stage]:
    """Set up service, daemon and runner in an empty directory; end what runs when it is left, whatever happened.

    Raises OSError when the service cannot listen or the daemon cannot be started.
    """
    premises, clock = Premises(directory), SystemClock()
    async with Emulator(ledger_path=premises.ledger) as service:
        premises.furnish(service.url)
        daemon = await DaemonProcess.start(premises)
        listeners = []
        try:
            made = Stage(premises, service, daemon, audience, clock)
            listeners = made.listen()
            yield made
        finally:
            for listener in listeners:
                listener.cancel()
            await daemon.kill()


def _longer_than(count: int) -> Callable[[Sequence[Entry]], bool]:
    return lambda entries: len(entries) > count
