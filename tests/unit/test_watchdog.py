"""The watchdog: the service manager hears from a daemon whose loops get on, and from no other."""

import os

import pytest

from ssm_status_reporter.host.watchdog import Pulse, watchdog_interval_seconds

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
