"""The story: the scenes of the demo, in their order. Each ends when the service holds what it is to hold.

Rules:
  * A scene acts as the runner, the service or an operator would, and waits for what comes of it. What the
    daemon does about it is told by what it logs, not here.
  * Nothing here depends on how fast the machine is: on a slow one a line may read differently, the end is the
    same.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Final

import msgspec

from ssm_status_reporter.demo.account import Account, account
from ssm_status_reporter.demo.daemon_process import DemoFailedError, run_command
from ssm_status_reporter.demo.narration import Actor, Line, Said, Tone
from ssm_status_reporter.demo.runner import Expected, ResultFile, late
from ssm_status_reporter.demo.ssm_agent import DOCUMENT as BACKUP
from ssm_status_reporter.demo.ssm_agent import MESSAGE, TRIES
from ssm_status_reporter.demo.stage import STORY_SECONDS_MAX, Audience, Stage, staged
from ssm_status_reporter.emulator.faults import FaultPlan, Invalid, Kind, Outage, Rule
from ssm_status_reporter.emulator.ledger import Entry
from ssm_status_reporter.outbox.snapshot import Snapshot
from ssm_status_reporter.ssm.codes import Operation

PATCH: Final = "Acme-Patch"
PACKAGES: Final = "Acme-Packages"
INVENTORY: Final = "Acme-Inventory"
AGENT: Final = "Acme-Agent"
FIREWALL: Final = "Acme-Firewall"
HARDENING: Final = "Acme-Hardening"
DRAFT: Final = "Acme-Draft"

HEALTHY: Final = FaultPlan()
BUSY_ONCE: Final = FaultPlan(rules=(Rule(operation=Operation.UPDATE, errors=("TooManyUpdates",)),))
THROTTLING_TWICE: Final = FaultPlan(rules=(Rule(operation=Operation.UPDATE, errors=("ThrottlingException",) * 2),))
OUT: Final = FaultPlan(outages=(Outage(after="0s", lasting="1h"),))
AGENT_CUT_OFF: Final = FaultPlan(
    rules=(Rule(operation=Operation.UPDATE, document=BACKUP, errors=(Kind.RESET.value,) * TRIES),)
)
"""As many calls as the SSM Agent makes for the end of a run come to nothing; the next one is the daemon's."""
DRAFT_UNKNOWN: Final = FaultPlan(documents=Invalid(invalid=(DRAFT,)))

PROBES_MIN: Final = 2
"""So many probes meet the outage before it heals."""
LATE: Final = timedelta(hours=1)


async def perform(directory: Path, audience: Audience) -> Account:
    """Play the whole in an empty directory; the account says whether everything arrived.

    Raises `DemoFailedError` when it cannot be played to its end, OSError when it cannot be begun.
    """
    async with staged(directory, audience) as stage:
        try:
            async with asyncio.timeout(STORY_SECONDS_MAX):
                for scene in SCENES:
                    await scene(stage)
                return await _accounted(stage)
        except TimeoutError:
            raise DemoFailedError(
                f"waited {STORY_SECONDS_MAX:g} s in all, in the end for {stage.awaited}"
            ) from None


async def start(stage: Stage) -> None:
    """Service and daemon start."""
    stage.heading("Start")
    stage.tell(Line(Actor.SERVICE, f"answers at {stage.service.url}", "the emulator"))
    why = "the program as installed, with shorter waits"
    stage.tell(Line(Actor.DAEMON, f"starts as process {stage.daemon.pid}", why))
    await stage.until("the daemon to be ready", lambda: stage.heard[Said.READY] > 0)


async def news_and_repetition(stage: Stage) -> None:
    """Changing and repeating statuses."""
    stage.heading("News goes out at once, repetition makes no call")
    await _drop(stage, ResultFile(PATCH, "InProgress"), "a run begins")
    await stage.arrived()
    await _drop(stage, ResultFile(PATCH, "InProgress"), "and goes on")
    await _drop(stage, ResultFile(PATCH, "InProgress"))


async def newest_wins(stage: Stage) -> None:
    """Several changes within one debounce window, and a late result."""
    stage.heading("Changes in quick succession: only the newest goes out")
    await _drop(stage, ResultFile(PATCH, "Failed"), "the run fails")
    await _drop(stage, ResultFile(PATCH, "Success"), "and succeeds when repeated")
    await stage.arrived()
    await _drop(stage, late(PATCH, "Failed", stage.wall - LATE), "an hour late")
    await _drop(stage, ResultFile(PATCH, "Success"), "the next run")


async def concurrent_update(stage: Stage) -> None:
    """Somebody else updates the association at that moment."""
    stage.heading("Somebody else updates the same association")
    stage.service.faults = BUSY_ONCE
    await _drop(stage, ResultFile(PACKAGES, "InProgress"))
    await stage.arrived()


async def throttle(stage: Stage) -> None:
    """The service takes fewer calls than are made."""
    stage.heading("The service throttles")
    stage.service.faults = THROTTLING_TWICE
    await _drop_all(stage, (ResultFile(document, "InProgress") for document in (INVENTORY, AGENT, FIREWALL)))
    await stage.arrived()


async def outage(stage: Stage) -> None:
    """Nothing answers for a while; then it does."""
    stage.heading("The service is out, then it is back")
    stage.service.faults = OUT
    stage.tell(Line(Actor.SERVICE, "goes down: closes every connection", tone=Tone.TROUBLE))
    await _drop_all(stage, (ResultFile(document, "Success") for document in (PACKAGES, INVENTORY, AGENT)))
    await stage.until("the daemon to hold everything back", lambda: stage.heard[Said.HOLD] > 0)
    await _drop(stage, ResultFile(HARDENING, "InProgress"), "runners notice nothing of it")
    await _drop(stage, ResultFile(HARDENING, "Success"))
    probes = stage.heard[Said.HOLD_REMAINS] + PROBES_MIN
    state = msgspec.json.decode(await stage.command("status", "--json"), type=Snapshot)
    holds = ", ".join(hold.scope for hold in state.holds)
    found = f"{state.outbox.pending + state.outbox.in_flight} reports wait; hold: {holds}"
    stage.tell(Line(Actor.OPERATOR, "calls ssm-status-reporter status", found))
    await stage.until("the daemon to probe", lambda: stage.heard[Said.HOLD_REMAINS] >= probes)
    stage.service.faults = HEALTHY
    stage.tell(Line(Actor.SERVICE, "is back"))
    await stage.arrived()
    await stage.until("the hold to end", lambda: stage.heard[Said.HOLD_OVER] > 0)


async def refused_file(stage: Stage) -> None:
    """A runner writes what is no result."""
    stage.heading("A file that is no result")
    wrong = ResultFile(FIREWALL, "Sucess")
    stage.tell(Line(Actor.RUNNER, f"writes {wrong.status}", "a misspelt status", document=wrong.document))
    rejected = stage.premises.rejected / stage.runner.write_wrongly(wrong)
    await stage.until("the daemon to refuse the file", lambda: stage.heard[Said.REFUSED] > 0 and rejected.exists())
    await _drop(stage, ResultFile(FIREWALL, "Success"), "corrected")
    await stage.arrived()


async def refused_document(stage: Stage) -> None:
    """The service will not take a report; once it would, an operator has it sent again."""
    stage.heading("A document that the service does not know")
    stage.service.faults = DRAFT_UNKNOWN
    await _drop(stage, ResultFile(DRAFT, "Success"))
    await stage.until("the daemon to set the report aside", lambda: stage.heard[Said.DEAD] > 0)
    stage.service.faults = HEALTHY
    stage.tell(Line(Actor.OPERATOR, "publishes the document, and calls", document=DRAFT))
    stage.tell(Line(Actor.OPERATOR, "ssm-status-reporter dead-letters retry --all"))
    await stage.command("dead-letters", "retry", "--all")
    await stage.arrived()


async def agents_own_report(stage: Stage) -> None:
    """The SSM Agent runs an association; its own report of the end is lost."""
    stage.heading("The SSM Agent's own report is lost")
    agent = stage.agent
    agent.install()
    await stage.until("the daemon to watch the SSM Agent", lambda: stage.heard[Said.WATCHING] > 0)
    agent.begin(stage.utc)
    stage.tell(Line(Actor.AGENT, "begins a run: its state file appears", document=BACKUP))
    await stage.until("the daemon to open the run's state file", lambda: agent.is_held_by(stage.daemon.pid))
    agent.go_on()
    if not await agent.report("Pending", f"{BACKUP}: InProgress", stage.utc):
        raise DemoFailedError("the service did not take what the SSM Agent of the demo reported")
    await stage.told()
    stage.service.faults = AGENT_CUT_OFF
    ended = stage.utc
    tried = [await agent.report("Failed", MESSAGE, ended) for _ in range(TRIES)]
    if any(tried):
        raise DemoFailedError("the service took a report that was to be lost")
    await stage.told()
    what = f"the run fails, its {TRIES} calls to report it are lost"
    stage.tell(Line(Actor.AGENT, what, "it drops the status for good", Tone.TROUBLE, BACKUP))
    stage.runner.expect_of_agent(BACKUP, Expected("Failed", MESSAGE))
    gone_ms = agent.end(ended)
    stage.tell(Line(Actor.AGENT, f"writes the end, removes the file {gone_ms:.2f} ms later", document=BACKUP))
    await stage.taken()
    await stage.arrived()
    # The service holds it a moment before it has recorded the call.
    await stage.until("the record of our call", lambda: _took(stage.service.ledger[-1], "Failed"))
    await stage.told()
    why = "the agent's own report was lost, the service would show Pending"
    stage.tell(Line(Actor.DAEMON, "delivered in the SSM Agent's place", why, Tone.ARRIVED, BACKUP))


def _took(entry: Entry, status: str) -> bool:
    return entry.applied and (entry.document, entry.status) == (BACKUP, status)


SCENES: Final[tuple[Callable[[Stage], Awaitable[None]], ...]] = (
    start,
    news_and_repetition,
    newest_wins,
    concurrent_update,
    throttle,
    outage,
    refused_file,
    refused_document,
    agents_own_report,
)


async def _accounted(stage: Stage) -> Account:
    """End the daemon as a service manager does, and hold its count against what the service really has."""
    stage.heading("The account")
    stage.awaited = "the daemon to end"
    await stage.daemon.stop()
    stage.tell(Line(Actor.DAEMON, "ended at SIGTERM, nothing was left to do"))
    stage.awaited = "status --json"
    printed = await run_command(stage.premises, "status", "--json")
    return account(stage.runner, stage.service, msgspec.json.decode(printed, type=Snapshot), stage.seconds)


async def _drop(stage: Stage, result: ResultFile, why: str = "") -> None:
    """Write a result, and wait until the daemon has taken it."""
    _write(stage, result, why)
    await stage.taken()


async def _drop_all(stage: Stage, results: Iterable[ResultFile]) -> None:
    """Write results, one right after the other, and wait until the daemon has taken them."""
    written = 0
    for result in results:
        _write(stage, result)
        written += 1
    await stage.taken(written)


def _write(stage: Stage, result: ResultFile, why: str = "") -> None:
    stage.tell(Line(Actor.RUNNER, f"writes {result.status}", why, document=result.document))
    stage.runner.write(result)
