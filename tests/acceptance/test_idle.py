"""What the installed daemon costs while nothing happens."""

import asyncio
from pathlib import Path

from acceptance_support import Site
from ssm_status_reporter.daemon import STATUS_SECONDS
from ssm_status_reporter.emulator.server import Emulator


def wake_ups(pid: int) -> int:
    """How often the threads beside the first one slept and were woken; the outbox is one of them."""
    statuses = [task / "status" for task in Path(f"/proc/{pid}/task").iterdir() if task.name != str(pid)]
    assert statuses
    lines = [line for status in statuses for line in status.read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


async def test_an_idle_daemon_leaves_its_outbox_alone(tmp_path: Path) -> None:
    """After the last delivery nothing wakes the thread that owns the database, however often the status is told."""
    async with Emulator() as emulator:
        site = Site(tmp_path, emulator.url)
        async with site.daemon() as daemon:
            site.drop("Doc", "Success", "done")
            await daemon.quiet(1)
            await asyncio.sleep(2 * STATUS_SECONDS)  # what followed the delivery is counted once more
            before = wake_ups(daemon.pid)
            await asyncio.sleep(2.5 * STATUS_SECONDS)  # the span that is measured
            assert wake_ups(daemon.pid) == before
