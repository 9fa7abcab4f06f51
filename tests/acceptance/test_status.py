"""``status`` of the installed command: the contract's shape, at any time, for whoever may read."""

import asyncio
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from acceptance_support import COMMAND, NODE, REGION, SECONDS_MAX, Site
from ssm_status_reporter.cli.main import main
from ssm_status_reporter.domain.rfc3339 import milliseconds
from ssm_status_reporter.emulator.faults import FaultPlan
from ssm_status_reporter.emulator.server import Emulator

OTHER_USER = 54_321
GROUP = 54_322
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
COUNTERS = {
    "received",
    "suppressed_unchanged",
    "suppressed_stale",
    "coalesced",
    "refused",
    "calls",
    "delivered",
    "already_held",
    "retried",
    "dead",
}
SHAPE: dict[str, set[str]] = {
    "node": {"instance_id", "region"},
    "daemon": {"running", "pid", "started_at"},
    "outbox": {"pending", "in_flight", "parked", "dead", "oldest_pending_seconds"},
    "counters": COUNTERS,
}
HOLD = {"scope", "instance_id", "document", "reason", "since", "next_probe_at"}
ASSOCIATION = {
    "instance_id",
    "document",
    "state",
    "acknowledged",
    "pending",
    "attempts",
    "next_attempt_at",
    "last_error",
}


def assert_shape(state: Any) -> None:
    """The contract's keys, all of them and no others (but for "comparison")."""
    assert state.keys() - {"comparison"} == SHAPE.keys() | {"holds", "associations"}
    for name, keys in SHAPE.items():
        assert state[name].keys() == keys, name
    assert all(type(number) is int for number in state["counters"].values())
    for hold in state["holds"]:
        assert hold.keys() == HOLD
    for association in state["associations"]:
        assert association.keys() == ASSOCIATION
        if association["acknowledged"]:
            assert association["acknowledged"].keys() == {"status", "message", "observed_at", "at"}
        if association["last_error"]:
            assert association["last_error"].keys() == {"code", "message", "request_id", "hint", "at"}


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory that other users can reach, which pytest's own is not."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


async def test_before_any_run_there_is_nothing_and_that_is_no_error(tmp_path: Path) -> None:
    """On a fresh machine status answers, with zeros, and creates nothing."""
    site = Site(tmp_path, "http://127.0.0.1:9")
    ended = await site.run("status", "--json")
    assert (ended.code, ended.errors) == (0, "")
    assert_shape(ended.json)
    assert ended.json["node"] == {"instance_id": None, "region": None}
    assert ended.json["daemon"] == {"running": False, "pid": None, "started_at": None}
    assert set(ended.json["counters"].values()) == {0}
    assert list(site.outbox.parent.iterdir()) == []
    readable = await site.run("status")
    assert readable.code == 0
    assert "not running" in readable.output
    assert readable.output.splitlines()[0].split(maxsplit=1) == ["node", "not known yet"]


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_it_is_coloured_for_who_wants_it(tmp_path: Path, no_color: str, coloured: bool) -> None:  # noqa: FBT001
    """Where colours are shown, NO_COLOR turns them off, as for every command."""
    site = Site(tmp_path, "http://127.0.0.1:9")
    shown = CliRunner().invoke(
        main, ["--config", str(site.config), "status"], color=True, env={"NO_COLOR": no_color}
    )
    assert shown.exit_code == 0
    assert ("\x1b" in shown.output) == coloured


async def test_a_watch_shows_it_again_until_it_is_interrupted(tmp_path: Path) -> None:
    """--watch goes on by itself; Ctrl-C is its end, not its failure."""
    site = Site(tmp_path, "http://127.0.0.1:9")
    process = await asyncio.create_subprocess_exec(
        *(COMMAND, "--config", site.config, "status", "--watch", "--json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    for _ in range(2):
        assert_shape(msgspec.json.decode(await asyncio.wait_for(process.stdout.readline(), SECONDS_MAX)))
    process.send_signal(signal.SIGINT)
    _, errors = await asyncio.wait_for(process.communicate(), SECONDS_MAX)
    assert (process.returncode, errors) == (0, b"")


async def test_it_works_while_the_daemon_runs_and_after_it_stopped_or_was_killed(tmp_path: Path) -> None:
    """The same figures from a running, a stopped and a crashed daemon; only "running" differs."""
    async with Emulator() as emulator:
        site = Site(tmp_path, emulator.url)
        async with site.daemon() as daemon:
            site.drop("Doc", "Success", "done", observed_at="2026-01-02T03:04:05.678Z")
            await daemon.quiet(1)
            running = (await site.run("status", "--json")).json
            assert_shape(running)
            assert running["daemon"]["running"] is True
            assert running["daemon"]["pid"] == daemon.pid
            assert MOMENT.fullmatch(running["daemon"]["started_at"])
            await daemon.kill()
        killed = (await site.run("status", "--json")).json
        async with site.daemon() as daemon:
            assert await daemon.stop() == 0
        stopped = (await site.run("status", "--json")).json
    assert killed["daemon"] == stopped["daemon"] == {"running": False, "pid": None, "started_at": None}
    for state in (running, killed, stopped):
        assert state["node"] == {"instance_id": NODE, "region": REGION}
        assert state["counters"] == running["counters"]
        (association,) = state["associations"]
        assert association["state"] == "acknowledged"
        acknowledged = association["acknowledged"]
        assert acknowledged["observed_at"] == "2026-01-02T03:04:05.678Z"
        assert (acknowledged["status"], acknowledged["message"]) == ("Success", "done")
        assert MOMENT.fullmatch(acknowledged["at"])
        assert (association["pending"], association["next_attempt_at"], association["last_error"]) == (
            None,
            None,
            None,
        )


async def test_what_waits_and_why_is_shown_to_programs_and_people(tmp_path: Path) -> None:
    """Pending, parked and dead associations and a hold appear with code, request id and a hint of what to do."""
    plan = {
        "rules": [
            {"document": "Absent", "errors": [{"code": "AssociationDoesNotExist", "times": 0}]},
            {"document": "Wrong", "errors": [{"code": "ValidationException", "times": 0}]},
            {"document": "Denied", "errors": [{"code": "AccessDeniedException", "times": 0}]},
        ]
    }
    slow = {"delivery": {"backoff": {"initial": "1h", "max": "1h"}}}
    async with Emulator(msgspec.convert(plan, FaultPlan)) as emulator:
        site = Site(tmp_path, emulator.url, slow)
        async with site.daemon() as daemon:
            for document in ("Absent", "Wrong", "Denied", "Good"):
                site.drop(document, "Failed", "as it is", observed_at="2026-01-01T00:00:00Z")
            await daemon.state(
                lambda state: (
                    [each["state"] for each in state["associations"]]
                    == ["parked", "pending", "acknowledged", "dead"]
                    and state["holds"]
                ),
                "each in its state",
            )
            ended = await site.run("status", "--json")
            state, readable = ended.json, (await site.run("status")).output
    assert_shape(state)
    assert state["outbox"] == {
        "pending": 1,
        "in_flight": 0,
        "parked": 1,
        "dead": 1,
        "oldest_pending_seconds": state["outbox"]["oldest_pending_seconds"],
    }
    assert state["outbox"]["oldest_pending_seconds"] > 3600
    absent, denied, _good, wrong = state["associations"]
    assert (absent["attempts"], denied["attempts"], wrong["attempts"]) == (1, 0, 0)
    assert absent["pending"]["message"] == "as it is"
    assert MOMENT.fullmatch(absent["next_attempt_at"])
    assert wrong["pending"] is None
    for association in (absent, denied, wrong):
        assert association["last_error"]["request_id"]
        assert association["last_error"]["hint"]
    (hold,) = state["holds"]
    assert (hold["scope"], hold["instance_id"], hold["document"]) == ("permission", NODE, "Denied")
    assert MOMENT.fullmatch(hold["since"])
    assert MOMENT.fullmatch(hold["next_probe_at"])
    for text in ("InstanceId parameter", "ssm:UpdateAssociationStatus", "ValidationException", "running, process"):
        assert text in readable
    assert f"1 failed attempt, next attempt {absent['next_attempt_at']}" in readable


async def test_what_is_due_says_since_when(tmp_path: Path) -> None:
    """What waits for a daemon or for its turn, a report or a hold's probe, has no next time in the past."""
    rules = [
        {"document": document, "errors": [{"code": code, "times": 0}]}
        for document, code in (("Doc", "TooManyUpdates"), ("Denied", "AccessDeniedException"))
    ]
    async with Emulator(msgspec.convert({"rules": rules}, FaultPlan)) as emulator:
        site = Site(tmp_path, emulator.url)
        async with site.daemon() as daemon:
            site.drop("Doc", "Success", "done")
            site.drop("Denied", "Success", "done")
            await daemon.state(lambda state: state["counters"]["retried"] and state["holds"], "both refused")
            await daemon.stop()
        due_at = site.association("Doc")["next_attempt_at"]
        (hold,) = site.state()["holds"]
        latest = max(milliseconds(due_at), milliseconds(hold["next_probe_at"])) / 1000
        await asyncio.sleep(max(0.0, latest - time.time()))  # half a second at most
        readable = (await site.run("status")).output
    assert f", due since {due_at}" in readable
    assert f"\n              probe due since {hold['next_probe_at']}\n" in readable
    assert "next " not in readable


@needs_root
async def test_members_of_the_group_see_it_and_others_are_told_how(open_path: Path) -> None:
    """For a member of the group it works with a running, a killed and a stopped daemon; others get a hint, exit 1."""
    async with Emulator() as emulator:
        site = Site(open_path, emulator.url)
        site.config.chmod(0o644)
        # As the package sets it up: the directory 0750, the files 0640, all of the group.
        os.chown(site.outbox.parent, 0, GROUP)
        site.outbox.parent.chmod(0o2750)
        async with site.daemon() as daemon:
            site.drop("Doc", "Success", "done")
            await daemon.quiet(1)
            member = [await site.run_as(OTHER_USER, GROUP, "status", "--json")]
            stranger = [await site.run_as(OTHER_USER, OTHER_USER, "status", "--json")]
            await daemon.kill()
        member.append(await site.run_as(OTHER_USER, GROUP, "status", "--json"))
        async with site.daemon() as daemon:
            await daemon.stop()
        member.append(await site.run_as(OTHER_USER, GROUP, "status", "--json"))
        member.append(await site.run_as(OTHER_USER, GROUP, "dead-letters", "list", "--json"))
        stranger.append(await site.run_as(OTHER_USER, OTHER_USER, "status", "--json"))
        stranger.append(await site.run_as(OTHER_USER, OTHER_USER, "dead-letters", "list"))
    for ended in member:
        assert (ended.code, ended.errors) == (0, "")
    assert [ended.json["daemon"]["running"] for ended in member[:3]] == [True, False, False]
    assert [ended.json["counters"]["delivered"] for ended in member[:3]] == [1, 1, 1]
    for ended in stranger:
        assert (ended.code, ended.output) == (1, "")
        assert "Traceback" not in ended.errors
        assert "group" in ended.errors


async def test_an_outbox_that_is_none_is_said_and_left_alone(tmp_path: Path) -> None:
    """Status of a file that is no database is exit 1 with its name, and changes nothing."""
    site = Site(tmp_path, "http://127.0.0.1:9")
    site.outbox.write_bytes(b"nonsense" * 1000)
    ended = await site.run("status", "--json")
    assert (ended.code, ended.output) == (1, "")
    assert str(site.outbox) in ended.errors
    assert "Traceback" not in ended.errors
    assert site.outbox.read_bytes() == b"nonsense" * 1000


async def test_its_figures_come_from_one_moment(tmp_path: Path) -> None:
    """However often it is looked at while results pour in, no more have ended than were received."""
    async with Emulator() as emulator:
        site = Site(tmp_path, emulator.url)
        async with site.daemon() as daemon:
            for number in range(300):
                site.drop(f"Doc-{number % 20}", "Success", str(number))
                state = site.state()
                counters = state["counters"]
                gone = sum(counters[name] for name in ("delivered", "already_held", "coalesced", "dead"))
                assert gone <= counters["received"]
            await daemon.quiet()
