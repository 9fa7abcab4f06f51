"""The clock: the time that everything in the daemon is decided by."""

import asyncio
import time

from ssm_status_reporter.domain.time import Now

_NS_PER_MS = 1_000_000


class SystemClock:
    """Wall time as it is; steady time is wall time at construction plus the monotonic clock since."""

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    def now(self) -> Now:
        """This moment."""
        return Now(time.time_ns() // _NS_PER_MS, (time.monotonic_ns() + self._offset_ns) // _NS_PER_MS)

    async def sleep_until(self, steady_ms: int) -> None:
        """Return at ``steady_ms`` or later."""
        await asyncio.sleep(max(0, steady_ms - self.now().steady_ms) / 1000)


def monotonic_ms() -> int:
    """The machine's monotonic clock, the same for all its processes."""
    return time.monotonic_ns() // _NS_PER_MS
