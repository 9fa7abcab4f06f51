"""The SSM Agent's runs, with real files and real inotify; the agent is replayed from recordings."""

import asyncio
import json
import os
import random
import shutil
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

import agent_support
from agent_support import (
    FAILED,
    MULTI_FAILED,
    NODE,
    OK_SUCCESS,
    RUNNING,
    RUNNING_WORKER,
    SUCCESS,
    ReplayedAgent,
    arrived,
    changed,
    content,
    held,
    recording,
    run_name,
    said,
    state,
    watches,
    watching,
)
from results_directory_support import WAIT_SECONDS_MAX, RecordingIntake, TurnedClock, unprivileged, until
from ssm_status_reporter import tuning
from ssm_status_reporter.config import AgentAssociations, Configuration
from ssm_status_reporter.domain.limits import (
    AGENT_RUNS_HELD_MAX,
    AGENT_STATE_BYTES_MAX,
    EVENTS_PER_DRAIN_MAX,
    SPOOL_RETRY_MS_MAX,
)
from ssm_status_reporter.domain.result import Result
from ssm_status_reporter.host.clock import SystemClock
from ssm_status_reporter.outbox.commit import Committer
from ssm_status_reporter.outbox.database import migrations
from ssm_status_reporter.outbox.operations import Operations
from ssm_status_reporter.outbox.sqlite import SqliteOutbox
from ssm_status_reporter.sources import agent_reader

RUN = "Fail-Doc.2026-11-22T13-23-57.041Z"
OTHER_RUN = "Fail-Doc.2026-11-22T13-53-57.041Z"
MARKER = "Mark-3r/of=a.secret"
REPLAYED_RUNS = 1000
DOCUMENTS = 40
REPLAY_SECONDS_MAX = 480.0
AGENT_STOP_SECONDS_MAX = "ssm_status_reporter.sources.agent_handover.AGENT_STOP_SECONDS_MAX"


@pytest.fixture(autouse=True)
def _unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a commit takes, a stop waits for it."""
    monkeypatch.setattr(AGENT_STOP_SECONDS_MAX, WAIT_SECONDS_MAX)


@pytest.fixture
def agent(tmp_path: Path) -> ReplayedAgent:
    """Not started: its directories are not there."""
    return ReplayedAgent(tmp_path / "ssm" / NODE / "document" / "state")


@pytest.fixture
def started(agent: ReplayedAgent) -> ReplayedAgent:
    agent.start()
    return agent


@pytest.fixture
def intake() -> RecordingIntake:
    return RecordingIntake()


def root(agent: ReplayedAgent) -> Path:
    """The agent's data directory."""
    return agent.directory.parents[2]


def events_queued_max() -> int:
    return int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())


def run_id(result: Result) -> str:
    info: dict[str, str] = json.loads(result.report.additional_info or "{}")
    return info["run_id"]


async def begun(agent: ReplayedAgent, name: str, payload: bytes | None = None) -> None:
    """A run is under way, and the source holds it."""
    agent.submit(name, payload or recording(RUNNING))
    agent.begin(name)
    await until(lambda: name in held(agent.directory))


async def looked(agent: ReplayedAgent) -> None:
    """Everything before this was followed: a run after it is held."""
    name = f"Sentinel.2026-01-01T00-00-00.{random.randrange(1000):03}Z"  # noqa: S311 - no secret
    await begun(agent, name)
    agent.remove(name)
    await until(lambda: name not in held(agent.directory))


async def turned(clock: TurnedClock) -> None:
    """Whoever waits for the clock has been woken by it, and waits again."""
    await until(lambda: clock.sleepers > 0)
    clock.asleep.clear()
    clock.turn(SPOOL_RETRY_MS_MAX)
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        await clock.asleep.wait()


# What arrives.


async def test_a_thousand_runs_arrive_whatever_the_agent_does(
    started: ReplayedAgent, intake: RecordingIntake
) -> None:
    """A thousand runs, torn writes, restarts and other documents among them: every final status arrives once."""
    async with watching(root(started), intake):
        arguments = (started.directory, REPLAYED_RUNS, 7, DOCUMENTS, os.getpid())
        replayer = await asyncio.create_subprocess_exec(
            sys.executable, agent_support.__file__, *map(str, arguments)
        )
        async with asyncio.timeout(REPLAY_SECONDS_MAX):
            assert await replayer.wait() == 0
        await arrived(intake, REPLAYED_RUNS)
        await until(lambda: held(started.directory) == [])
    expected = set()
    for number in range(REPLAYED_RUNS):
        document, each, status = run_name(number, DOCUMENTS)
        expected.add((document, each, status))
    assert expected == {
        (
            result.association.document,
            run_id(result),
            json.loads(result.report.additional_info or "")["run_status"],
        )
        for result in intake.results
    }
    assert intake.refused == 0


async def test_the_final_status_is_read_although_the_file_is_gone(
    started: ReplayedAgent, intake: RecordingIntake
) -> None:
    """The agent writes the last state and unlinks at once: the status arrives, and nothing stays open."""
    async with watching(root(started), intake):
        await begun(started, RUN)
        started.rewrite(RUN, recording(FAILED))
        started.remove(RUN)
        (result,) = await arrived(intake, 1)
        assert (result.association.instance_id, result.association.document) == (NODE, "Fail-Doc")
        assert result.report.status == "Failed"
        assert "The operation bad failed because boom" in result.report.message
        await until(lambda: held(started.directory) == [])


async def test_a_run_that_waits_its_turn_is_held_already(started: ReplayedAgent, intake: RecordingIntake) -> None:
    """A queued run begins and ends while this daemon is busy: its status arrives, and nobody calls it missed."""
    with capture_logs() as logs:
        async with watching(root(started), intake):
            started.submit(RUN, recording(RUNNING))
            await until(lambda: held(started.directory) == [RUN])
            started.begin(RUN)
            started.rewrite(RUN, recording(FAILED))
            started.remove(RUN)
            await arrived(intake, 1)
            await looked(started)
    assert intake.refused == 0
    assert said(logs, "cannot be reported") == []


async def test_a_run_is_held_on_from_pending_to_current(started: ReplayedAgent, intake: RecordingIntake) -> None:
    """A queued run begins after a while: it is still the same run, not one that went without an end."""
    with capture_logs() as logs:
        async with watching(root(started), intake):
            started.submit(RUN, recording(RUNNING))
            await until(lambda: held(started.directory) == [RUN])
            started.begin(RUN)
            await looked(started)
            assert held(started.directory) == [RUN]
    assert not any(line["run"] == RUN for line in said(logs, "without a final status"))


async def test_a_torn_file_is_waited_for(started: ReplayedAgent, intake: RecordingIntake) -> None:
    """Empty and cut contents are met while the agent writes: nothing is said, nothing is lost."""
    with capture_logs() as logs:
        async with watching(root(started), intake):
            await begun(started, RUN)
            for payload in (b"", recording(FAILED)[:1000], recording(RUNNING_WORKER)):
                started.rewrite(RUN, payload)
                await looked(started)
            assert intake.results == []
            started.rewrite(RUN, recording(FAILED))
            await arrived(intake, 1)
            started.remove(RUN)
            await looked(started)
        assert len(intake.results) == 1
    assert said(logs, "cannot") == []


async def test_a_run_goes_on_over_restarts_and_reboots(started: ReplayedAgent, intake: RecordingIntake) -> None:
    """The agent restarts in mid-run, then the node reboots: one result, at the very end."""
    async with watching(root(started), intake):
        await begun(started, RUN)
        steps = [("InProgress", 1), ("SuccessAndReboot", 1), ("PassedAndReboot", 2), ("InProgress", 2)]
        for status, run_count in steps:
            started.start()
            started.rewrite(RUN, changed(RUNNING, status, "Fail-Doc", "1", run_count))
            await looked(started)
        assert intake.results == []
        started.rewrite(RUN, changed(SUCCESS, "Success", "Fail-Doc", "1", 2))
        await arrived(intake, 1)
        started.rewrite(RUN, changed(SUCCESS, "Success", "Fail-Doc", "1", 3))
        started.remove(RUN)
        await looked(started)
        assert len(intake.results) == 1


async def test_a_name_that_another_file_takes_is_two_runs(
    started: ReplayedAgent, intake: RecordingIntake, tmp_path: Path
) -> None:
    """The agent writes a removed run's file anew: the old file's end and the new one's are both seen."""
    async with watching(root(started), intake):
        await begun(started, RUN)
        started.rewrite(RUN, recording(FAILED))
        agent_support.write(tmp_path / "new", recording(RUNNING))
        (tmp_path / "new").rename(started.current / RUN)
        await arrived(intake, 1)
        await looked(started)
        started.rewrite(RUN, changed(FAILED, "Failed", "Fail-Doc", "anew"))
        started.remove(RUN)
        assert [run_id(result) for result in await arrived(intake, 2)] == ["2026-11-22T13-23-57.041Z", "anew"]


async def test_a_burst_beyond_one_drain_is_followed_to_its_end(
    started: ReplayedAgent, intake: RecordingIntake
) -> None:
    """More events come at once than are read in one go: the run at their end is not left lying."""
    async with watching(root(started), intake):
        await looked(started)
        for number in range(EVENTS_PER_DRAIN_MAX // 2):  # two events each: created and closed
            agent_support.write(started.current / f"noise{number}", b"")
        started.run(RUN, recording(FAILED))
        await arrived(intake, 1)


async def test_other_documents_are_let_go(started: ReplayedAgent, intake: RecordingIntake) -> None:
    """Run Command and sessions lie in the same directory: they are not reported, and not kept open."""
    async with watching(root(started), intake):
        for kind in ("SendCommand", "StartSession"):
            started.run(f"{kind}-0123", content(state(SUCCESS) | {"DocumentType": kind}))
        await looked(started)
        assert held(started.directory) == []
    assert (intake.results, intake.refused) == ([], 0)


async def test_legacy_reports_only_what_the_agent_got_as_legacy(
    started: ReplayedAgent, intake: RecordingIntake
) -> None:
    """With associations: legacy, a run under a UUID is left alone and not kept open."""
    async with watching(root(started), intake, AgentAssociations.LEGACY):
        started.run("89899cee-1f91-5621-acbd-0bee29b34fa0.2026-11-22T13-24-00.383Z", recording(MULTI_FAILED))
        started.run(RUN, recording(FAILED))
        (result,) = await arrived(intake, 1)
        assert result.association.document == "Fail-Doc"
        assert held(started.directory) == [RUN]


# Starting and stopping.


async def test_what_lies_there_at_the_start_is_taken(started: ReplayedAgent, intake: RecordingIntake) -> None:
    """The daemon starts in mid-run: what is over already arrives at once, what goes on when it ends."""
    started.run("Done.2026-11-22T13-00-00.000Z", recording(SUCCESS))
    started.submit(RUN, recording(RUNNING))
    async with watching(root(started), intake):
        await arrived(intake, 1)
        started.begin(RUN)
        started.rewrite(RUN, recording(FAILED))
        started.remove(RUN)
        await arrived(intake, 2)


async def test_what_is_at_hand_at_a_stop_is_committed(started: ReplayedAgent, intake: RecordingIntake) -> None:
    """The daemon is stopped just as a run ends: its file is gone, and its status is committed before the exit."""
    async with watching(root(started), intake) as task:
        await begun(started, RUN)
        await begun(started, OTHER_RUN)
        intake.commits.clear()
        started.rewrite(RUN, recording(FAILED))
        await intake.until(lambda: len(intake.offered) == 1)
        started.rewrite(OTHER_RUN, recording(SUCCESS))
        started.remove(OTHER_RUN)
        task.cancel()
        await until(lambda: held(started.directory) == [])
        intake.commits.set()
        await asyncio.wait({task})
    assert [result.report.status for result in intake.results] == ["Failed", "Success"]
    assert len(intake.offered) == 2


async def test_a_stop_does_not_wait_for_a_full_disk(
    started: ReplayedAgent, intake: RecordingIntake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outbox takes nothing: the daemon stops all the same, and says what it could not store."""
    monkeypatch.setattr(AGENT_STOP_SECONDS_MAX, 0.05)
    with capture_logs() as logs:
        intake.commits.clear()
        async with watching(root(started), intake):
            started.run(RUN, recording(FAILED))
            await intake.until(lambda: len(intake.offered) == 1)
    assert len(said(logs, "stopping before the outbox took all")) == 1


async def test_runs_are_followed_while_the_outbox_waits(started: ReplayedAgent, intake: RecordingIntake) -> None:
    """The disk is full for a while: runs that begin and end meanwhile arrive once it is not."""
    intake.commits.clear()
    async with watching(root(started), intake):
        names = [f"Fail-Doc.2026-11-22T13-23-57.{number:03}Z" for number in range(20)]
        for number, name in enumerate(names):
            await begun(started, name)
            started.rewrite(name, changed(FAILED, "Failed", "Fail-Doc", str(number)))
            started.remove(name)
        await until(lambda: held(started.directory) == [])
        intake.commits.set()
        results = await arrived(intake, len(names))
    assert [run_id(result) for result in results] == [str(number) for number in range(20)]


# Directories that come and go.


async def test_an_agent_that_is_installed_later_is_noticed(agent: ReplayedAgent, intake: RecordingIntake) -> None:
    """There is no agent, and nothing is said above debug; it is installed, and its first run arrives."""
    with capture_logs() as logs:
        async with watching(root(agent), intake):
            assert [log["log_level"] for log in logs] == ["debug"]
            agent.start()
            await looked(agent)
            agent.run(RUN, recording(FAILED))
            await arrived(intake, 1)
    assert said(logs, "no SSM Agent here yet")
    assert all(log["log_level"] in {"debug", "info"} for log in logs)


async def test_an_absence_is_complained_of_where_it_is_wanted(
    agent: ReplayedAgent, intake: RecordingIntake
) -> None:
    """With enabled: true, the operator is told once that there is no agent, and where it was looked for."""
    with capture_logs() as logs:
        async with watching(root(agent), intake, absence=agent_reader.Absence.COMPLAINED_OF):
            watched = watches()
            root(agent).mkdir()
            await until(lambda: watches() == watched + 1)
            (complaint,) = said(logs, "keeps no state of this node's runs here")
    assert complaint["log_level"] == "warning"
    assert complaint["path"] == str(agent.directory)


async def test_a_reinstalled_agent_is_noticed(started: ReplayedAgent, intake: RecordingIntake) -> None:
    """The whole tree is removed and made again, twice: runs before, between and after arrive."""
    async with watching(root(started), intake):
        for number in range(3):
            name = f"Fail-Doc.2026-11-22T13-23-57.{number:03}Z"
            await begun(started, name)
            started.rewrite(name, changed(FAILED, "Failed", "Fail-Doc", str(number)))
            shutil.rmtree(root(started))
            started.start()
            await looked(started)
        assert [run_id(result) for result in await arrived(intake, 3)] == ["0", "1", "2"]
        assert held(started.directory) == []


async def test_a_run_of_the_new_installation_outlives_the_old_directory(
    started: ReplayedAgent, intake: RecordingIntake
) -> None:
    """A reinstalled agent queues a run while the daemon still finds out: it is held on, and nothing is said of it."""
    with capture_logs() as logs:
        async with watching(root(started), intake):
            aside = started.directory.with_name("aside")
            started.current.rename(aside)  # it watches on, for its path leads there no more
            started.pending.rmdir()
            started.pending.mkdir(mode=0o700)
            started.submit(RUN, b"")
            await until(lambda: held(started.directory) == [RUN])
            started.current.mkdir(mode=0o700)
            started.begin(RUN)
            started.rewrite(RUN, recording(FAILED))
            await arrived(intake, 1)
            started.remove(RUN)
            await looked(started)
    assert said(logs, "cannot be reported") == []
    assert (len(intake.results), intake.refused) == (1, 0)


async def test_a_moved_directory_is_followed_to_its_successor(
    started: ReplayedAgent, intake: RecordingIntake
) -> None:
    """The tree is put aside, and later another put in its place: nothing stays open, what is new is seen."""
    async with watching(root(started), intake):
        await begun(started, RUN)
        started.rewrite(RUN, recording(FAILED))
        started.directory.parent.rename(root(started) / "aside")
        await until(lambda: held(root(started)) == [])
        started.start()
        await looked(started)
        await arrived(intake, 1)


async def test_pending_may_be_missing_and_come_later(started: ReplayedAgent, intake: RecordingIntake) -> None:
    """Without a pending directory runs are still seen; once it is there, queued runs are held."""
    started.pending.rmdir()
    async with watching(root(started), intake):
        (started.current / RUN).write_bytes(recording(FAILED))
        await arrived(intake, 1)
        started.start()
        started.submit(OTHER_RUN, recording(RUNNING))
        await until(lambda: OTHER_RUN in held(started.directory))


def descriptors(path: Path) -> int:
    """How many of this process lead to what has, or had, that path."""
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return [str(link.readlink()).removesuffix(" (deleted)") for link in links].count(str(path))


async def test_a_pending_that_is_made_anew_leaves_nothing_open(
    started: ReplayedAgent, intake: RecordingIntake
) -> None:
    """However often the agent makes the directory anew, one of them is held open: the one that is there."""
    async with watching(root(started), intake):
        for number in range(5):
            started.pending.rmdir()
            started.pending.mkdir()
            name = RUN.replace(".", f"-{number}.", 1)
            started.submit(name, recording(RUNNING))
            await until(lambda name=name: name in held(started.directory))  # type: ignore[misc]
            (started.pending / name).unlink()
        assert descriptors(started.pending) == 1


async def test_a_forbidden_directory_is_said_once_and_tried_again(intake: RecordingIntake) -> None:
    """The daemon lacks the capability: one line names it; given the right, it watches without a restart."""
    with unprivileged() as directory, capture_logs() as logs:
        agent = ReplayedAgent(directory / NODE / "document" / "state")
        agent.start()
        agent.run(RUN, recording(FAILED))
        (directory / NODE).chmod(0)
        clock = TurnedClock()
        async with watching(directory, intake, clock=clock):
            for _ in range(3):
                await turned(clock)
            (complaint,) = said(logs, "cannot be watched")
            assert "CAP_DAC_READ_SEARCH" in complaint["hint"]
            (directory / NODE).chmod(0o700)
            clock.turn(SPOOL_RETRY_MS_MAX)
            await arrived(intake, 1)


async def test_a_way_that_may_only_be_passed_is_looked_at_again(intake: RecordingIntake) -> None:
    """A directory on the way may not be watched: what is made in it is found after a while, without a restart."""
    with unprivileged() as directory:
        agent = ReplayedAgent(directory / NODE / "document" / "state")
        (directory / NODE).mkdir(mode=0o300)
        clock = TurnedClock()
        async with watching(directory, intake, clock=clock):
            await turned(clock)
            agent.start()
            clock.turn(SPOOL_RETRY_MS_MAX)
            await looked(agent)
            agent.run(RUN, recording(FAILED))
            await arrived(intake, 1)
        (directory / NODE).chmod(0o700)


async def test_a_forbidden_file_is_said_once_and_tried_again(intake: RecordingIntake) -> None:
    """One file cannot be opened: the others are followed, and it is taken once it can be."""
    with unprivileged() as directory, capture_logs() as logs:
        agent = ReplayedAgent(directory / NODE / "document" / "state")
        agent.start()
        agent.run(RUN, recording(FAILED))
        (agent.current / RUN).chmod(0)
        clock = TurnedClock()
        async with watching(directory, intake, clock=clock):
            agent.run("Ok-Doc.2026-11-22T13-23-57.041Z", recording(OK_SUCCESS))
            await arrived(intake, 1)
            for _ in range(3):
                await turned(clock)
            (complaint,) = said(logs, "cannot be read now")
            assert "CAP_DAC_READ_SEARCH" in complaint["hint"]
            (agent.current / RUN).chmod(0o600)
            clock.turn(SPOOL_RETRY_MS_MAX)
            await arrived(intake, 2)


# What goes wrong.


async def test_a_run_that_was_never_opened_is_said(started: ReplayedAgent, intake: RecordingIntake) -> None:
    """A run begins and ends while this daemon is busy: its status is lost here, and the operator is told."""
    with capture_logs() as logs:
        async with watching(root(started), intake):
            started.run(RUN, recording(FAILED))
            started.remove(RUN)
            await until(lambda: intake.refused == 1)
    (complaint,) = said(logs, "cannot be reported")
    assert complaint["run"] == RUN
    assert "before this daemon came to open it" in complaint["reason"]
    assert intake.results == []


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (b"", "before it was whole"),
        (recording(FAILED)[:-2], "before it was whole"),
        (b'{"DocumentType": "Association"}', "not as the SSM Agent 3.3 writes it"),
        (b" " * (AGENT_STATE_BYTES_MAX + 1), "larger than 16MiB"),
        (changed(FAILED, "Failed", "no such/na me", "1"), "none that the API takes"),
    ],
    ids=["empty", "cut", "unknown", "large", "unnamed"],
)
async def test_a_status_that_cannot_be_known_is_said_once(
    last: bytes, reason: str, started: ReplayedAgent, intake: RecordingIntake
) -> None:
    """The last content of a file is no state: the operator is told, once, of which run the status is not known."""
    with capture_logs() as logs:
        async with watching(root(started), intake):
            await begun(started, RUN)
            started.rewrite(RUN, last)
            await looked(started)
            started.remove(RUN)
            await until(lambda: held(started.directory) == [])
    (complaint,) = said(logs, "cannot be reported")
    assert complaint["run"] == RUN
    assert reason in complaint["reason"]
    assert (intake.results, intake.refused) == ([], 1)


async def test_a_run_that_is_given_up_is_let_go(started: ReplayedAgent, intake: RecordingIntake) -> None:
    """The agent removes a run that never ended, or sets it aside as corrupt: nothing is reported, nothing kept."""
    with capture_logs() as logs:
        async with watching(root(started), intake):
            await begun(started, RUN)
            await begun(started, OTHER_RUN)
            started.remove(RUN)
            (started.current / OTHER_RUN).rename(started.corrupt / OTHER_RUN)
            await until(lambda: held(started.directory) == [])
    lines = said(logs, "without a final status")
    assert [(line["run"], line["so_far"]) for line in lines] == [(RUN, 1), (OTHER_RUN, 2)]
    assert (intake.results, intake.refused) == ([], 0)


async def test_what_is_no_regular_file_is_not_opened(started: ReplayedAgent, intake: RecordingIntake) -> None:
    """A link, a FIFO and a directory under a run's name are not touched, and hold nothing up."""
    agent_support.write(started.directory / "elsewhere", recording(FAILED))
    (started.current / RUN).symlink_to(started.directory / "elsewhere")
    os.mkfifo(started.current / OTHER_RUN)
    (started.current / "Dir.2026-11-22T13-53-57.041Z").mkdir()
    with capture_logs() as logs:
        async with watching(root(started), intake):
            started.run("Ok-Doc.2026-11-22T13-23-57.041Z", recording(OK_SUCCESS))
            (result,) = await arrived(intake, 1)
            await looked(started)
    assert result.association.document == "Ok-Doc"
    assert all(log["log_level"] in {"debug", "info"} for log in logs)


async def test_an_overflow_of_events_loses_no_run_that_is_held(
    started: ReplayedAgent, intake: RecordingIntake
) -> None:
    """More happens than inotify can tell: what was held, and what is there now, arrives all the same."""
    with capture_logs() as logs:
        async with watching(root(started), intake):
            await begun(started, RUN)
            await begun(started, OTHER_RUN)
            noise = [os.open(started.current / f"noise{number}", os.O_WRONLY | os.O_CREAT) for number in (0, 1)]
            for number in range(events_queued_max() + 100):  # in turns: equal events in a row would be one
                os.write(noise[number % 2], b"x")
            for descriptor in noise:
                os.close(descriptor)
            started.rewrite(RUN, recording(FAILED))
            started.remove(RUN)
            started.run("Ok-Doc.2026-11-22T13-23-57.041Z", recording(OK_SUCCESS))
            results = await arrived(intake, 2)
            assert {result.association.document for result in results} == {"Fail-Doc", "Ok-Doc"}
            started.rewrite(OTHER_RUN, changed(FAILED, "Failed", "Fail-Doc", "later"))
            await arrived(intake, 3)
    assert len(said(logs, "more of the SSM Agent's files than inotify could tell of")) == 1


async def test_the_runs_held_open_are_bounded(started: ReplayedAgent, intake: RecordingIntake) -> None:
    """State files without number: the daemon keeps a bounded number open, says so once, and follows the newest."""
    for number in range(AGENT_RUNS_HELD_MAX + 50):
        (started.current / f"Left.2026-11-22T13-{number // 60:02}-{number % 60:02}.000Z").write_bytes(
            recording(RUNNING)
        )
    with capture_logs() as logs:
        async with watching(root(started), intake):
            await begun(started, RUN.replace("Fail", "Zz"))
            assert len(held(started.directory)) == AGENT_RUNS_HELD_MAX
            started.rewrite("Left.2026-11-22T13-00-00.000Z", recording(FAILED))
            await arrived(intake, 1)
            assert len(held(started.directory)) <= AGENT_RUNS_HELD_MAX
    assert len(said(logs, "more runs of the SSM Agent at once than are held open")) == 1


async def test_a_run_that_makes_room_is_read_a_last_time(
    started: ReplayedAgent, intake: RecordingIntake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run ends just as another takes its place among those held open: its status arrives."""
    monkeypatch.setattr(agent_reader, "AGENT_RUNS_HELD_MAX", 1)
    async with watching(root(started), intake):
        await begun(started, RUN)
        started.submit(OTHER_RUN, recording(RUNNING))
        started.rewrite(RUN, recording(FAILED))
        started.remove(RUN)
        await arrived(intake, 1)


async def test_results_that_wait_are_bounded(
    started: ReplayedAgent, intake: RecordingIntake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outbox takes nothing for long: the newest results are kept, and the loss of the oldest is said."""
    monkeypatch.setattr("ssm_status_reporter.sources.agent_handover.AGENT_RESULTS_WAITING_MAX", 3)
    intake.commits.clear()
    with capture_logs() as logs:
        async with watching(root(started), intake):
            for number in range(6):
                name = f"Fail-Doc.2026-11-22T13-23-57.{number:03}Z"
                await begun(started, name)
                started.rewrite(name, changed(FAILED, "Failed", "Fail-Doc", str(number)))
                started.remove(name)
                await until(lambda: held(started.directory) == [])
            intake.commits.set()
            results = await arrived(intake, 4)
    assert [run_id(result) for result in results] == ["0", "3", "4", "5"]
    assert len(said(logs, "too many results of the SSM Agent wait")) == 2


# Secrets.


@pytest.fixture
async def outbox(tmp_path: Path) -> AsyncIterator[SqliteOutbox]:
    """A real one, in a directory of its own."""
    (tmp_path / "outbox").mkdir()
    configuration = msgspec.convert({}, Configuration)
    clock = SystemClock()
    committer = Committer(
        tmp_path / "outbox" / "outbox.db", migrations(), lambda: datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    )
    policy, reconciliation = tuning.policy(configuration, None), tuning.reconciliation(configuration)
    outbox = SqliteOutbox(committer, Operations(clock, random.random, policy, reconciliation, 1000))
    yield outbox
    await outbox.close()


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


async def test_no_secret_leaves_a_state_file(started: ReplayedAgent, outbox: SqliteOutbox, tmp_path: Path) -> None:
    """Secrets in configurations and output reach no log, no message and no byte of the database."""
    secret = state(FAILED)
    (step,) = secret["InstancePluginsInformation"]
    step["Configuration"] = marked(step["Configuration"])
    step["Result"] |= {"output": MARKER, "standardOutput": MARKER, "standardError": f"bad password {MARKER}"}
    secret |= {"IOConfig": marked(secret["IOConfig"]), "CancelInformation": marked(secret["CancelInformation"])}
    whole = content(secret)
    awkward = {
        "wrong type": whole.replace(
            b'"RunCount": 0', b'"RunCount": 0, "RunID": {"x": "' + MARKER.encode() + b'"}'
        ),
        "wrong status": whole.replace(b'"code": 7', b'"code": "' + MARKER.encode() + b'"'),
        "torn": whole[:-10],
        "whole": whole,
    }
    with capture_logs() as logs:
        async with watching(root(started), outbox):
            for number, payload in enumerate(awkward.values()):
                name = f"Fail-Doc.2026-11-22T13-23-57.{number:03}Z"
                await begun(started, name, payload)
                await looked(started)
                started.remove(name)
            await until(lambda: held(started.directory) == [])
            await looked(started)
    rows = b"".join(path.read_bytes() for path in (tmp_path / "outbox").iterdir())
    assert b"The operation bad failed because bad password ***" in rows
    assert len(said(logs, "cannot be reported")) == 3
    for part in (MARKER[at : at + 8] for at in range(len(MARKER) - 7)):
        assert part.encode() not in rows
        assert part not in repr(logs)
