"""Metrics: the daemon's figures for Prometheus, over HTTP and as a file for node_exporter's textfile collector.

Rules:
  * Read when they are asked for, in one transaction; nothing is counted a second time here.
  * A counter never goes back while the daemon runs, or Prometheus would take it for a restart: an end that is taken
    back (a dead letter sent again) shows when the next one has made up for it.
  * They are an addition: what goes wrong with them is said once, tried again, and keeps no status from being delivered.
  * The file is replaced, never written in place: a collector sees the old one or the new one.
  * ``/healthz`` is the watchdog's judgement: 200 while every loop gets on, else 503 and the names of those that do not.

Imported only where metrics are on: prometheus-client and aiohttp's server are 3 MiB resident.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from ssm_status_reporter.domain.limits import (
    METRICS_RETRY_SECONDS,
    METRICS_STOP_SECONDS_MAX,
    METRICS_TEXTFILE_SECONDS,
)
from ssm_status_reporter.ports import Clock

_FILE_MODE: Final = 0o644
_PREFIX: Final = "ssm_status_reporter"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Readings:
    """The figures of one moment."""

    version: str
    instance_id: str
    region: str
    counters: Mapping[str, int]
    """By the names that ``status --json`` has for them."""
    states: Mapping[str, int]
    """Associations by state; a state without any may be missing."""
    dead_letters: int
    oldest_pending_ms: int | None
    """When the oldest report that waits was observed, wall time."""
    holds: Sequence[tuple[str, str, str]]
    """Scope, instance id, document; empty texts mean all."""
    wall_ms: int


class UnreadableError(Exception):
    """The figures cannot be read; the message says why and what to do."""


Read = Callable[[], Awaitable[Readings]]
"""Raises `UnreadableError`."""
StuckLoops = Callable[[], Sequence[str]]
"""The loops that did not get on when they were last looked at."""


@dataclass(frozen=True, slots=True, eq=False)
class _Collected:
    """What prometheus-client takes for a collector: one moment's figures."""

    readings: Readings

    def collect(self) -> Iterator[Metric]:
        yield from _families(self.readings)


class Exposition:
    """The figures as text, counters never lower than before."""

    def __init__(self) -> None:
        self._highest: dict[str, int] = {}

    def text(self, readings: Readings) -> bytes:
        """In Prometheus's text format."""
        for name, value in readings.counters.items():
            self._highest[name] = max(value, self._highest.get(name, 0))
        return _text(replace(readings, counters=self._highest))


def _text(readings: Readings) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(readings))
    return generate_latest(registry)


def _families(readings: Readings) -> Iterator[Metric]:
    about = {"version": readings.version, "instance_id": readings.instance_id, "region": readings.region}
    yield InfoMetricFamily(_PREFIX, "The reporter and the managed node it runs on.", about)
    for name, value in readings.counters.items():
        yield CounterMetricFamily(f"{_PREFIX}_{name}", _HELP[name], value)
    states = GaugeMetricFamily(f"{_PREFIX}_associations", "Associations by state.", labels=["state"])
    for state, count in readings.states.items():
        states.add_metric([state], count)
    yield states
    yield GaugeMetricFamily(f"{_PREFIX}_dead_letters", "Dead letters kept.", readings.dead_letters)
    oldest_ms = readings.oldest_pending_ms
    age_ms = 0 if oldest_ms is None else max(0, readings.wall_ms - oldest_ms)
    age = "Age of the oldest report that waits to be delivered, parked ones aside; 0 while none waits."
    yield GaugeMetricFamily(f"{_PREFIX}_oldest_pending_seconds", age, age_ms / 1000)
    holds = GaugeMetricFamily(
        f"{_PREFIX}_hold", "1 for each scope that is shut.", labels=["scope", "instance_id", "document"]
    )
    for hold in readings.holds:
        holds.add_metric(hold, 1)
    yield holds


_HELP: Final = {
    "received": "Results taken in.",
    "suppressed_unchanged": "Results that were no news.",
    "suppressed_stale": "Results older than what is known.",
    "coalesced": "Results replaced by a newer one before they went out.",
    "refused": "Inputs that are no results.",
    "calls": "UpdateAssociationStatus calls made.",
    "delivered": "Results that the service took.",
    "already_held": "Results that the service held already.",
    "retried": "Calls that have to be made again.",
    "dead": "Results that the service refused for good.",
}


class MetricsServer:
    """``/metrics`` and ``/healthz`` on one address."""

    def __init__(self, host: str, port: int, read: Read, stuck_loops: StuckLoops, clock: Clock) -> None:
        self._host = host
        self._port = port
        self._read = read
        self._stuck_loops = stuck_loops
        self._clock = clock
        self._exposition = Exposition()

    async def run(self) -> None:
        """Serve until cancelled; an address that cannot be had is tried again."""
        application = web.Application()
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/healthz", self._healthz)
        runner = web.AppRunner(
            application, access_log=None, handle_signals=False, shutdown_timeout=METRICS_STOP_SECONDS_MAX
        )
        await runner.setup()
        try:
            await self._listen(runner)
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    async def _listen(self, runner: web.AppRunner) -> None:
        said = False
        while True:
            site = web.TCPSite(runner, self._host, self._port)
            try:
                await site.start()
            except OSError as error:
                with suppress(RuntimeError):  # it may not have got as far as being registered
                    await site.stop()
                if not said:
                    said = True
                    log.error(  # noqa: TRY400 (an operator needs the reason, not where in this code it met us)
                        "metrics cannot be served: it is tried again, and everything else goes on",
                        listen=f"{self._host}:{self._port}",
                        error=error.strerror or str(error),
                        hint="set metrics.listen to a free address of this machine",
                    )
                await _sleep(self._clock, METRICS_RETRY_SECONDS)
            else:
                log.info("serving metrics", listen=f"{self._host}:{_port(runner)}")
                return

    async def _metrics(self, _request: web.Request) -> web.Response:
        try:
            readings = await self._read()
        except UnreadableError as error:
            return web.Response(status=503, text=f"{error}\n")
        return web.Response(body=self._exposition.text(readings), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _healthz(self, _request: web.Request) -> web.Response:
        stuck = self._stuck_loops()
        if stuck:
            return web.Response(status=503, text=f"stuck: {', '.join(stuck)}\n")
        return web.Response(text="ok\n")


class MetricsFile:
    """The file for node_exporter."""

    def __init__(self, path: Path, read: Read, clock: Clock) -> None:
        self._path = path
        self._read = read
        self._clock = clock
        self._exposition = Exposition()

    async def run(self) -> None:
        """Write it now and again until cancelled, then remove it: old figures are worse than none."""
        said = False
        try:
            while True:
                try:
                    await self._write(self._exposition.text(await self._read()))
                except (OSError, UnreadableError) as error:
                    if not said:
                        said = True
                        self._say_unwritten(error)
                else:
                    if said:
                        log.info("the metrics file is written again", path=str(self._path))
                    said = False
                await _sleep(self._clock, METRICS_TEXTFILE_SECONDS)
        finally:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)

    async def _write(self, text: bytes) -> None:
        writing = asyncio.ensure_future(asyncio.to_thread(_replace, self._path, text))
        try:
            await asyncio.shield(writing)
        finally:
            # Nothing cancels the thread: what it is about to put there must be there before it is removed.
            await asyncio.wait({writing}, timeout=METRICS_STOP_SECONDS_MAX)

    def _say_unwritten(self, error: OSError | UnreadableError) -> None:
        # What cannot be read says itself what to do.
        write = {"hint": "let the daemon write in its directory (ReadWritePaths= of the unit)"}
        log.error(
            "the metrics file cannot be written: it is tried again, and everything else goes on",
            path=str(self._path),
            error=str(error),
            **(write if isinstance(error, OSError) else {}),
        )


def _replace(path: Path, text: bytes) -> None:
    draft = path.with_name(f".{path.name}.draft")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, _FILE_MODE)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, _FILE_MODE)  # whatever the umask: another user's collector reads it
        file.write(text)
    draft.replace(path)


def _port(runner: web.AppRunner) -> int:
    return int(runner.addresses[0][1])


async def _sleep(clock: Clock, seconds: int) -> None:
    await clock.sleep_until(clock.now().steady_ms + seconds * 1000)
