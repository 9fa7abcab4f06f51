"""A rig: what a daemon consists of, less the process and its sources, against an emulator.

The real client, reporter and outbox; only the backoffs are short. What is waited for is a settlement. A call may
take a minute, except where hanging is the subject: one given up because the machine is slow would be asked about.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from structlog.testing import capture_logs

from ssm_status_reporter.domain.association import Association
from ssm_status_reporter.domain.backoff import Backoff
from ssm_status_reporter.domain.entry import Claim, Entry, Policy
from ssm_status_reporter.domain.holds import Change
from ssm_status_reporter.domain.outcome import Answer, Outcome
from ssm_status_reporter.domain.reconciliation import Reconciliation
from ssm_status_reporter.domain.report import Comparison, Report
from ssm_status_reporter.domain.result import Result
from ssm_status_reporter.domain.traffic import Pace
from ssm_status_reporter.emulator.faults import Fault, FaultPlan, Kind, Rule
from ssm_status_reporter.emulator.server import Emulator
from ssm_status_reporter.host.clock import SystemClock
from ssm_status_reporter.outbox.commit import Committer
from ssm_status_reporter.outbox.database import migrations
from ssm_status_reporter.outbox.operations import Operations, Settlement
from ssm_status_reporter.outbox.snapshot import snapshot
from ssm_status_reporter.outbox.sqlite import SqliteOutbox
from ssm_status_reporter.reporter import Reporter
from ssm_status_reporter.ssm.client import SsmClient
from ssm_support import bare_environment, settings, write_keys

NODE: Final = "i-0123456789abcdef0"
OTHER_NODE: Final = "mi-0123456789abcdef0"
UPDATE: Final = "UpdateAssociationStatus"
DESCRIBE: Final = "DescribeAssociation"
SECONDS_MAX: Final = 120.0
CALL_TIMEOUT_MS: Final = 60_000
HANG_TIMEOUT_MS: Final = 1000
"""A call's timeout where every call hangs, and all that a call needs was made before."""
RETRY_EVERY_MS: Final = 50
FOR_EVER: Final = 0
"""As `Fault.times`."""
HEALTHY: Final = FaultPlan()

State = Mapping[str, Any]
"""What ``status --json`` prints."""


class WatchedOutbox(SqliteOutbox):
    """The outbox; ``changed`` is told whenever something was settled."""

    changed: asyncio.Condition

    async def settle(self, claim: Claim, outcome: Outcome) -> Settlement:
        settlement = await super().settle(claim, outcome)
        await self._tell()
        return settlement

    async def answer(self, claim: Claim, answer: Answer) -> Settlement:
        settlement = await super().answer(claim, answer)
        await self._tell()
        return settlement

    async def show_holds(self, changes: Sequence[Change]) -> None:
        await super().show_holds(changes)
        await self._tell()

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()


@dataclass
class Rig:
    """What a daemon consists of, less the process and its sources."""

    emulator: Emulator
    outbox: WatchedOutbox
    path: Path
    clock: SystemClock
    said: list[Any] = field(default_factory=list)

    async def hand_in(
        self, *documents: str, message: str = "done", status: str = "Success", node: str = NODE
    ) -> None:
        """Results of these documents, in one commit; of ``Doc`` if none is named."""
        report = Report(status, message, None, self.clock.now().wall_ms)
        associations = [Association(node, document) for document in documents or ("Doc",)]
        await self.outbox.observe([Result(each, report, "test") for each in associations])

    async def until(self, condition: Callable[[State], object], what: str) -> State:
        """Wait until ``status`` shows it, looked at again whenever something was settled."""
        try:
            async with asyncio.timeout(SECONDS_MAX), self.outbox.changed:
                while not condition(state := self.state()):
                    await self.outbox.changed.wait()
                return state
        except TimeoutError:
            raise AssertionError(f"never came: {what}: {self.state()}") from None

    async def mended(self) -> State:
        """The service is in order again: wait until it holds everything."""
        self.emulator.faults = HEALTHY
        return await self.until(
            lambda state: not state["holds"] and all(each["acknowledged"] for each in state["associations"]),
            "everything is acknowledged, nothing held",
        )

    def state(self) -> State:
        shown = msgspec.to_builtins(snapshot(self.path, self.clock.now()))
        assert isinstance(shown, dict)
        return shown

    async def entry(self, document: str = "Doc") -> Entry:
        """All that the outbox knows of one association."""
        return await self.outbox._committer.submit(lambda tables: tables.entry(Association(NODE, document)))

    def calls(self, operation: str = UPDATE) -> list[Any]:
        return [each for each in self.emulator.ledger if each.operation == operation]


@asynccontextmanager
async def rig(
    directory: Path, monkeypatch: pytest.MonkeyPatch, plan: FaultPlan = HEALTHY, give_up_after_ms: int = 60_000
) -> AsyncIterator[Rig]:
    """A rig that delivers."""
    write_keys(bare_environment(monkeypatch, directory), "AKIAGOOD")
    clock, chance = SystemClock(), random.Random(1).random  # noqa: S311 - jitter, no secret
    backoff = Backoff(20, 100)
    policy = Policy(0, Comparison.STATUS_AND_MESSAGE, False, False, backoff, RETRY_EVERY_MS, give_up_after_ms, 0)  # noqa: FBT003 - as declared
    path = directory / "outbox.db"
    with capture_logs() as said:
        async with AsyncExitStack() as stack:
            emulator = await stack.enter_async_context(Emulator(plan))
            committer = Committer(path, migrations(), lambda: "now")
            operations = Operations(clock, chance, policy, Reconciliation(0, on_start=False), 100)
            outbox = WatchedOutbox(committer, operations)
            outbox.changed = asyncio.Condition()
            stack.push_async_callback(outbox.close)
            await outbox.recover()
            timeout_ms = HANG_TIMEOUT_MS if _hangs(plan) else CALL_TIMEOUT_MS
            client = await stack.enter_async_context(
                SsmClient(settings(emulator.url, timeout_ms=timeout_ms), clock)
            )
            if _hangs(plan):
                await client._opened()
                await client.credentials.keys()
            reporter = Reporter(outbox, client, clock, chance, Pace(4, 1000.0, 1000, backoff))
            outbox.on_news = reporter.wake
            running = asyncio.create_task(reporter.run())
            try:
                yield Rig(emulator, outbox, path, clock, said)
            finally:
                reporter.stop()
                await asyncio.wait_for(running, SECONDS_MAX)


def always(fault: str | Fault, operation: str = UPDATE) -> FaultPlan:
    """That fault for every call of the operation."""
    given = fault if isinstance(fault, Fault) else named(fault)
    return FaultPlan(rules=(Rule(operation=operation, errors=(msgspec.structs.replace(given, times=FOR_EVER),)),))


def _hangs(plan: FaultPlan) -> bool:
    kinds = (error.kind if isinstance(error, Fault) else error for rule in plan.rules for error in rule.errors)
    return Kind.HANG in set(kinds)


def named(name: str) -> Fault:
    """A fault by its kind or its error code."""
    return Fault(kind=Kind(name)) if name in set(Kind) else Fault(code=name)


def only(state: State) -> Mapping[str, Any]:
    """The one association there is."""
    (found,) = state["associations"]
    assert isinstance(found, dict)
    return found


def scopes(state: State) -> list[str]:
    return [hold["scope"] for hold in state["holds"]]
