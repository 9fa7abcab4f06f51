"""What tests of the results directory share: an intake that records, a memory, a clock to turn, bounded waits."""

import asyncio
import json
import os
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from ssm_status_reporter.config import AfterAccept
from ssm_status_reporter.domain.result import Result
from ssm_status_reporter.domain.sighting import Sighting
from ssm_status_reporter.domain.time import Now
from ssm_status_reporter.host.clock import SystemClock
from ssm_status_reporter.ports import Clock
from ssm_status_reporter.sources.results_directory import ResultsDirectory
from ssm_status_reporter.sources.spool_reader import Settings

NODE = "i-0123456789abcdef0"
WAIT_SECONDS_MAX = 120.0
NOBODY = 65534


class RecordingIntake:
    """Records what is handed in; commits at once, or when `commits` is set."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.batches: list[int] = []
        self.offered: list[Result] = []
        self.refused = 0
        self.commits = asyncio.Event()
        self.commits.set()
        self.changed = asyncio.Event()
        self.known_sightings: dict[bytes, Sighting] = {}
        self.forgotten: list[bytes] = []

    async def observe(self, results: Sequence[Result]) -> None:
        self.offered += results
        self.changed.set()
        await self.commits.wait()
        self.results += results
        self.batches.append(len(results))
        self.changed.set()

    def count_refused(self, inputs: int) -> None:
        self.refused += inputs
        self.changed.set()

    async def known(self) -> Mapping[bytes, Sighting]:
        return self.known_sightings

    async def observe_kept(self, sighted: Sequence[tuple[Result, Sighting]]) -> None:
        await self.observe([result for result, _ in sighted])
        self.known_sightings = {**self.known_sightings, **{sighting.name: sighting for _, sighting in sighted}}

    async def forget(self, names: Collection[bytes]) -> None:
        self.forgotten += names
        self.known_sightings = {n: s for n, s in self.known_sightings.items() if n not in names}
        self.changed.set()

    def messages(self) -> list[str]:
        return [result.report.message for result in self.results]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for the condition, which is looked at whenever something is handed in or refused."""
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


class TurnedClock:
    """Stands still until it is turned."""

    def __init__(self) -> None:
        self._now = SystemClock().now()
        self._turned = asyncio.Event()
        self.sleepers = 0
        self.asleep = asyncio.Event()

    def now(self) -> Now:
        return self._now

    async def sleep_until(self, steady_ms: int) -> None:
        self.sleepers += 1
        self.asleep.set()
        try:
            while self._now.steady_ms < steady_ms:
                await self._turned.wait()
        finally:
            self.sleepers -= 1

    def turn(self, milliseconds: int) -> None:
        self._now = Now(self._now.wall_ms + milliseconds, self._now.steady_ms + milliseconds)
        self._turned.set()
        self._turned = asyncio.Event()


@asynccontextmanager
async def running(
    path: Path,
    intake: RecordingIntake,
    clock: Clock | None = None,
    after_accept: AfterAccept = AfterAccept.REMOVE,
    max_file_size_bytes: int = 64 * 1024,
    allow: tuple[str, ...] = (),
) -> AsyncIterator[asyncio.Task[None]]:
    """The source, watching; cancelled at the end."""
    settings = Settings(str(path), after_accept, max_file_size_bytes, NODE, allow)
    source = ResultsDirectory(settings, clock or SystemClock(), intake)
    watching = asyncio.Event()
    task = asyncio.create_task(source.run(intake, watching.set))
    waiting = asyncio.create_task(watching.wait())
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    try:
        yield task
    finally:
        if task.done():
            task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def result_bytes(message: str = "done", status: str = "Success", **more: object) -> bytes:
    return json.dumps({"document": "My-Doc", "status": status, "message": message, **more}).encode()


def drop(directory: Path, name: str, payload: bytes) -> Path:
    """Write as runners should: under another name, then renamed."""
    draft = directory / f".{os.getpid()}-{threading.get_ident()}.draft"
    draft.write_bytes(payload)
    return draft.rename(directory / name)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what no event tells: the state of the disk."""
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        while not condition():  # noqa: ASYNC110 - the disk tells nobody
            await asyncio.sleep(0.002)


def lying_in(directory: Path) -> list[str]:
    """The visible names."""
    return sorted(path.name for path in directory.iterdir() if not path.name.startswith("."))


def taken(directory: Path) -> list[str]:
    """What is claimed."""
    return sorted(path.name for path in (directory / ".taken").iterdir())


@contextmanager
def unprivileged() -> Iterator[Path]:
    """A directory of its own for a process that may not read everything; root becomes nobody meanwhile."""
    directory = Path(tempfile.mkdtemp(prefix="spool-of-nobody-"))  # pytest's own may be closed to nobody
    root = os.geteuid() == 0
    try:
        if root:
            os.chown(directory, NOBODY, NOBODY)
            os.setegid(NOBODY)
            os.seteuid(NOBODY)
        yield directory
    finally:
        if root:
            os.seteuid(0)
            os.setegid(0)
        shutil.rmtree(directory)
