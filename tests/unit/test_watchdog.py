"""The watchdog: the service manager hears from a daemon whose loops get on, and from no other."""

import asyncio
import os
import random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ssm_status_reporter.domain.backoff import Backoff
from ssm_status_reporter.domain.traffic import Pace
from ssm_status_reporter.host.clock import SystemClock
from ssm_status_reporter.host.watchdog import Pulse, watchdog_interval_seconds
from ssm_status_reporter.reporter import Reporter
from ssm_status_reporter.supervision import pulses

OWN_PID = str(os.getpid())


@pytest.mark.parametrize(
    ("before", "now", "stuck"),
    [
        (Pulse(7, busy=True), Pulse(7, busy=True), True),
        (Pulse(7, busy=True), Pulse(8, busy=True), False),
        (Pulse(7, busy=False), Pulse(7, busy=False), False),
        (Pulse(7, busy=False), Pulse(7, busy=True), False),
        (Pulse(7, busy=True), Pulse(7, busy=False), False),
    ],
)
def test_a_loop_is_stuck_when_it_had_work_at_two_looks_and_did_none(
    before: Pulse, now: Pulse, *, stuck: bool
) -> None:
    """A daemon that hangs is started anew; one that has nothing to do is left alone."""
    assert now.stuck_since(before) is stuck


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": OWN_PID}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({}, None),
    ],
)
def test_the_service_manager_is_told_twice_in_its_interval(
    environment: dict[str, str], seconds: float | None
) -> None:
    """WatchdogSec= is followed when it is meant for this process, and only then."""
    assert watchdog_interval_seconds(environment) == seconds


class _Hanging:
    """Whatever is asked of it never ends."""

    def __getattr__(self, name: str) -> Any:
        async def never(*_: object) -> None:
            await asyncio.Event().wait()

        return never

    def withdraw(self) -> None:
        """The outbox has nothing that stands by."""


async def test_a_reporter_that_hangs_misses_the_watchdog() -> None:
    """A turn that never ends is seen as soon as something is due; before that the daemon is merely idle."""
    idle = cast("Any", SimpleNamespace(progress=0, waiting=0))
    hanging = cast("Any", _Hanging())
    reporter = Reporter(hanging, hanging, SystemClock(), random.random, Pace(1, 1.0, 1, Backoff(1, 1)))
    running = asyncio.create_task(reporter.run())
    while not reporter.progress:  # noqa: ASYNC110 - its turn begins within this loop's next ones
        await asyncio.sleep(0)
    first, second = pulses(idle, reporter), pulses(idle, reporter)
    assert not any(second[name].stuck_since(first[name]) for name in second)
    reporter.wake()
    first, second = pulses(idle, reporter), pulses(idle, reporter)
    assert [name for name in second if second[name].stuck_since(first[name])] == ["reporter"]
    running.cancel()
    await asyncio.wait({running})
