"""The exporter: what the daemon shows to Prometheus, read from the outbox as ``status`` reads it.

A connection of its own, so that figures are to be had even while the outbox cannot be written.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from ssm_status_reporter import __version__
from ssm_status_reporter.config import Metrics
from ssm_status_reporter.host.identity import Identity
from ssm_status_reporter.host.metrics import MetricsFile, MetricsServer, Readings, UnreadableError
from ssm_status_reporter.outbox.database import OutboxError
from ssm_status_reporter.outbox.snapshot import tally
from ssm_status_reporter.ports import Clock


async def export(
    metrics: Metrics, outbox: Path, identity: Identity, stuck_loops: Callable[[], Sequence[str]], clock: Clock
) -> None:
    """Serve and write what the configuration names, until cancelled."""

    async def read() -> Readings:
        try:
            counted = await asyncio.to_thread(tally, outbox)
        except OutboxError as error:
            raise UnreadableError(str(error)) from error
        return Readings(
            version=__version__,
            instance_id=identity.instance_id,
            region=identity.region,
            counters=counted.counters,
            states=counted.states,
            dead_letters=counted.dead_letters,
            oldest_pending_ms=counted.oldest_pending_ms,
            holds=counted.holds,
            wall_ms=clock.now().wall_ms,
        )

    async with asyncio.TaskGroup() as tasks:
        if (address := metrics.listen_address) is not None:
            tasks.create_task(MetricsServer(*address, read, stuck_loops, clock).run(), name="metrics server")
        if metrics.textfile is not None:
            tasks.create_task(MetricsFile(metrics.textfile, read, clock).run(), name="metrics file")
