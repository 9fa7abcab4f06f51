"""Who the daemon is and which keys it has, as a process: an EC2 instance, a container, a hybrid node's rotating file.

Where a change of the keys must be seen at once, the pauses between probes are an hour: only the watch explains what is
delivered then.
"""

import asyncio
import os
import tempfile
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from aiohttp import web

from acceptance_support import NODE, UPDATE, Manager, Site, assert_balanced, calls, held, with_bounds
from agent_support import RUNNING, ReplayedAgent, recording
from metadata_support import INSTANCE, INSTANCE_REGION, Metadata, Token, keys
from results_directory_support import until
from ssm_status_reporter.emulator.faults import FaultPlan
from ssm_status_reporter.emulator.server import Emulator
from ssm_support import SECRET, write_keys

UNAVAILABLE: Final = 69
HOLD: Final = "hold: reports wait unharmed until a probe succeeds"
TRIED: Final = "shared credentials changed: they are tried at once"
FOUND_OUT: Final = {"node": {"instance_id": "auto", "region": "auto"}}
AN_HOUR: Final = {"delivery": {"backoff": {"initial": "1h", "max": "1h"}}}
"""Pauses between probes that no test waits out."""
RESUMED_MAX: Final = timedelta(minutes=1)
"""Some 20 ms on a machine that does nothing else; without the watch it would be half an hour."""
RESULTS: Final = 300
LOAD_SECONDS_MAX: Final = 240.0
SHORT_LIVED: Final = timedelta(seconds=3)
IDLE_SECONDS: Final = 12.0
"""For so long nothing happens."""
IDLE_LOOKS_MAX: Final = 5
"""What wakes an idle daemon wakes it each time that is looked; what else goes on on the machine does not."""
NEVER_GIVEN_UP: Final = with_bounds({"host.instance_metadata.METADATA_TIMEOUT_MS": 3_600_000})


def wake_ups(pid: int) -> int:
    """How often the process has gone to sleep by itself, all threads together."""
    statuses = [(task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(
        int(line.split()[1]) for text in statuses for line in text.splitlines() if line.startswith("voluntary_")
    )


def accepting(*access_keys: str, expired: tuple[str, ...] = ()) -> FaultPlan:
    """A service that takes these keys; expired ones are refused as such."""
    plan = {"credentials": {"accept": [*access_keys, *expired], "expired": expired}}
    return msgspec.convert(plan, FaultPlan)


def without_shared_file(root: Path, url: str, environment: Mapping[str, str], **changes: Any) -> Site:
    """A machine whose keys come from elsewhere."""
    site = Site(root, url, changes, dict(environment))
    site.credentials.unlink()
    return site


async def applied(emulator: Emulator, enough: int) -> None:
    """Wait until so many calls have been carried out."""
    await emulator.wait_for(lambda ledger: sum(each.applied for each in ledger) >= enough, LOAD_SECONDS_MAX)


def moment(line: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(line["timestamp"])


# An EC2 instance.


async def test_an_instance_needs_no_configuration(tmp_path: Path) -> None:
    """Identity and role keys come from the metadata service, and the log says who told."""
    async with Emulator() as emulator, Metadata() as metadata:
        metadata.role_keys = lambda: keys("ASIAROLE")
        site = without_shared_file(tmp_path, emulator.url, metadata.environment, **FOUND_OUT)
        async with site.daemon() as daemon:
            site.drop("Doc", "Success", "done")
            state = await daemon.quiet(1)
            started = await daemon.line("started")
        assert state["node"] == {"instance_id": INSTANCE, "region": INSTANCE_REGION}
        assert (started["instance_id_from"], started["region_from"]) == ("instance metadata service",) * 2
        assert [(call.instance_id, call.access_key_id) for call in calls(emulator)] == [(INSTANCE, "ASIAROLE")]


async def test_role_keys_that_expire_under_load_lose_nothing(tmp_path: Path) -> None:
    """The role's keys change while results pour in, and the service refuses the old ones: each arrives."""
    generation = 0

    def role_keys() -> dict[str, str]:
        return keys(f"ASIAROLE{generation}", SHORT_LIVED)

    async with Emulator(accepting("ASIAROLE0")) as emulator, Metadata() as metadata:
        metadata.role_keys = role_keys
        site = without_shared_file(tmp_path, emulator.url, metadata.environment)
        async with site.daemon() as daemon:
            for number in range(RESULTS):
                if number % 100 == 99:
                    await applied(emulator, number // 2)
                    old, generation = f"ASIAROLE{generation}", generation + 1
                    emulator.faults = accepting(f"ASIAROLE{generation}", expired=(old,))
                site.drop(f"Doc-{number}", "Success", f"{number}")
            await applied(emulator, RESULTS)
            state = await daemon.quiet(RESULTS)
        assert {call.access_key_id for call in calls(emulator) if call.applied} == {
            f"ASIAROLE{number}" for number in range(generation + 1)
        }
        assert all(held(emulator, document) == given for document, given in site.written.items())
        assert_balanced(state)


@pytest.mark.parametrize(
    ("token", "told"),
    [
        (Token.CLOSED, "HttpPutResponseHopLimit"),
        (Token.DISABLED, "it is disabled on this instance"),
        (Token.UNKNOWN, "not IMDSv2"),
    ],
)
async def test_an_instance_that_is_told_nothing_ends_with_69_and_what_to_do(
    tmp_path: Path, token: Token, told: str
) -> None:
    """No identity: one message that names what was met and what to configure; the other commands ask nobody."""
    async with Metadata(token) as metadata:
        site = Site(tmp_path, "http://127.0.0.1:9", FOUND_OUT, metadata.environment)
        ended = await site.run("run")
        assert ended.code == UNAVAILABLE
        assert told in ended.errors
        assert "set node.instance_id and node.region in the configuration" in ended.errors
        assert "Traceback" not in ended.errors
        asked = len(metadata.asked)
        assert (await site.run("check")).code == 0
        assert (await site.run("submit", "--document", "Doc", "--status", "Success")).code == 0
        assert (await site.run("status")).code in {0, 1}
        assert len(metadata.asked) == asked


async def test_a_start_that_waits_for_the_metadata_service_can_be_stopped(tmp_path: Path) -> None:
    """SIGTERM while nobody answers who this is: exit 0 without waiting out the attempts."""
    async with Metadata(Token.NEVER_ANSWERED) as metadata:
        site = Site(tmp_path, "http://127.0.0.1:9", FOUND_OUT, metadata.environment)
        async with site.daemon(ready=False, prefix=NEVER_GIVEN_UP) as daemon:
            await until(lambda: bool(metadata.asked))
            assert await daemon.stop() == 0
        assert daemon.logged("stopped before it was ready")
        assert not daemon.logged("started")


# A container.


async def test_container_credentials_are_used(tmp_path: Path) -> None:
    """AWS_CONTAINER_CREDENTIALS_FULL_URI with a token, as EKS Pod Identity and Greengrass give it."""
    authorizations: list[str | None] = []

    async def serve(request: web.BaseRequest) -> web.StreamResponse:
        authorizations.append(request.headers.get("Authorization"))
        return web.json_response(keys("ASIACONTAINER"))

    http = web.Server(serve, access_log=None)
    listener = await asyncio.get_running_loop().create_server(http, "127.0.0.1", 0)
    environment = {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/keys",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN": "let-me-in",
    }
    try:
        async with Emulator(accepting("ASIACONTAINER")) as emulator:
            site = without_shared_file(tmp_path, emulator.url, environment)
            async with site.daemon() as daemon:
                site.drop("Doc", "Success", "done")
                await daemon.quiet(1)
    finally:
        listener.close()
        await http.shutdown(0.01)
    assert authorizations == ["let-me-in"]


# The shared file.


def rotate(site: Site, way: str, access_key: str, profile: str = "default") -> None:
    """Put another key into the shared file."""
    match way:
        case "in place":  # as the SSM Agent does
            write_keys(site.credentials, access_key, profile=profile)
        case "renamed over":
            draft = site.root / "draft"
            write_keys(draft, access_key, profile=profile)
            draft.rename(site.credentials)
        case "torn first":
            with site.credentials.open("w") as file:
                os.fsync(file.fileno())
            site.credentials.write_text(f"[{profile}]\naws_access_key_id = {access_key}\n")
            site.credentials.write_text(
                f"[{profile}]\naws_access_key_id = {access_key}\naws_secret_access_key = x\n"
            )
            write_keys(site.credentials, access_key, profile=profile)
        case "its directory moved in":
            aside = site.root / "aside"
            site.credentials.parent.rename(aside)
            write_keys(aside / site.credentials.name, access_key, profile=profile)
            aside.rename(site.credentials.parent)
        case _:
            raise AssertionError(way)


def keep_apart(site: Site) -> None:
    """The shared file in a directory of its own, which is the only way to it."""
    site.credentials.unlink()
    site.credentials = site.root / "home" / ".aws" / "credentials"
    site.credentials.parent.mkdir(parents=True)
    site.environment["AWS_SHARED_CREDENTIALS_FILE"] = str(site.credentials)


@pytest.mark.parametrize("way", ["in place", "renamed over", "torn first", "its directory moved in"])
async def test_keys_that_are_rotated_end_the_hold_at_once(tmp_path: Path, way: str) -> None:
    """The service has refused the old keys; the new file ends the hold, whatever way it came."""
    async with Emulator(accepting("ASIANEW", expired=("ASIAOLD",))) as emulator:
        site = Site(tmp_path, emulator.url, AN_HOUR)
        keep_apart(site)
        write_keys(site.credentials, "ASIAOLD")
        async with site.daemon() as daemon:
            site.drop("Doc", "Success", "done")
            await daemon.line(HOLD, scope="credentials", code="ExpiredTokenException")
            rotate(site, way, "ASIANEW")
            state = await daemon.quiet(1)
            noticed, delivered = await daemon.line(TRIED), await daemon.line("delivered")
        assert state["holds"] == []
        assert {call.access_key_id for call in calls(emulator) if call.applied} == {"ASIANEW"}
        assert moment(delivered) - moment(noticed) < RESUMED_MAX


async def test_a_file_rotated_under_load_loses_nothing(tmp_path: Path) -> None:
    """The agent renews the keys again and again while results pour in, torn at times: each result arrives."""
    async with Emulator(accepting("ASIA0")) as emulator:
        site = Site(tmp_path, emulator.url, AN_HOUR)
        write_keys(site.credentials, "ASIA0")
        generation = 0
        async with site.daemon() as daemon:
            for number in range(RESULTS):
                if number % 80 == 79:
                    await applied(emulator, number // 2)
                    old, generation = f"ASIA{generation}", generation + 1
                    emulator.faults = accepting(f"ASIA{generation}", expired=(old,))
                    ways = ("in place", "torn first", "renamed over")
                    rotate(site, ways[generation % len(ways)], f"ASIA{generation}")
                site.drop(f"Doc-{number}", "Success", f"{number}")
            await applied(emulator, RESULTS)
            state = await daemon.quiet(RESULTS)
        assert generation == RESULTS // 80
        assert {call.access_key_id for call in calls(emulator) if call.applied} == {
            f"ASIA{number}" for number in range(generation + 1)
        }
        assert all(held(emulator, document) == given for document, given in site.written.items())
        assert_balanced(state)


async def test_keys_that_change_during_a_call_are_tried_after_it(tmp_path: Path) -> None:
    """The call that fails of the old keys was under way when the new ones came: they are not left lying."""
    arrived = asyncio.Event()

    def new_id() -> str:
        arrived.set()
        return "request"

    slow_refusal = {
        "rules": [{"operation": UPDATE, "latency": "1s", "errors": ["ExpiredTokenException"]}],
    }
    async with Emulator(msgspec.convert(slow_refusal, FaultPlan), new_id=new_id) as emulator:
        changes = {"delivery": {"timeout": "1m", **AN_HOUR["delivery"]}}
        site = Site(tmp_path, emulator.url, changes)
        async with site.daemon() as daemon:
            site.drop("Doc", "Success", "done")
            await arrived.wait()
            write_keys(site.credentials, "AKIANEW")
            await daemon.line(TRIED)
            await daemon.quiet(1)
            await daemon.line(HOLD, scope="credentials")
        assert [call.access_key_id for call in calls(emulator)] == ["AKIAGOOD", "AKIANEW"]


async def test_keys_that_appear_after_the_start_are_used(tmp_path: Path) -> None:
    """Neither file nor directory is there: the daemon is ready and holds, and delivers when they come."""
    async with Emulator(accepting("ASIALATE")) as emulator:
        site = Site(tmp_path, emulator.url, AN_HOUR)
        keep_apart(site)
        site.credentials.parent.rmdir()
        site.credentials.parent.parent.rmdir()
        async with site.daemon() as daemon:
            site.drop("Doc", "Success", "done")
            await daemon.line(HOLD, scope="credentials")
            site.credentials.parent.mkdir(parents=True)
            write_keys(site.credentials, "ASIALATE")
            await daemon.quiet(1)


async def test_a_profile_is_taken_from_the_file_or_the_configuration_file(tmp_path: Path) -> None:
    """aws.profile: a profile that appears in either file ends the hold."""
    async with Emulator(accepting("ASIALATE", "ASIACONFIG")) as emulator:
        for name in ("credentials", "config"):
            root = tmp_path / name
            root.mkdir()
            site = Site(root, emulator.url, AN_HOUR | {"aws": {"profile": "ssm"}})
            site.environment["AWS_CONFIG_FILE"] = str(root / "aws-config")
            async with site.daemon() as daemon:
                site.drop(f"Doc-{name}", "Success", "done")
                await daemon.line(HOLD, scope="credentials", code="ProfileNotFound")
                if name == "credentials":
                    write_keys(site.credentials, "ASIALATE", profile="ssm")
                else:
                    write_keys(root / "aws-config", "ASIACONFIG", profile="profile ssm")
                await daemon.quiet(1)
        assert [call.access_key_id for call in calls(emulator)] == ["ASIALATE", "ASIACONFIG"]


async def test_a_file_behind_a_link_is_watched_where_it_is(tmp_path: Path) -> None:
    """The shared file is a link, as secrets are mounted in containers: what it leads to is watched too."""
    async with Emulator(accepting("ASIANEW", expired=("ASIAOLD",))) as emulator:
        site = Site(tmp_path, emulator.url, AN_HOUR)
        keep_apart(site)
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        write_keys(elsewhere / "keys", "ASIAOLD")
        site.credentials.symlink_to(elsewhere / "keys")
        async with site.daemon() as daemon:
            site.drop("Doc", "Success", "done")
            await daemon.line(HOLD, scope="credentials")
            write_keys(elsewhere / "keys", "ASIANEW")
            await daemon.quiet(1)


async def test_other_keys_are_tried_for_a_missing_permission_too(tmp_path: Path) -> None:
    """The new keys may be another identity's: what was denied to the old ones is tried at once."""
    denied = {"rules": [{"operation": UPDATE, "errors": ["AccessDeniedException"]}]}
    async with Emulator(msgspec.convert(denied, FaultPlan)) as emulator:
        site = Site(tmp_path, emulator.url, AN_HOUR)
        async with site.daemon() as daemon:
            site.drop("Doc", "Success", "done")
            await daemon.line(HOLD, scope="permission")
            write_keys(site.credentials, "AKIAANOTHER")
            await daemon.quiet(1)
        assert [call.access_key_id for call in calls(emulator)] == ["AKIAGOOD", "AKIAANOTHER"]


async def test_no_line_of_the_log_holds_a_key(tmp_path: Path) -> None:
    """What the watch says is which file changed."""
    async with Emulator() as emulator:
        site = Site(tmp_path, emulator.url)
        async with site.daemon() as daemon:
            rotate(site, "torn first", "ASIASECRET")
            await daemon.line(TRIED)
            site.drop("Doc", "Success", "done")
            await daemon.quiet(1)
        for word in ("ASIASECRET", "AKIAGOOD", SECRET):
            assert word not in str(daemon.lines)


# What idleness costs.


@pytest.fixture
def quiet_path() -> Iterator[Path]:
    """Not below /tmp: whatever others do there, on the way to what is watched, wakes the daemon."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as path:
        yield Path(path)


@pytest.mark.parametrize("agent_is", ["absent", "in the middle of a run"])
async def test_nobody_is_woken_while_nothing_happens(quiet_path: Path, agent_is: str) -> None:
    """With directory, agent, keys and a service manager to watch, it wakes less than once in two seconds."""
    async with Emulator() as emulator, Manager(quiet_path / "notify") as manager:
        agent_path = quiet_path / "ssm"
        watched = {"sources": {"ssm_agent": {"enabled": "auto", "path": str(agent_path)}}}
        site = Site(quiet_path, emulator.url, watched)
        if agent_is != "absent":
            agent = ReplayedAgent(agent_path / NODE / "document" / "state")
            agent.start()
            agent.run("Fail-Doc.2026-11-22T13-23-57.000Z", recording(RUNNING))
        async with site.daemon(manager.environment | {"WATCHDOG_USEC": "60000000"}) as daemon:
            site.drop("Doc", "Success", "done")
            await daemon.quiet(1)
            await manager.until(
                lambda: any("last delivered" in told.get("STATUS", "") for told in manager.told), "the status line"
            )
            woken: list[int] = []
            while not woken or (min(woken) >= IDLE_SECONDS / 2 and len(woken) < IDLE_LOOKS_MAX):
                before = wake_ups(daemon.pid)
                await asyncio.sleep(IDLE_SECONDS)
                woken.append(wake_ups(daemon.pid) - before)
            assert min(woken) < IDLE_SECONDS / 2, woken
