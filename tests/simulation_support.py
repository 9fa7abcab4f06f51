"""The real reporter on the real outbox, against a scripted service, in virtual time: seeded, so that a run repeats.

Time stands until nothing more happens without it; then it jumps to the next timer.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from domain_support import NEVER, POLICY, START_MS, ManualClock, WatchedCommitter, contents, outbox_at
from ssm_status_reporter.domain.association import Association
from ssm_status_reporter.domain.entry import Entry, Policy
from ssm_status_reporter.domain.outcome import Answer, Delivered, Held, HeldNothing, Outcome, Unchanged
from ssm_status_reporter.domain.reconciliation import Reconciliation
from ssm_status_reporter.domain.report import Comparison, Report
from ssm_status_reporter.domain.result import Result, Writer
from ssm_status_reporter.domain.traffic import Pace
from ssm_status_reporter.outbox.database import Durability
from ssm_status_reporter.ports import Chance
from ssm_status_reporter.reporter import Reporter
from values import replace

LATENCY_MS: Final = 50
PACE: Final = Pace(concurrency=4, rate_per_second=5.0, burst=10, backoff=POLICY.backoff)
FAST: Final = replace(PACE, rate_per_second=1000.0, burst=1000)
SEED: Final = 20261122
STOP_SECONDS_MAX: Final = 120.0


@dataclass(frozen=True)
class Call:
    """One call as the service saw it. ``report`` is None for a question; ``at_ms`` counts from the start."""

    at_ms: int
    association: Association
    report: Report | None

    @property
    def is_update(self) -> bool:
        return self.report is not None


Script = Callable[[Call], Outcome | Answer | None]
"""How a call is answered; None: as the service would."""


def as_usual(_: Call) -> None:
    """The service works."""


class ScriptedService:
    """Holds statuses as the real one does, except where its script says otherwise.

    Two calls at once for one association are a defect wherever they happen.
    """

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._out: set[Association] = set()
        self.script: Script = as_usual
        self.latency_ms: Callable[[Call], int] = lambda _: LATENCY_MS
        self.compares = Comparison.STATUS_AND_MESSAGE
        self.holds: dict[Association, Report] = {}
        self.calls: list[Call] = []
        self.most_out = 0
        self.credentials_reloaded = 0

    @property
    def updates(self) -> list[Call]:
        """The calls that were no questions."""
        return [call for call in self.calls if call.is_update]

    @property
    def questions(self) -> list[Call]:
        """The calls that were."""
        return [call for call in self.calls if not call.is_update]

    def calls_for(self, association: Association) -> list[Call]:
        """Those of one association."""
        return [call for call in self.calls if call.association == association]

    async def update(self, association: Association, report: Report) -> Outcome:
        outcome = await self._answer(Call(self._since_start(), association, report))
        if outcome is not None:
            assert not isinstance(outcome, Held | HeldNothing)
            return outcome  # type: ignore[return-value]  # a script answers an update with an outcome
        held = self.holds.get(association)
        if held is not None and held.same_as(report, self.compares):
            return Unchanged("id")
        self.holds[association] = report
        return Delivered("id")

    async def describe(self, association: Association) -> Answer:
        answer = await self._answer(Call(self._since_start(), association, None))
        if answer is not None:
            assert not isinstance(answer, Delivered | Unchanged)
            return answer
        held = self.holds.get(association)
        return HeldNothing() if held is None else Held(held)

    async def reload_credentials(self) -> None:
        self.credentials_reloaded += 1

    async def _answer(self, call: Call) -> Outcome | Answer | None:
        assert call.association not in self._out, f"two calls at once for {call.association}"
        self._out.add(call.association)
        self.most_out = max(self.most_out, len(self._out))
        self.calls.append(call)
        try:
            await self._clock.sleep_until(self._clock.now().steady_ms + self.latency_ms(call))
            return self.script(call)
        finally:
            self._out.discard(call.association)

    def _since_start(self) -> int:
        return self._clock.now().steady_ms - START_MS


class Simulation:
    """One daemon's delivery, from observation to acknowledgement."""

    def __init__(
        self,
        path: Path,
        clock: ManualClock,
        policy: Policy,
        pace: Pace,
        plan: Reconciliation,
        committing: type[WatchedCommitter],
        hold_jitter: Chance | None,
        retry_jitter: Chance | None,
    ) -> None:
        chance = random.Random(SEED).random  # noqa: S311 (jitter, which is to repeat)
        self.clock = clock
        self.service = ScriptedService(clock)
        self.committer, self.outbox = outbox_at(path, clock, retry_jitter or chance, policy, plan, committing)
        self.reporter = Reporter(self.outbox, self.service, clock, hold_jitter or chance, pace)
        self.outbox.on_news = self.reporter.wake
        self.running: asyncio.Task[None]
        """The reporter's loop."""

    async def observe(self, status: str, *associations: Association, message: str = "") -> None:
        """A run of each has ended so."""
        now_ms = self.clock.now().wall_ms
        report = Report(status, message or f"it is {status}", None, now_ms)
        await self.outbox.observe([Result(each, report, "test", Writer.SOLE) for each in associations])

    async def rest(self) -> None:
        """Let everything happen that needs no time."""
        await self.committer.rest()

    async def run_until(self, at_ms: int) -> None:
        """Let time pass, until so long after the start."""
        target_ms = START_MS + at_ms
        while True:
            await self.rest()
            next_ms = self.clock.next_wake_ms
            if next_ms is None or next_ms > target_ms:
                self.clock.advance_to(target_ms)
                await self.rest()
                return
            self.clock.advance_to(next_ms)

    async def run_for(self, ms: int) -> None:
        """Let so much time pass."""
        await self.run_until(self.clock.now().steady_ms - START_MS + ms)

    async def entry(self, association: Association) -> Entry:
        """What is known of it."""
        found = await self.committer.submit(contents, Durability.PROCESS_DEATH)
        return found.entries[association]

    async def counter(self, name: str) -> int:
        """What was counted."""
        found = await self.committer.submit(contents, Durability.PROCESS_DEATH)
        return found.counters.get(name, 0)


@asynccontextmanager
async def simulation(
    path: Path,
    *,
    policy: Policy = POLICY,
    pace: Pace = FAST,
    plan: Reconciliation = NEVER,
    clock: ManualClock | None = None,
    committing: type[WatchedCommitter] = WatchedCommitter,
    hold_jitter: Chance | None = None,
    retry_jitter: Chance | None = None,
) -> AsyncIterator[Simulation]:
    """A daemon that runs; at the end it is stopped, and the calls that are out are let end."""
    sim = Simulation(path, clock or ManualClock(), policy, pace, plan, committing, hold_jitter, retry_jitter)
    await sim.outbox.recover()
    running = sim.running = asyncio.create_task(sim.reporter.run())
    try:
        yield sim
        sim.reporter.stop()
        async with asyncio.timeout(STOP_SECONDS_MAX):
            while not running.done():
                await sim.rest()
                if sim.clock.next_wake_ms is not None:
                    sim.clock.advance_to(sim.clock.next_wake_ms)
            await running
    finally:
        running.cancel()
        await asyncio.wait({running})
        await sim.outbox.close()
