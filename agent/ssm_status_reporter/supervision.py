"""Supervision: what the service manager is told of a running daemon, its status line and that its loops get on.

Rules:
  * The status line follows what happens, at most every `STATUS_SECONDS_MIN`. While nothing happens, only how long ago
    the last report was delivered grows old: it is told anew when its text would be another, ever more rarely.
  * The watchdog is fed as long as the loops get on (`host.watchdog`).
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog

from ssm_status_reporter.domain.limits import STATUS_HINT_CHARS_MAX, STATUS_SECONDS_MIN
from ssm_status_reporter.host.systemd import ServiceManager
from ssm_status_reporter.host.watchdog import Pulse, watchdog_interval_seconds
from ssm_status_reporter.outbox.commit import Committer
from ssm_status_reporter.outbox.sqlite import SqliteOutbox
from ssm_status_reporter.ports import Clock
from ssm_status_reporter.reporter import Reporter

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Age:
    """How long ago something was, and for how long that can be said so."""

    text: str
    fresh_seconds: int


def age(seconds: int) -> Age:
    """An age in the unit that an operator would use."""
    for text, unit, up_to, fresh_seconds in _AGES:
        if seconds < up_to:
            return Age(f"{seconds // unit} {text}", fresh_seconds)
    return Age(f"{seconds // _DAY} days", _DAY)


_MINUTE: Final = 60
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR
_AGES: Final = (
    ("s", 1, 2 * _MINUTE, 10),
    ("min", _MINUTE, 2 * _HOUR, _MINUTE),
    ("h", _HOUR, 2 * _DAY, _HOUR),
)
"""Unit, its seconds, up to which age it is used, and how often it is told anew."""


class Supervision:
    """Tells the service manager of one daemon."""

    def __init__(
        self, manager: ServiceManager, clock: Clock, outbox: SqliteOutbox, committer: Committer, reporter: Reporter
    ) -> None:
        self._manager = manager
        self._clock = clock
        self._outbox = outbox
        self._committer = committer
        self._reporter = reporter

    async def keep_status(self) -> None:
        """The status line, until cancelled."""
        turned = self._reporter.turned
        while True:
            turned.clear()
            totals = await self._outbox.totals()
            await self._tell_until(turned, totals)

    async def _tell_until(self, turned: asyncio.Event, totals: Mapping[str, int]) -> None:
        """Tell it at least once, however much happens meanwhile, and anew as it grows old."""
        while True:
            since = self._last_delivered()
            self._manager.notify(STATUS=self._status_line(totals, since))
            await asyncio.sleep(STATUS_SECONDS_MIN)
            with suppress(TimeoutError):
                # Not wait_for: Python 3.11's loses a cancellation that comes together with the event.
                async with asyncio.timeout(None if since is None else since.fresh_seconds):
                    await turned.wait()
                return

    async def feed_watchdog(self) -> None:
        """The watchdog, until cancelled, as long as the loops get on."""
        interval = watchdog_interval_seconds()
        if interval is None:
            return
        before = pulses(self._committer, self._reporter)
        while True:
            await asyncio.sleep(interval)
            now = pulses(self._committer, self._reporter)
            stuck = [name for name in now if now[name].stuck_since(before[name])]
            before = now
            if stuck:
                log.error("stuck: the service manager will start the daemon anew", loops=stuck)
            else:
                self._manager.notify(WATCHDOG=1)

    def _last_delivered(self) -> Age | None:
        delivered_ms = self._reporter.last_delivered_ms
        return None if delivered_ms is None else age((self._clock.now().steady_ms - delivered_ms) // 1000)

    def _status_line(self, totals: Mapping[str, int], last_delivered: Age | None) -> str:
        undelivered = totals.get("pending", 0) + totals.get("in_flight", 0)
        parts = [f"{sum(totals.values())} associations", f"{undelivered} pending"]
        parts += [f"{count} {state}" for state, count in totals.items() if state in {"parked", "dead"}]
        if last_delivered is not None:
            parts.append(f"last delivered {last_delivered.text} ago")
        line = ", ".join(parts)
        newest_first = sorted(self._reporter.holds, key=lambda hold: hold.since_ms, reverse=True)
        for hold in newest_first[:1]:
            hint = (hold.problem.hint or hold.problem.message)[:STATUS_HINT_CHARS_MAX]
            line += f"; {hold.scope.value} hold: {hold.problem.code}: {hint}"
        if newest_first[1:]:
            line += f"; {len(newest_first) - 1} more holds"
        return line.replace("\n", " ")  # a line end would begin another state


def pulses(committer: Committer, reporter: Reporter) -> dict[str, Pulse]:
    """Each loop as it is now."""
    return {
        "outbox": Pulse(committer.progress, committer.waiting > 0),
        # While operations wait, the reporter waits for the outbox: a full disk is not the reporter's standstill.
        "reporter": Pulse(reporter.progress, reporter.is_woken and committer.waiting == 0),
    }
