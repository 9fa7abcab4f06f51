"""The watch on shared credentials, with real files and real inotify, where inotify cannot tell too."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from results_directory_support import WAIT_SECONDS_MAX, TurnedClock, unprivileged, until
from ssm_status_reporter.domain.limits import CREDENTIALS_LOOK_MS_MAX, CREDENTIALS_PAUSE_MS
from ssm_status_reporter.host.clock import SystemClock
from ssm_status_reporter.ports import Clock
from ssm_status_reporter.ssm.credentials_watch import CredentialsWatch
from ssm_support import write_keys

UNWATCHED = "shared credentials cannot be watched: they are looked at now and then"


class Tries:
    """How often the keys were tried."""

    def __init__(self) -> None:
        self.count = 0
        self._more = asyncio.Event()

    async def again(self) -> None:
        self.count += 1
        self._more.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            while self.count < count:
                self._more.clear()
                await self._more.wait()


@asynccontextmanager
async def watching(
    monkeypatch: pytest.MonkeyPatch, file: Path, clock: Clock | None = None
) -> AsyncIterator[Tries]:
    """The watch, running."""
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file.with_name("config")))
    tries = Tries()
    task = asyncio.create_task(CredentialsWatch(clock or SystemClock(), tries.again).run())
    try:
        yield tries
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def looked(clock: TurnedClock) -> None:
    """A look that is due by the clock has been taken, and the next is waited for."""
    await until(lambda: clock.sleepers > 0)
    clock.asleep.clear()
    clock.turn(CREDENTIALS_LOOK_MS_MAX)
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        await clock.asleep.wait()


async def test_a_change_at_every_level_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Home and directory appear, the file is written, rewritten, closed to all, removed: each is one more try."""
    file = tmp_path / "home" / ".aws" / "credentials"
    async with watching(monkeypatch, file) as tries:
        await asyncio.sleep(0)
        file.parent.mkdir(parents=True)
        write_keys(file, "ASIAONE")
        await tries.until(1)
        write_keys(file, "ASIATHREE")
        await tries.until(2)
        file.chmod(0o600)
        await tries.until(3)
        file.with_name("config").write_text("[default]\n")
        await tries.until(4)
        file.parent.rename(tmp_path / "aside")
        await tries.until(5)
        (tmp_path / "aside").rename(file.parent)
        await tries.until(6)
        file.unlink()
        await tries.until(7)


async def test_what_changed_before_it_ran_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing falls between what was seen when it was made and its first watch."""
    file = tmp_path / "credentials"
    async with watching(monkeypatch, file) as tries:
        write_keys(file, "ASIAONE")  # the task has not had its turn yet
        await tries.until(1)


async def test_a_file_without_rest_is_tried_now_and_then(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """However often it is written, there is one try a pause, and one after the last change."""
    file = tmp_path / "credentials"
    clock = TurnedClock()
    async with watching(monkeypatch, file, clock) as tries:
        await asyncio.sleep(0)
        for number in range(100):
            write_keys(file, f"ASIA{number}")
            await asyncio.sleep(0.001)
        await tries.until(1)
        assert tries.count == 1
        clock.turn(CREDENTIALS_PAUSE_MS)
        await tries.until(2)
        assert tries.count == 2


async def test_reading_is_no_change(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Who reads the files, as the SDK does at each try, and what lies beside them, wakes nothing."""
    file = tmp_path / "credentials"
    write_keys(file, "ASIAONE")
    async with watching(monkeypatch, file) as tries:
        await asyncio.sleep(0)
        for _ in range(3):
            file.read_bytes()
            (tmp_path / "beside").write_bytes(b"")
        write_keys(file, "ASIATHREE")
        await tries.until(1)
        assert tries.count == 1


@pytest.mark.parametrize("mode", [0o300, 0o000])
async def test_a_home_that_may_not_be_read_is_looked_at_now_and_then(
    monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    """No right to watch, or none to enter: said once with the remedy, looked at by the clock, never a crash."""
    with unprivileged() as directory, capture_logs() as lines:
        file = directory / "home" / ".aws" / "credentials"
        home = directory / "home"
        home.mkdir()
        home.chmod(mode)
        clock = TurnedClock()
        async with watching(monkeypatch, file, clock) as tries:
            for _ in range(3):
                await looked(clock)
            assert tries.count == 0
            home.chmod(0o700)
            file.parent.mkdir()
            write_keys(file, "ASIAONE")
            home.chmod(0o100)
            await looked(clock)
            await tries.until(1)
        home.chmod(0o700)
        (said,) = [line for line in lines if line["event"] == UNWATCHED]
        assert "let the daemon read" in said["hint"]
        assert said["error"] == "Permission denied"
