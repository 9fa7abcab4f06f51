"""The file through which commands wake the daemon, over real inotify."""

import asyncio
import resource
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import pytest
from structlog.testing import capture_logs

from domain_support import ManualClock
from ssm_status_reporter.domain.limits import COMMANDS_LOOK_MS
from ssm_status_reporter.outbox.letters import wake_path
from ssm_status_reporter.outbox.wake_watch import WakeWatch

SECONDS_MAX: Final = 60


@asynccontextmanager
async def watching(outbox: Path, clock: ManualClock) -> AsyncIterator[asyncio.Queue[None]]:
    """The watch, and the wake-ups since it was set."""
    wakes: asyncio.Queue[None] = asyncio.Queue()
    wake: Callable[[], None] = lambda: wakes.put_nowait(None)  # noqa: E731 - a queue has no such method
    task = asyncio.create_task(WakeWatch(outbox, clock, wake).run())
    async with asyncio.timeout(SECONDS_MAX):
        await wakes.get()
        yield wakes
    task.cancel()
    await asyncio.wait({task})


@contextmanager
def no_more_files() -> Iterator[None]:
    """Nothing more can be opened, so inotify has no instance left either."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.fixture
def outbox(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path / "state" / "outbox.db"


async def test_a_command_wakes(outbox: Path) -> None:
    """The file is made, then written again: each is told."""
    async with watching(outbox, ManualClock()) as wakes:
        for _ in range(2):
            wake_path(outbox).write_bytes(b"")
            await wakes.get()


async def test_a_directory_that_is_made_anew_is_watched(outbox: Path) -> None:
    """The outbox's directory is removed and made anew, as the daemon does it: a command there still wakes."""
    async with watching(outbox, ManualClock()) as wakes:
        outbox.parent.rmdir()
        await wakes.get()
        outbox.parent.mkdir()
        await wakes.get()
        wake_path(outbox).write_bytes(b"")
        await wakes.get()


async def test_without_inotify_it_is_said_once_and_looked_at_now_and_then(outbox: Path) -> None:
    """No instance is left: the daemon goes on, wakes by the clock, and is told again once there is one."""
    clock = ManualClock()
    with capture_logs() as said, no_more_files():
        async with watching(outbox, clock) as wakes:
            for _ in range(2):
                clock.advance(COMMANDS_LOOK_MS)
                await wakes.get()
    (complaint,) = said
    assert "max_user_instances" in complaint["hint"]
