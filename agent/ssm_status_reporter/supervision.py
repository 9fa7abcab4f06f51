"""Supervision: what the service manager is told of a running daemon, its status line and that its loops get on.

Rules:
  * The status line follows what happens, at most every `STATUS_SECONDS`: nothing happens, nothing is sent, and nobody
    is woken. So it tells when the last report was delivered, not how long ago.
  * The watchdog is fed as long as the loops get on (`host.watchdog`).
"""

import asyncio
from datetime import UTC, datetime
from typing import Final

import structlog

from ssm_status_reporter.host.systemd import ServiceManager
from ssm_status_reporter.host.watchdog import Pulse, watchdog_interval_seconds
from ssm_status_reporter.outbox.commit import Committer
from ssm_status_reporter.outbox.sqlite import SqliteOutbox
from ssm_status_reporter.ports import Clock
from ssm_status_reporter.reporter import Reporter

STATUS_SECONDS: Final = 5.0
"""The status line is brought up to date no more often."""
STATUS_HINT_CHARS_MAX: Final = 200
"""What the status line shows of a hold's hint; `status` has it whole."""

log = structlog.get_logger()


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
        while True:
            self._reporter.turned.clear()
            self._manager.notify(STATUS=await self._status_line())
            await asyncio.sleep(STATUS_SECONDS)
            await self._reporter.turned.wait()

    async def feed_watchdog(self) -> None:
        """The watchdog, until cancelled, as long as the loops get on."""
        interval = watchdog_interval_seconds()
        if interval is None:
            return
        before = self._pulses()
        while True:
            await asyncio.sleep(interval)
            now = self._pulses()
            stuck = [name for name in now if now[name].stuck_since(before[name])]
            before = now
            if stuck:
                log.error("stuck: the service manager will start the daemon anew", loops=stuck)
            else:
                self._manager.notify(WATCHDOG=1)

    async def _status_line(self) -> str:
        totals = await self._outbox.totals()
        parts = [f"{sum(totals.values())} associations", f"{totals.get('pending', 0)} pending"]
        parts += [f"{count} {state}" for state, count in totals.items() if state in {"parked", "dead"}]
        delivered_ms = self._reporter.last_delivered_ms
        if delivered_ms is not None:
            now = self._clock.now()
            at = datetime.fromtimestamp((now.wall_ms - now.steady_ms + delivered_ms) / 1000, UTC)
            parts.append(f"last delivered {at:%Y-%m-%dT%H:%M:%SZ}")
        line = ", ".join(parts)
        for hold in list(self._reporter.holds)[:1]:
            hint = (hold.problem.hint or hold.problem.message)[:STATUS_HINT_CHARS_MAX]
            line += f"; {hold.scope.value} hold: {hold.problem.code}: {hint}"
        return line.replace("\n", " ")  # a line end would begin another state

    def _pulses(self) -> dict[str, Pulse]:
        committer, reporter = self._committer, self._reporter
        return {
            "outbox": Pulse(committer.progress, committer.waiting > 0),
            # While operations wait, the reporter waits for the outbox: a full disk is not the reporter's standstill.
            "reporter": Pulse(reporter.progress, reporter.is_woken and committer.waiting == 0),
        }
