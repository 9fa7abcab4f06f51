"""The daemon: puts the parts together, runs them, and takes them apart again.

Rules:
  * READY only when the outbox is open and every enabled source watches, or has said why it cannot yet.
  * The failure of any task ends the daemon: the service manager starts it anew, and nothing is lost by that.
  * Stopping takes nothing new, lets the calls that are out finish within a bound, and commits what came back. Whoever
    tells of outcomes stops last.
  * A reload is taken whole or not at all; what needs a restart is named, at each reload until there was one.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import msgspec
import structlog

from ssm_status_reporter import __version__, assembly, reload, tuning
from ssm_status_reporter.config import BadConfiguration, Configuration
from ssm_status_reporter.domain.limits import CANCEL_AGAIN_SECONDS, STOP_SECONDS_MAX
from ssm_status_reporter.domain.outcome import Scope
from ssm_status_reporter.host import logs
from ssm_status_reporter.host.clock import monotonic_ms
from ssm_status_reporter.host.identity import Identity, find_identity
from ssm_status_reporter.host.systemd import ServiceManager
from ssm_status_reporter.host.watchdog import Health
from ssm_status_reporter.outbox.commit import Committer
from ssm_status_reporter.outbox.database import migrations
from ssm_status_reporter.outbox.lock import Holder, Lock
from ssm_status_reporter.outbox.operations import Operations
from ssm_status_reporter.outbox.snapshot import NodeView
from ssm_status_reporter.outbox.sqlite import SqliteOutbox
from ssm_status_reporter.outbox.tables import FACT_COMPARISON, FACT_NODE
from ssm_status_reporter.outbox.wake_watch import WakeWatch
from ssm_status_reporter.ports import Chance, Clock, Source, Teller
from ssm_status_reporter.reporter import Reporter
from ssm_status_reporter.ssm.client import SsmClient
from ssm_status_reporter.ssm.credentials_watch import CredentialsWatch
from ssm_status_reporter.supervision import Supervision, pulses

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the daemon takes from outside itself."""

    clock: Clock
    chance: Chance
    reread: Callable[[], Configuration]
    """Reads the configuration anew. Raises `BadConfiguration`."""


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a daemon consists of once it knows who it is."""

    identity: Identity
    outbox: SqliteOutbox
    committer: Committer
    service: SsmClient
    reporter: Reporter
    teller: Teller | None

    async def try_credentials(self) -> None:
        """Load them afresh and probe what waits: other keys may be those of an identity that is allowed more."""
        await self.service.reload_credentials()
        for scope in (Scope.CREDENTIALS, Scope.PERMISSION):
            self.reporter.hurry(scope)


class Daemon:
    """One daemon on one outbox."""

    def __init__(self, configuration: Configuration, surroundings: Surroundings) -> None:
        self._configuration = configuration
        """What runs: at a reload, what needs a restart stays as it is."""
        self._clock = surroundings.clock
        self._chance = surroundings.chance
        self._reread = surroundings.reread
        self._manager = ServiceManager()
        self._stop = asyncio.Event()
        self._reload = asyncio.Event()
        self._ready = False

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT.

        Raises `NoIdentityError`, `OutboxError`, and whatever ended one of the tasks.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        async with AsyncExitStack() as stack:
            stack.callback(self._manager.close)
            await self._serve_or_stop(stack)

    async def _serve_or_stop(self, stack: AsyncExitStack) -> None:
        """Serve. A stop that comes before READY ends the start where it is: nothing is out yet to wind down."""
        serving = asyncio.create_task(self._serve(stack), name="daemon")
        stopping = asyncio.create_task(self._stop.wait(), name="stop")
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not self._ready and not serving.done():
            log.info("stopped before it was ready")
            await _cancelled([serving])
            return
        await serving

    async def _serve(self, stack: AsyncExitStack) -> None:
        configuration = self._configuration
        node = configuration.node
        agent_path = configuration.sources.ssm_agent.path
        identity = await find_identity(node.instance_id, node.region, agent_path, os.environ, self._clock)
        path = configuration.outbox.path
        stack.enter_context(Lock(path, self._holder()))
        committer = Committer(path, migrations(), self._timestamp)
        operations = Operations(
            self._clock,
            self._chance,
            tuning.policy(configuration, None),
            tuning.reconciliation(configuration),
            configuration.outbox.max_dead_letters,
        )
        outbox = SqliteOutbox(committer, operations)
        stack.push_async_callback(outbox.close)
        await self._learn_policy(outbox)
        waiting = await outbox.recover()
        await outbox.put_fact(
            FACT_NODE, msgspec.json.encode(NodeView(identity.instance_id, identity.region)).decode()
        )
        service = SsmClient(assembly.client_settings(configuration, identity), self._clock)
        stack.push_async_callback(service.close)
        teller = assembly.teller(configuration, identity, self._clock, self._chance)
        follower = None if teller is None else teller.announce
        reporter = Reporter(outbox, service, self._clock, self._chance, tuning.pace(configuration), follower)
        outbox.on_news = reporter.wake
        log.info(
            "started",
            version=__version__,
            instance_id=identity.instance_id,
            region=identity.region,
            instance_id_from=identity.instance_id_from,
            region_from=identity.region_from,
            outbox=str(path),
            to_deliver=waiting,
        )
        await self._run_tasks(_Parts(identity, outbox, committer, service, reporter, teller))

    async def _run_tasks(self, parts: _Parts) -> None:
        outbox, reporter, teller = parts.outbox, parts.reporter, parts.teller
        sources = assembly.sources(self._configuration, parts.identity, outbox, self._clock)
        commands = WakeWatch(self._configuration.outbox.path, self._clock, reporter.wake)
        keys = CredentialsWatch(self._clock, parts.try_credentials)
        supervision = Supervision(self._manager, self._clock, outbox, parts.committer, reporter)
        async with asyncio.TaskGroup() as tasks:
            watching: list[asyncio.Event] = []

            def start(source: Source) -> asyncio.Task[None]:
                watching.append(asyncio.Event())
                return tasks.create_task(source.run(outbox, watching[-1].set), name=source.name)

            others = [start(source) for source in sources]
            telling = None if teller is None else start(teller)
            others.append(tasks.create_task(commands.run(), name="commands"))
            others.append(tasks.create_task(self._follow_reloads(outbox, reporter), name="reload"))
            others.append(tasks.create_task(keys.run(), name="credentials"))
            delivery = tasks.create_task(reporter.run(), name="reporter")
            for event in watching:
                await event.wait()
            others.append(tasks.create_task(supervision.keep_status(), name="status line"))
            others.append(tasks.create_task(supervision.feed_watchdog(), name="watchdog"))
            others.append(tasks.create_task(self._export(parts), name="metrics"))
            self._ready = True
            self._manager.notify(READY=1)
            log.info("ready")
            await self._stop.wait()
            if teller is not None:
                teller.take_nothing_new()
            await self._wind_down(others, delivery, reporter)
            if telling is not None:
                await _cancelled([telling])
            log.info("stopped")

    async def _wind_down(
        self, others: list["asyncio.Task[None]"], delivery: "asyncio.Task[None]", reporter: Reporter
    ) -> None:
        self._manager.notify(STOPPING=1, STATUS="stopping: finishing the calls that are out")
        await _cancelled(others)
        reporter.stop()
        done, _ = await asyncio.wait({delivery}, timeout=STOP_SECONDS_MAX)
        if not done:
            log.warning(
                "stopping with calls unanswered: they are settled at the next start", calls=reporter.calls_out
            )
            delivery.cancel()

    def _holder(self) -> Holder:
        now = self._clock.now()
        return Holder(os.getpid(), now.wall_ms, now.steady_ms - monotonic_ms())

    def _timestamp(self) -> str:
        return datetime.fromtimestamp(self._clock.now().wall_ms / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")

    async def _learn_policy(self, outbox: SqliteOutbox) -> None:
        """Decide by the configuration and by what was learnt in earlier runs."""
        outbox.operations.policy = tuning.policy(self._configuration, await outbox.fact(FACT_COMPARISON))

    # While it runs.

    async def _follow_reloads(self, outbox: SqliteOutbox, reporter: Reporter) -> None:
        while True:
            await self._reload.wait()
            self._reload.clear()
            self._manager.notify(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)
            try:
                configuration = self._reread()
            except BadConfiguration as error:
                log.error(  # noqa: TRY400 (the operator's mistake, not a defect)
                    "not reloaded: the configuration is bad, the old one stays in force",
                    errors=[str(each) for each in error.errors],
                )
            else:
                await self._take(configuration, outbox, reporter)
            # Whoever reloads may have mended something: every scope is probed at once.
            for scope in Scope:
                reporter.hurry(scope)
            self._manager.notify(READY=1)

    async def _take(self, read: Configuration, outbox: SqliteOutbox, reporter: Reporter) -> None:
        changed = reload.changed_keys(self._configuration, read)
        configuration = self._configuration = reload.taken(self._configuration, read)
        logs.configure(configuration.log.level, configuration.log.format)
        await outbox.replan(tuning.reconciliation(configuration))
        outbox.operations.dead_letters_max = configuration.outbox.max_dead_letters
        await self._learn_policy(outbox)
        reporter.repace(tuning.pace(configuration))
        restart = [key for key in changed if key not in reload.TAKEN]
        log.info("reloaded", changed=list(changed), needs_restart=restart)

    async def _export(self, parts: _Parts) -> None:
        """Metrics, where they are on; and only then is what they need imported."""
        metrics = self._configuration.metrics
        if metrics.listen is None and metrics.textfile is None:
            return
        from ssm_status_reporter.exporter import export  # noqa: PLC0415 (see above)

        health = Health(partial(pulses, parts.committer, parts.reporter), self._clock)
        await export(metrics, self._configuration.outbox.path, parts.identity, health.stuck, self._clock)


async def _cancelled(tasks: Collection["asyncio.Task[None]"]) -> None:
    """Cancel them, and wait until they have ended. A cancellation can get lost in what a library awaits."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_SECONDS)
