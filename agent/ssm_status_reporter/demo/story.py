"""The story: the scenes of the demo, in their order. Each ends when the service holds what it is to hold.

Rules:
  * A scene acts as the runner, the service or an operator would, and waits for what comes of it. What the
    daemon does about it is told by what it logs, not here.
  * Nothing here depends on how fast the machine is: on a slow one a line may read differently, the end is the
    same.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Final

import msgspec

from ssm_status_reporter.demo.account import Account, account
from ssm_status_reporter.demo.daemon_process import DemoFailedError, run_command
from ssm_status_reporter.demo.narration import Actor, Line, Said, Tone
from ssm_status_reporter.demo.runner import ResultFile, late
from ssm_status_reporter.demo.stage import STORY_SECONDS_MAX, Audience, Stage, stage
from ssm_status_reporter.emulator.faults import FaultPlan, Invalid, Outage, Rule
from ssm_status_reporter.outbox.snapshot import Snapshot
from ssm_status_reporter.ssm.codes import Operation

PATCH: Final = "AWS-RunPatchBaseline"
PACKAGE: Final = "AWS-ConfigureAWSPackage"
INVENTORY: Final = "AWS-GatherSoftwareInventory"
AGENT: Final = "AWS-UpdateSSMAgent"
OWN: Final = "Corp-HardenSsh"

HEALTHY: Final = FaultPlan()
BUSY_ONCE: Final = FaultPlan(rules=(Rule(operation=Operation.UPDATE, errors=("TooManyUpdates",)),))
THROTTLING_TWICE: Final = FaultPlan(rules=(Rule(operation=Operation.UPDATE, errors=("ThrottlingException",) * 2),))
OUT: Final = FaultPlan(outages=(Outage(after="0s", lasting="1h"),))
OWN_UNKNOWN: Final = FaultPlan(documents=Invalid(invalid=(OWN,)))

PROBES_SHOWN_MIN: Final = 2
"""So many calls meet the outage after everything was held back."""
LATE: Final = timedelta(hours=1)


async def perform(directory: Path, audience: Audience) -> Account:
    """Play the whole in an empty directory; the account says whether everything arrived.

    Raises `DemoFailedError` when it cannot be played to its end, OSError when it cannot be begun.
    """
    async with stage(directory, audience) as made:
        try:
            async with asyncio.timeout(STORY_SECONDS_MAX):
                for scene in SCENES:
                    await scene(made)
                return await _reckoned(made)
        except TimeoutError:
            raise DemoFailedError(f"waited {STORY_SECONDS_MAX:g} s in all, in the end for {made.awaited}") from None


async def begin(stage: Stage) -> None:
    """Service and daemon start."""
    stage.tell(Line(Actor.SERVICE, f"answers at {stage.service.url}", "the emulator: this machine only"))
    why = "the program as installed, with shorter waits than usual"
    stage.tell(Line(Actor.DAEMON, f"starts as process {stage.daemon.pid}", why))
    # What the daemon puts into its outbox at its start comes before it watches.
    await stage.until("the daemon to watch the results directory", lambda: stage.heard[Said.READY] > 0)


async def news_and_repetition(stage: Stage) -> None:
    """Changing and repeating statuses."""
    stage.heading("News goes out at once, repetition makes no call")
    result = ResultFile(PATCH, "InProgress")
    await _drop(stage, result, f"a file: {msgspec.json.encode(result).decode()}")
    await stage.arrived()
    await _drop(stage, result, "again, the run goes on")


async def newest_wins(stage: Stage) -> None:
    """Several changes within one debounce window, and a late result."""
    stage.heading("Changes in quick succession: the newest goes out, the others do not")
    await _drop(stage, ResultFile(PATCH, "Failed"), "the run fails")
    await _drop(stage, ResultFile(PATCH, "Success"), "and succeeds when repeated")
    await stage.arrived()
    await _drop(stage, late(PATCH, "Failed", stage.wall - LATE), "left over from an hour ago")


async def concurrent_update(stage: Stage) -> None:
    """Somebody else updates the association at that moment."""
    stage.heading("Somebody else updates the same association")
    stage.service.faults = BUSY_ONCE
    await _drop(stage, ResultFile(PACKAGE, "Success"))
    await stage.arrived()


async def throttle(stage: Stage) -> None:
    """The service takes fewer calls than are made."""
    stage.heading("The service throttles")
    stage.service.faults = THROTTLING_TWICE
    results = [ResultFile(PATCH, "InProgress"), ResultFile(PACKAGE, "InProgress"), ResultFile(INVENTORY, "Success")]
    for result in results:
        _write(stage, result)
    await stage.taken(len(results))
    await stage.arrived()


async def outage(stage: Stage) -> None:
    """Nothing answers for a while; then it does."""
    stage.heading("The service is out, then it is back")
    stage.service.faults = OUT
    stage.tell(Line(Actor.SERVICE, "goes down: closes every connection", tone=Tone.TROUBLE))
    results = [ResultFile(PATCH, "Success"), ResultFile(PACKAGE, "Success"), ResultFile(INVENTORY, "Failed")]
    for result in results:
        _write(stage, result)
    await stage.taken(len(results))
    await stage.until("the daemon to hold everything back", lambda: stage.heard[Said.HOLD] > 0)
    await _drop(stage, ResultFile(AGENT, "InProgress"), "runners do not notice any of this")
    await _drop(stage, ResultFile(AGENT, "Success"))
    struck = _struck(stage) + PROBES_SHOWN_MIN
    await stage.until("the daemon to probe", lambda: _struck(stage) >= struck)
    waiting = stage.state().outbox
    stage.service.faults = HEALTHY
    what = f"comes back; {waiting.pending + waiting.in_flight} reports are waiting on this side"
    stage.tell(Line(Actor.SERVICE, what, tone=Tone.ARRIVED))
    await stage.arrived()


async def refused_file(stage: Stage) -> None:
    """A runner writes what is no result."""
    stage.heading("A file that is no result")
    wrong = ResultFile(INVENTORY, "Sucess")
    name = stage.runner.write_wrongly(wrong)
    stage.tell(Line(Actor.RUNNER, f"{wrong.document}: {wrong.status}", "with a spelling mistake"))
    rejected = stage.premises.rejected / name
    await stage.until("the daemon to refuse the file", lambda: stage.heard[Said.REFUSED] > 0 and rejected.exists())
    await _drop(stage, ResultFile(INVENTORY, "Success"), "corrected")
    await stage.arrived()


async def refused_document(stage: Stage) -> None:
    """The service will not take a report; once it would, an operator has it sent again."""
    stage.heading("A document that the service does not know")
    stage.service.faults = OWN_UNKNOWN
    await _drop(stage, ResultFile(OWN, "Success"))
    await stage.until("the daemon to set the report aside", lambda: stage.heard[Said.DEAD] > 0)
    stage.service.faults = HEALTHY
    command = "dead-letters", "retry", "--all"
    stage.tell(Line(Actor.OPERATOR, f"ssm-status-reporter {' '.join(command)}", "the document is there now"))
    stage.awaited = "the command to end"
    await run_command(stage.premises, *command)
    await stage.arrived()


SCENES: Final[tuple[Callable[[Stage], Awaitable[None]], ...]] = (
    begin,
    news_and_repetition,
    newest_wins,
    concurrent_update,
    throttle,
    outage,
    refused_file,
    refused_document,
)


async def _reckoned(stage: Stage) -> Account:
    """End the daemon as a service manager does, and hold its count against what the service really has."""
    stage.heading("The account")
    stage.awaited = "the daemon to end"
    await stage.daemon.stop()
    stage.tell(Line(Actor.DAEMON, "has ended at SIGTERM", "nothing was left to do"))
    stage.awaited = "status --json"
    printed = await run_command(stage.premises, "status", "--json")
    return account(stage.runner, stage.service, msgspec.json.decode(printed, type=Snapshot), stage.seconds)


def _write(stage: Stage, result: ResultFile, why: str = "") -> None:
    stage.runner.write(result)
    stage.tell(Line(Actor.RUNNER, f"{result.document}: {result.status}", why))


async def _drop(stage: Stage, result: ResultFile, why: str = "") -> None:
    """Write a result, and wait until the daemon has taken it."""
    _write(stage, result, why)
    await stage.taken()


def _struck(stage: Stage) -> int:
    """How many calls met the outage."""
    return sum(entry.answer == "outage" for entry in stage.service.ledger)
