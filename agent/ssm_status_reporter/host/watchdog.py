"""The watchdog: the service manager is told that the daemon lives only as long as its loops get on.

Rules:
  * What has nothing to do is alive. What has something to do must get on between two looks.
  * The event loop needs no look of its own: when it hangs, nobody looks, and nothing is told.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ssm_status_reporter.domain.limits import HEALTH_MS_MIN
from ssm_status_reporter.ports import Clock


@dataclass(frozen=True, slots=True)
class Pulse:
    """One loop at one moment: how far it has got, and whether it has something to do."""

    progress: int
    busy: bool

    def stuck_since(self, before: "Pulse") -> bool:
        """Whether it had something to do all the while and did not get on."""
        return before.busy and self.busy and self.progress == before.progress


class Health:
    """The loops' pulses, judged whenever somebody asks, over at least `HEALTH_MS_MIN`."""

    def __init__(self, pulses: Callable[[], Mapping[str, Pulse]], clock: Clock) -> None:
        self._pulses = pulses
        self._clock = clock
        self._before = pulses()
        self._looked_at_ms = clock.now().steady_ms
        self._stuck: tuple[str, ...] = ()

    def stuck(self) -> tuple[str, ...]:
        """The loops that had something to do since an earlier look and did not get on."""
        now_ms = self._clock.now().steady_ms
        if now_ms - self._looked_at_ms >= HEALTH_MS_MIN:
            now = self._pulses()
            self._stuck = tuple(name for name in now if now[name].stuck_since(self._before[name]))
            self._before, self._looked_at_ms = now, now_ms
        return self._stuck


def watchdog_interval_seconds(environment: Mapping[str, str] = os.environ) -> float | None:
    """How often the service manager wants to be told, halved for safety; None: it does not.

    Source: sd_watchdog_enabled(3). Another process's WATCHDOG_PID means that we are not meant.
    """
    timeout_us = environment.get("WATCHDOG_USEC", "")
    pid = environment.get("WATCHDOG_PID")
    if not timeout_us.isdecimal() or int(timeout_us) == 0 or (pid is not None and pid != str(os.getpid())):
        return None
    return int(timeout_us) / 1_000_000 / 2
