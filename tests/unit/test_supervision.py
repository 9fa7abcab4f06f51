"""The status line is told however busy the daemon is; the age in it is short, true, and told ever more rarely."""

import asyncio
import socket
import threading
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from ssm_status_reporter.host.clock import SystemClock
from ssm_status_reporter.host.systemd import ServiceManager
from ssm_status_reporter.supervision import Supervision, age

SECONDS_MAX = 60
MINUTE, HOUR, DAY = 60, 3600, 86_400


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (12, "12 s"),
        (119, "119 s"),
        (2 * MINUTE, "2 min"),
        (2 * HOUR - 1, "119 min"),
        (2 * HOUR, "2 h"),
        (2 * DAY - 1, "47 h"),
        (2 * DAY, "2 days"),
        (400 * DAY, "400 days"),
    ],
)
def test_an_age_is_told_in_the_unit_that_an_operator_would_use(seconds: int, text: str) -> None:
    """Seconds for two minutes, minutes for two hours, hours for two days, then days."""
    assert age(seconds).text == text


@given(st.integers(0, 10 * DAY))
def test_an_age_is_told_anew_before_it_is_far_off(seconds: int) -> None:
    """For as long as it stands there it is off by one unit, or by ten seconds, at most; and idleness stays cheap."""
    told = age(seconds)
    unit = {"s": 1, "min": MINUTE, "h": HOUR, "days": DAY}[told.text.split()[1]]
    assert told.fresh_seconds <= max(unit, 10)
    assert told.fresh_seconds >= 10


async def test_a_reporter_that_never_rests_has_a_status_line_and_is_asked_no_more_often(tmp_path: Path) -> None:
    """Something happens during each look at the outbox: the line is told all the same, and looks are rare."""
    reporter: Any = SimpleNamespace(turned=asyncio.Event(), last_delivered_ms=None, holds=())
    looks = 0

    async def totals() -> dict[str, int]:
        nonlocal looks
        looks += 1
        await asyncio.sleep(0)
        reporter.turned.set()
        return {"acknowledged": looks}

    outbox: Any = SimpleNamespace(totals=totals)
    nobody: Any = None
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(0)
        told = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        task = asyncio.create_task(Supervision(told, SystemClock(), outbox, nobody, reporter).keep_status())
        async with asyncio.timeout(SECONDS_MAX):
            line = await asyncio.get_running_loop().sock_recv(manager, 4096)
        task.cancel()
        await asyncio.wait({task})
        told.close()
    assert line == b"STATUS=1 associations, 0 pending"
    assert looks == 1


def test_a_service_manager_that_reads_nothing_holds_nothing_up(tmp_path: Path) -> None:
    """Its queue is full, for it hangs: it is not waited for, for the event loop would wait with it."""
    address = str(tmp_path / "notify")
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as hanging,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as others,
    ):
        hanging.bind(address)
        others.settimeout(0)
        with suppress(BlockingIOError):
            while True:
                others.sendto(b"STATUS=another service", address)
        manager = ServiceManager({"NOTIFY_SOCKET": address})
        with capture_logs() as said:
            telling = threading.Thread(target=manager.notify, kwargs={"WATCHDOG": 1}, daemon=True)
            telling.start()
            telling.join(SECONDS_MAX)
        assert not telling.is_alive()
        manager.close()
    assert [(line["event"], line["error"]) for line in said] == [
        ("the service manager cannot be told", "timed out")
    ]
