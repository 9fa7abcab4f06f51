"""``doctor``: what an administrator reads before, and when, something does not work."""

import asyncio
import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from acceptance_support import DESCRIBE, NODE, UPDATE, Ended, Site, calls, faults
from results_directory_support import unprivileged
from ssm_status_reporter.emulator.faults import FaultPlan
from ssm_status_reporter.emulator.server import Emulator
from ssm_status_reporter.preflight.machine import disk_finding, outbox_findings
from ssm_support import free_port

Found = Mapping[str, Mapping[str, Any]]


async def findings(site: Site) -> tuple[int | None, Found]:
    """The exit code, and the findings by what they are about."""
    ended = await site.run("doctor", "--json")
    assert ended.errors == ""
    report = ended.json
    assert set(report) == {"ok", "findings"}
    assert report["ok"] is (ended.code == 0)
    for finding in report["findings"]:
        assert set(finding) == {"check", "ok", "detail", "remedy"}
        assert finding["ok"] is (finding["remedy"] is None), "what is amiss has a remedy"
    return ended.code, {finding["check"]: finding for finding in report["findings"]}


def everything_in(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*"))


def amiss(found: Found) -> set[str]:
    return {check for check, finding in found.items() if not finding["ok"]}


async def test_a_healthy_machine_is_all_well_and_nothing_is_changed(tmp_path: Path) -> None:
    """Exit 0, each thing with what was found, one question to the service and no update; no file made."""
    async with Emulator() as emulator:
        site = Site(tmp_path, emulator.url)
        before = everything_in(tmp_path)
        code, found = await findings(site)
        assert code == 0
        assert everything_in(tmp_path) == before
        assert len(calls(emulator, operation=DESCRIBE)) == 1
        assert calls(emulator, operation=UPDATE) == []
    assert list(found) == [
        *("identity", "credentials", "endpoint", "clock", "permission"),
        *("results directory", "ssm agent", "outbox", "disk"),
    ]
    assert NODE in found["identity"]["detail"]
    assert emulator.url in found["endpoint"]["detail"]
    assert "shared-credentials-file" in found["credentials"]["detail"]


async def test_a_person_reads_one_line_a_finding_with_its_remedy_below(tmp_path: Path) -> None:
    """Without --json: `ok` or `amiss`, what it is about, what was found; exit 1 when something is amiss."""
    async with Emulator() as emulator:
        site = Site(tmp_path, emulator.url)
        site.spool.rmdir()
        ended: Ended = await site.run("doctor")
    assert (ended.code, ended.errors) == (1, "")
    lines = ended.output.splitlines()
    assert any(line.startswith("ok     identity") for line in lines)
    (number,) = [number for number, line in enumerate(lines) if line.startswith("amiss")]
    assert "results directory" in lines[number]
    assert str(site.spool) in lines[number]
    assert "systemd-tmpfiles" in lines[number + 1]


@pytest.mark.parametrize(
    ("fault", "wrong", "words"),
    [
        ({"code": "ExpiredTokenException"}, {"credentials", "permission"}, "credentials"),
        ({"code": "AccessDeniedException"}, {"permission"}, "ssm:DescribeAssociation"),
        ({"code": "InvalidInstanceId"}, {"node"}, "not registered"),
        ({"code": "InternalServerError"}, {"endpoint", "permission"}, "InternalServerError"),
        ({"kind": "hang"}, {"endpoint", "clock", "permission"}, "Timeout"),
        ({"kind": "reset"}, {"endpoint", "clock", "permission"}, "network"),
    ],
)
async def test_each_trouble_with_the_service_is_told_apart(
    tmp_path: Path, fault: Mapping[str, Any], wrong: set[str], words: str
) -> None:
    """What an answer proves is well, what it refuses is amiss with its remedy, what it leaves open is not known."""
    async with Emulator(faults({**fault, "times": 0}, operation=DESCRIBE)) as emulator:
        timeout = "10s" if fault.get("kind") == "hang" else "1m"  # a stall is no answer that does not come
        code, found = await findings(Site(tmp_path, emulator.url, {"delivery": {"timeout": timeout}}))
    assert code == 1
    assert amiss(found) == wrong
    assert words in json.dumps([found[check] for check in wrong])


async def test_a_clock_that_is_off_is_amiss(tmp_path: Path) -> None:
    """The service's Date is ten minutes ahead: said in seconds and with the direction."""
    plan = FaultPlan(clock_skew="10m")
    async with Emulator(plan) as emulator:
        code, found = await findings(Site(tmp_path, emulator.url))
    assert code == 1
    assert "clock" in amiss(found)
    assert "s behind" in found["clock"]["detail"]
    assert "chrony" in found["clock"]["remedy"]


async def test_nobody_at_the_endpoint(tmp_path: Path) -> None:
    """No connection: the endpoint is amiss, clock and permission are not known, the machine's own is judged."""
    code, found = await findings(Site(tmp_path, f"http://127.0.0.1:{free_port()}"))
    assert code == 1
    assert amiss(found) == {"endpoint", "clock", "permission"}
    assert found["outbox"]["ok"]


async def test_no_credentials_are_one_finding_and_hide_no_other(tmp_path: Path) -> None:
    """Without keys nothing is asked, and that is said of what is therefore not known."""
    async with Emulator() as emulator:
        site = Site(tmp_path, emulator.url)
        site.credentials.unlink()
        code, found = await findings(site)
        assert list(emulator.ledger) == []
    assert code == 1
    assert amiss(found) == {"credentials", "endpoint", "clock", "permission"}
    assert "AWS_SHARED_CREDENTIALS_FILE" in found["credentials"]["remedy"]


async def test_settings_that_the_sdk_cannot_use_are_the_endpoints_finding(tmp_path: Path) -> None:
    """Where the SDK makes no call, nobody answered and nothing is known to be allowed: what it says is told."""
    async with Emulator() as emulator:
        site = Site(tmp_path, emulator.url, environment={"AWS_DEFAULTS_MODE": "bogus"})
        code, found = await findings(site)
        assert list(emulator.ledger) == []
    assert code == 1
    assert amiss(found) == {"endpoint", "clock", "permission"}
    assert "bogus" in found["endpoint"]["detail"]
    assert "AWS_" in found["endpoint"]["remedy"]


async def test_without_an_identity_the_rest_is_looked_at(tmp_path: Path) -> None:
    """Nobody tells who this node is: what to set is said, and the directories are judged all the same."""
    site = Site(tmp_path, "http://127.0.0.1:9", {"node": {"instance_id": "auto", "region": "auto"}})
    code, found = await findings(site)
    assert code == 1
    assert amiss(found) == {"identity"}
    assert "node.instance_id" in found["identity"]["detail"]
    assert found["results directory"]["ok"]


@pytest.mark.parametrize(("mode", "remedy"), [(0o1770, "chmod -t"), (0o777, "chmod o-w")])
async def test_a_results_directory_with_the_wrong_mode(tmp_path: Path, mode: int, remedy: str) -> None:
    """A sticky bit and a world that may write are amiss, each with the command that mends it."""
    async with Emulator() as emulator:
        site = Site(tmp_path, emulator.url)
        site.spool.chmod(mode)
        _, found = await findings(site)
    assert amiss(found) == {"results directory"}
    assert found["results directory"]["remedy"] == f"{remedy} {site.spool}"


async def test_a_broker_is_tried_as_far_as_nobody_is_disturbed(tmp_path: Path) -> None:
    """Whether it can be connected to: no login, which would end the daemon's own session; nobody there is amiss."""
    said = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(1):
            said.set()
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with Emulator() as emulator, server:
        mqtt = {"enabled": True, "host": "127.0.0.1", "port": port}
        site = Site(tmp_path, emulator.url, {"sources": {"mqtt": mqtt}})
        code, found = await findings(site)
        assert code == 0
        assert f"127.0.0.1:{port}" in found["broker"]["detail"]
        assert not said.is_set()
        site.configure({"sources": {"mqtt": {"port": free_port()}}})
        code, found = await findings(site)
    assert code == 1
    assert amiss(found) == {"broker"}
    assert "sources.mqtt" in found["broker"]["remedy"]


async def test_what_the_daemon_met_is_told(tmp_path: Path) -> None:
    """Beside a running daemon: its process, a hold that stands, dead letters; none of it disturbs it."""
    plan = faults({"code": "InvalidInstanceId", "times": 0}, document="Held")
    refused = faults({"code": "InvalidDocument", "times": 0}, document="Dead")
    both = FaultPlan(rules=(*plan.rules, *refused.rules))
    async with Emulator(both) as emulator:
        site = Site(tmp_path, emulator.url)
        async with site.daemon() as daemon:
            site.drop("Dead", "Success", "done")
            await daemon.state(lambda state: state["outbox"]["dead"] == 1, "dead")
            site.drop("Held", "Success", "done")
            await daemon.state(lambda state: state["holds"], "held")
            code, found = await findings(site)
            assert code == 1
            assert amiss(found) == {"holds", "dead letters"}
            assert f"process {daemon.pid}" in found["outbox"]["detail"]
            assert "node hold" in found["holds"]["detail"]
            assert await daemon.stop() == 0


async def test_a_damaged_outbox_is_amiss(tmp_path: Path) -> None:
    """Pages that are no pages: said, with what the daemon will do about it, and left as they are."""
    async with Emulator() as emulator:
        site = Site(tmp_path, emulator.url)
        async with site.daemon() as daemon:
            for number in range(50):
                site.drop(f"Doc-{number}", "Success", "done")
            await daemon.quiet(50)
            await daemon.stop()
        content = bytearray(site.outbox.read_bytes())
        content[8192:] = b"\xff" * (len(content) - 8192)
        site.outbox.write_bytes(content)
        code, found = await findings(site)
    assert code == 1
    assert amiss(found) == {"outbox"}
    assert site.outbox.read_bytes() == bytes(content)


async def test_an_outbox_of_a_later_version_is_amiss(tmp_path: Path) -> None:
    """After a downgrade nobody reads what the later version meant: doctor, status and dead-letters say what to do."""
    async with Emulator() as emulator:
        site = Site(tmp_path, emulator.url)
        async with site.daemon():
            pass
        with closing(sqlite3.connect(site.outbox)) as later:
            later.execute("PRAGMA user_version=4711")
        _, found = await findings(site)
        assert amiss(found) == {"outbox"}
        assert "later version" in found["outbox"]["detail"]
        assert "install that version again" in found["outbox"]["remedy"]
        for command in (("status",), ("dead-letters", "list")):
            ended = await site.run(*command)
            assert (ended.code, "install that version again" in ended.errors) == (1, True)


def test_an_outbox_that_only_others_may_see_is_amiss() -> None:
    """Whoever is neither root nor of the group gets the finding and its remedy, not a traceback."""
    with unprivileged() as directory:
        state = directory / "state"
        state.mkdir()
        (state / "outbox.db").touch()
        state.chmod(0)
        (finding,) = outbox_findings(state / "outbox.db")
        assert disk_finding(state / "new" / "outbox.db").ok
        state.chmod(0o700)
    assert not finding.ok
    assert finding.remedy is not None
    assert "group ssm-status-reporter" in finding.remedy


async def test_a_bad_configuration_is_78(tmp_path: Path) -> None:
    """As with every command: each error with its key."""
    site = Site(tmp_path, "http://127.0.0.1:9")
    site.configure({"delivery": {"speed": 1}})
    ended = await site.run("doctor")
    assert ended.code == 78
    assert "delivery.speed" in ended.errors
