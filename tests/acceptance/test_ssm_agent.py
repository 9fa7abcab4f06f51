"""The SSM Agent's runs, end to end: real state files, the installed daemon, the service's ledger."""

import asyncio
import json
import shutil
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest

import agent_support
from acceptance_support import DESCRIBE, NODE, Daemon, Site, assert_balanced, calls, ends, held
from agent_support import OK_SUCCESS, SUCCESS, ReplayedAgent, State, content, recording, state
from results_directory_support import until
from ssm_status_reporter.config import AgentAssociations
from ssm_status_reporter.domain.report import RUN_STATUSES, Report
from ssm_status_reporter.emulator.faults import FaultPlan
from ssm_status_reporter.emulator.server import Emulator
from ssm_status_reporter.sources.agent_run import Run, decode, result

AGENT_MESSAGE = "1 out of 1 plugin processed, 1 success, 0 failed, 0 timedout, 0 skipped. "
"""The agent's own, of a run whose one step succeeded."""
ENDED_AT = datetime(2026, 11, 1, tzinfo=UTC)
"""When the first run ended; each further one ends an hour later."""
UUID = "89899cee-1f91-5621-acbd-0bee29b34fa0"
REPLAYED_RUNS = 1000
REPLAY_SECONDS_MAX = 480.0
MISSED = "the final status of a run of the SSM Agent cannot be reported"
MARKER = "Mark-3r/of=a.secret"


class Runs:
    """The agent on the machine of a site, and its runs, each an hour after the one before."""

    def __init__(self, site: Site, daemon: Daemon) -> None:
        self.agent = agent_of(site)
        self._daemon = daemon
        self._numbers = count()

    async def begin(self, document: str, association_id: str | None = None) -> tuple[str, State]:
        """A run begins, and the daemon holds its file; its name and its state."""
        number = next(self._numbers)
        run_id = f"2026-11-22T13-{number // 60:02}-{number % 60:02}.000Z"
        now = state(SUCCESS)
        known = association_id or document
        now["DocumentInformation"] |= {"AssociationID": known, "DocumentName": document, "RunID": run_id}
        now["DocumentInformation"]["DocumentStatus"] = "InProgress"
        now["InstancePluginsInformation"][0]["Result"]["endDateTime"] = go_time(ENDED_AT + timedelta(hours=number))
        name = f"{known}.{run_id}"
        self.agent.submit(name, content(now))
        self.agent.begin(name)
        await until(lambda: name in agent_support.held(self.agent.directory, self._daemon.pid))
        return name, now

    def end(self, name: str, now: State, status: str = "Success") -> None:
        """It ends: the last write, and the unlink."""
        now["DocumentInformation"]["DocumentStatus"] = status
        now["InstancePluginsInformation"][0]["Result"]["status"] = status
        self.agent.rewrite(name, content(now))
        self.agent.remove(name)

    async def run(self, document: str, association_id: str | None = None, status: str = "Success") -> None:
        """A whole run."""
        self.end(*await self.begin(document, association_id), status)


def agent_of(site: Site) -> ReplayedAgent:
    return ReplayedAgent(site.root / "ssm" / NODE / "document" / "state")


def site_with_agent(tmp_path: Path, emulator: Emulator, **changes: Any) -> Site:
    """A machine where the daemon looks for an SSM Agent, which is not there yet."""
    site = Site(tmp_path, emulator.url)
    site.changes = {"sources": {"ssm_agent": {"enabled": "auto", "path": str(tmp_path / "ssm"), **changes}}}
    site.configure()
    return site


def go_time(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def serving(*documents: str) -> FaultPlan:
    """A service with these associations and no others."""
    listed = [{"instance_id": NODE, "document": document} for document in documents]
    return msgspec.convert({"associations": listed}, FaultPlan)


async def test_a_thousand_runs_reach_the_service_whatever_the_agent_does(tmp_path: Path) -> None:
    """Torn writes, agent restarts, other documents: every final status is held in the end, reported by whomever."""
    async with Emulator() as emulator:
        healthy = range(0, REPLAYED_RUNS, 2)
        for number in healthy:  # the agent's own call, which comes before its last write
            run = decode(agent_support.final_state(number, REPLAYED_RUNS))
            assert isinstance(run, Run)
            own = result(run, NODE, AgentAssociations.AUTO, 0).report
            emulator.set_status(NODE, run.document, Report(own.status, own.message, None, own.observed_at_ms + 2))
        site = site_with_agent(tmp_path, emulator)
        agent_of(site).start()
        async with site.daemon() as daemon:
            arguments = (agent_of(site).directory, REPLAYED_RUNS, 7, REPLAYED_RUNS, daemon.pid)
            replayer = await asyncio.create_subprocess_exec(
                sys.executable, agent_support.__file__, *map(str, arguments)
            )
            async with asyncio.timeout(REPLAY_SECONDS_MAX):
                assert await replayer.wait() == 0
                # Not at each of the thousands of log lines: the emulator answers in this process.
                while ends(shown := site.state()) < REPLAYED_RUNS:
                    assert shown["counters"]["refused"] == 0, daemon.logged(MISSED)
                    await asyncio.sleep(0.25)
            await until(lambda: agent_support.held(agent_of(site).directory, daemon.pid) == [])
        assert_balanced(shown)
        for number in range(REPLAYED_RUNS):
            document, run_id, status = agent_support.run_name(number, REPLAYED_RUNS)
            arrived = emulator.status_of(NODE, document)
            assert arrived is not None, document
            assert arrived.status == RUN_STATUSES[status]
            assert number in healthy or json.loads(arrived.additional_info or "")["run_id"] == run_id
        assert {each.answer for each in calls(emulator)} == {"ok"}, "no StatusUnchanged is provoked"
        assert len(calls(emulator)) == REPLAYED_RUNS - len(healthy)
        assert (shown["counters"]["delivered"], shown["counters"]["already_held"]) == (500, 500)


async def test_what_the_agent_reported_itself_is_not_reported_again(tmp_path: Path) -> None:
    """A healthy agent comes first, 2 ms before the end is written: the service is asked, and called for nothing."""
    async with Emulator() as emulator:
        site = site_with_agent(tmp_path, emulator)
        agent_of(site).start()
        async with site.daemon() as daemon:
            runs = Runs(site, daemon)
            for number in range(3):
                begun = await runs.begin("Ok-Doc")
                own = Report("Success", AGENT_MESSAGE, None, ms(ENDED_AT + timedelta(hours=number)) + 2)
                emulator.set_status(NODE, "Ok-Doc", own)
                runs.end(*begun)
                await daemon.quiet(number + 1)
        assert calls(emulator) == []
        assert len(calls(emulator, operation=DESCRIBE)) == 3
        assert site.state()["counters"]["already_held"] == 3


@pytest.mark.parametrize("before", [None, "Pending"], ids=["all lost", "only the end lost"])
async def test_a_run_that_ends_as_the_last_one_did_arrives_although_the_agents_report_was_lost(
    before: str | None, tmp_path: Path
) -> None:
    """Success, then Success again: if the service shows Pending meanwhile, it is told; if not, it is not called."""
    async with Emulator() as emulator:
        site = site_with_agent(tmp_path, emulator)
        agent_of(site).start()
        async with site.daemon() as daemon:
            runs = Runs(site, daemon)
            await runs.run("Ok-Doc")
            await daemon.quiet(1)
            begun = await runs.begin("Ok-Doc")
            if before is not None:
                emulator.set_status(NODE, "Ok-Doc", Report(before, "", None, ms(ENDED_AT) + 60_000))
            runs.end(*begun)
            await daemon.quiet(2)
        assert held(emulator, "Ok-Doc") == ("Success", AGENT_MESSAGE)
        assert [each.answer for each in calls(emulator)] == ["ok"] * (1 if before is None else 2)


async def test_what_the_service_does_not_serve_is_asked_about_once_and_left_alone(tmp_path: Path) -> None:
    """With auto, runs of other associations cost one question an hour, a restart between them, and are counted."""
    async with Emulator(serving("Ours")) as emulator:
        site = site_with_agent(tmp_path, emulator)
        agent_of(site).start()
        for turn, status in enumerate(("Success", "Failed")):
            async with site.daemon() as daemon:
                runs = Runs(site, daemon)
                for number in range(4):
                    await runs.run("Others", UUID)
                    refused = 4 * turn + number + 1
                    await until(lambda: site.state()["counters"]["refused"] == refused)  # noqa: B023 - at once
                await runs.run("Ours", f"{UUID[:-1]}1", status)
                await daemon.quiet(turn + 1)
                assert await daemon.stop() == 0
        shown = site.state()
        assert len(calls(emulator, "Others", DESCRIBE)) == 1
        assert calls(emulator, "Others") == []
        assert [each.status for each in calls(emulator, "Ours")] == ["Success", "Failed"]
        assert (shown["counters"]["received"], shown["counters"]["refused"], shown["counters"]["dead"]) == (
            2,
            8,
            0,
        )
        assert [each["document"] for each in shown["associations"]] == ["Ours"]


async def test_legacy_takes_legacy_runs_alone_and_all_takes_all(tmp_path: Path) -> None:
    """With legacy a run under a UUID makes no call at all; with all it is parked until the service knows it."""
    async with Emulator(serving("Ours")) as emulator:
        site = site_with_agent(tmp_path, emulator, associations="legacy")
        agent_of(site).start()
        async with site.daemon() as daemon:
            runs = Runs(site, daemon)
            # Not held until it ends: it is let go as soon as it is read.
            others = f"{UUID}.2026-11-22T13-24-00.383Z"
            runs.agent.run(others, recording(OK_SUCCESS))
            await runs.run("Ours")
            await daemon.quiet(1)
            runs.agent.remove(others)
        assert {each.document for each in emulator.ledger} == {"Ours"}
        site = site_with_agent(tmp_path, emulator, associations="all")
        async with site.daemon() as daemon:
            await Runs(site, daemon).run("Others", UUID)
            await daemon.line("parked", document="Others", code="AssociationDoesNotExist")
        assert site.state()["outbox"]["parked"] == 1
        assert held(emulator, "Ours") == ("Success", AGENT_MESSAGE)


async def test_an_agent_is_found_whenever_it_comes_and_however_often_it_is_reinstalled(tmp_path: Path) -> None:
    """Nothing is there at the start; then the tree, without it, and again: runs of each installation arrive."""
    async with Emulator() as emulator:
        site = site_with_agent(tmp_path, emulator)
        async with site.daemon() as daemon:
            runs = Runs(site, daemon)
            for number in range(3):
                runs.agent.start()
                await runs.run(f"Doc-{number}")
                await daemon.quiet(number + 1)
                shutil.rmtree(tmp_path / "ssm")
            assert not [line for line in daemon.lines if line["level"] in {"warning", "error"}]
        assert [held(emulator, f"Doc-{number}") for number in range(3)] == [("Success", AGENT_MESSAGE)] * 3


async def test_no_secret_of_a_run_is_anywhere(tmp_path: Path) -> None:
    """Configurations and outputs full of a secret: not in logs, outbox, its -wal, dead letters, ledger or status."""
    async with Emulator(
        msgspec.convert({"documents": {"invalid": ["Dead"]}}, FaultPlan), ledger_path=tmp_path / "ledger"
    ) as emulator:
        site = site_with_agent(tmp_path, emulator)
        agent_of(site).start()
        async with site.daemon() as daemon:
            runs = Runs(site, daemon)
            for number, document in enumerate(("Alive", "Dead"), 1):
                name, now = await runs.begin(document)
                full_of_secrets(now)
                runs.end(name, now, "Failed")
                await daemon.quiet(number)
            name, now = await runs.begin("Torn")
            runs.agent.rewrite(name, content(full_of_secrets(now))[:-9])
            runs.agent.remove(name)
            await daemon.line(MISSED, run=name)
            await daemon.line("dead: the service will not take it", document="Dead")
            wal = site.outbox.with_name("outbox.db-wal")
            assert wal.exists()
            stored = b"".join(path.read_bytes() for path in site.outbox.parent.iterdir() if path.is_file())
            shown = [await site.run("status", "--json"), await site.run("dead-letters", "list", "--json")]
            logged = json.dumps(daemon.lines)
        assert b"The operation bad failed because bad password ***" in stored
        places: Mapping[str, bytes] = {
            "outbox": stored,
            "log": logged.encode(),
            "commands": "".join(each.output + each.errors for each in shown).encode(),
            "ledger": (tmp_path / "ledger").read_bytes(),
            "service": repr(emulator.status_of(NODE, "Alive")).encode(),
        }
        for place, found in places.items():
            assert b"Alive" in found or b"because" in found, f"{place} was looked into"
            for part in (MARKER[at : at + 8].encode() for at in range(len(MARKER) - 7)):
                assert part not in found, place


def full_of_secrets(now: State) -> State:
    """The marker in every text of the configuration, in the output, and in an error text that repeats it."""
    (step,) = now["InstancePluginsInformation"]
    step["Id"] = "bad"
    step["Configuration"] = marked(step["Configuration"])
    step["Result"] |= {"output": MARKER, "standardOutput": MARKER, "standardError": f"bad password {MARKER}"}
    now |= {"IOConfig": marked(now["IOConfig"]), "CancelInformation": marked(now["CancelInformation"])}
    return now


def marked(value: Any) -> Any:
    """The same shape, with the marker in every text of it."""
    match value:
        case dict():
            return {name: marked(inner) for name, inner in value.items()}
        case list():
            return [*(marked(inner) for inner in value), MARKER]
        case str() | None:
            return f"{value} {MARKER}"
        case _:
            return value
