"""MQTT end to end: the installed daemon, a real Mosquitto with password, ACL and TLS, the emulator."""

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiomqtt
import msgspec
import pytest

from acceptance_support import (
    NODE,
    SECONDS_MAX,
    Daemon,
    Manager,
    Site,
    assert_balanced,
    calls,
    held,
    waiting,
    with_bounds,
)
from emulator_support import Arrivals
from mosquitto_support import (
    PASSWORD,
    USER,
    Broker,
    Certificates,
    free_port,
    make_certificates,
    mosquitto_binary,
    running_broker,
)
from mqtt_support import (
    OTHER_NODE,
    OUTCOMES,
    REJECTED,
    REPORTER,
    Peer,
    peer,
    read_packet,
    scripted_broker,
)
from results_directory_support import result_bytes
from ssm_status_reporter.emulator.faults import FaultPlan
from ssm_status_reporter.emulator.server import Emulator

MESSAGES = 1000
DOCUMENTS = 50
KILLS = 4
ACL = f"""\
user {USER}
topic readwrite ssm-status/+/results
topic readwrite ssm-status/+/rejected
topic readwrite ssm-status/+/outcomes
topic readwrite ssm-status/+/reporter
"""
CONNECTED = "connected to the broker"
PATIENT = with_bounds(
    {"sources.mqtt_client.MQTT_ANSWER_SECONDS_MAX": 3600.0, "sources.mqtt_dial.MQTT_DIAL_SECONDS_MAX": 3600.0}
)
"""No broker is given up."""
POLITE = with_bounds(
    {"sources.mqtt_session.MQTT_FAREWELL_SECONDS_MAX": SECONDS_MAX, "daemon.CANCEL_AGAIN_SECONDS": 2 * SECONDS_MAX}
)
"""However slow the broker, it is told of the stop."""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    mosquitto_binary()
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def broker(tmp_path: Path, certificates: Certificates) -> Iterator[Broker]:
    with running_broker(tmp_path / "broker", acl=ACL, tls=certificates) as broker:
        yield broker


class Place:
    """Where daemons take results over the broker, and somebody publishes them."""

    def __init__(self, directory: Path, broker: Broker, certificates: Certificates) -> None:
        self.directory = directory
        self.broker = broker
        self._certificates = certificates
        self._password_file = directory / "password"
        self._password_file.write_text(PASSWORD)

    def section(self, **changes: Any) -> dict[str, Any]:
        """`sources.mqtt`."""
        tls = self._certificates
        return {
            "enabled": True,
            "port": self.broker.port,
            "username": USER,
            "password_file": str(self._password_file),
            "tls": {"ca_file": str(tls.ca), "cert_file": str(tls.client), "key_file": str(tls.client_key)},
            **changes,
        }

    def site(self, emulator_url: str, changes: Mapping[str, Any] | None = None, **section: Any) -> Site:
        """The daemon's."""
        name = f"site-{len(list(self.directory.glob('site-*')))}"
        (self.directory / name).mkdir()
        given = {**(changes or {}), "sources": {"mqtt": self.section(**section)}}
        return Site(self.directory / name, emulator_url, given)

    @asynccontextmanager
    async def peer(self, *filters: str) -> AsyncIterator[Peer]:
        """Somebody else at the broker."""
        tls = self._certificates
        parameters = aiomqtt.TLSParameters(str(tls.ca), str(tls.client), str(tls.client_key))
        async with peer(self.broker.port, *filters, tls=parameters) as other:
            yield other


@pytest.fixture
def place(tmp_path: Path, broker: Broker, certificates: Certificates) -> Place:
    return Place(tmp_path, broker, certificates)


def payload(document: str, status: str, message: str, **more: object) -> bytes:
    return result_bytes(message, status, document=document, **more)


def run_of(number: int, **more: object) -> tuple[str, bytes]:
    """The document and the payload of one run among many."""
    document = f"Doc-{number % DOCUMENTS}"
    return document, payload(document, ("Success", "Failed")[number // DOCUMENTS % 2], f"{number}", **more)


def newest(count: int) -> dict[str, str]:
    """The message of each document's last run."""
    return {f"Doc-{number % DOCUMENTS}": f"{number}" for number in range(count)}


def messages_held(emulator: Emulator) -> dict[str, str]:
    shown = {f"Doc-{number}": held(emulator, f"Doc-{number}") for number in range(DOCUMENTS)}
    return {document: report[1] for document, report in shown.items() if report is not None}


async def everything_arrived(daemon: Daemon, emulator: Emulator) -> None:
    """Wait until each association's newest result is held, and nothing is on its way."""
    await daemon.until(lambda: messages_held(emulator) == newest(MESSAGES), "every newest status at the service")
    state = await daemon.state(lambda state: not waiting(state), "nothing waits")
    assert_balanced(state)
    for document in newest(MESSAGES):
        numbers = [int(each.message or 0) for each in calls(emulator, document) if each.applied]
        assert numbers == sorted(numbers), "nothing older over something newer"


@contextmanager
def unwritable(outbox: Path) -> Iterator[None]:
    """Somebody else writes to the outbox, and takes long: nothing can be committed."""
    with closing(sqlite3.connect(outbox, SECONDS_MAX, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


async def test_sigkill_of_the_daemon_among_a_thousand_messages_loses_none(place: Place) -> None:
    """Killed with messages taken and not committed, the daemon gets them again: they were not acknowledged."""
    chance = random.Random(20_261_126)  # noqa: S311 - moments, no secret
    async with Emulator() as emulator, place.peer() as runner:
        site = place.site(emulator.url)
        async with site.daemon() as daemon:  # from here on the broker keeps what it is not there for
            await daemon.line(CONNECTED)

        async def publish(*numbers: int) -> None:
            await asyncio.gather(*(runner.publish(run_of(number)[1]) for number in numbers))

        each = MESSAGES // KILLS
        for end in range(each, MESSAGES + 1, each):
            await publish(*range(end - each, end - DOCUMENTS))
            async with site.daemon(ready=False) as daemon:
                await daemon.line(CONNECTED)
                await asyncio.sleep(chance.random() * 0.1)
                with unwritable(site.outbox):
                    await publish(*range(end - DOCUMENTS, end))
                    await asyncio.sleep(0.1)  # so that they are on their way; if not, less is shown, nothing wrong
                    await daemon.kill()
        async with site.daemon() as daemon:
            await everything_arrived(daemon, emulator)
            assert await daemon.stop() == 0


async def test_sigkill_of_the_broker_among_a_thousand_messages_loses_none(place: Place) -> None:
    """The daemon comes back to a broker that was killed; what that had not saved its publisher sends again."""
    began = datetime.now(UTC) - timedelta(hours=1)

    def run(number: int) -> bytes:
        return run_of(number, observed_at=(began + timedelta(milliseconds=number)).isoformat())[1]

    async with Emulator() as emulator:
        site = place.site(emulator.url)
        async with site.daemon() as daemon:
            await daemon.line(CONNECTED)
            place.broker.save()  # the session
            batch = MESSAGES // (KILLS + 1)
            for start in range(0, MESSAGES, batch):
                runs = [run(number) for number in range(start, min(start + batch, MESSAGES))]
                if start:
                    async with place.peer() as runner:
                        sending = [asyncio.create_task(runner.publish(each)) for each in runs]
                        await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
                        place.broker.kill()
                        for task in sending:
                            task.cancel()
                        await asyncio.gather(*sending, return_exceptions=True)
                    place.broker.start()
                async with place.peer() as runner:
                    await asyncio.gather(*(runner.publish(each) for each in runs))
                place.broker.save()
            await everything_arrived(daemon, emulator)
            assert (
                len(daemon.logged("the connection to the broker is lost: results wait there until it is back")) > 0
            )
            assert await daemon.stop() == 0


@asynccontextmanager
async def silent_broker() -> AsyncIterator[int]:
    """Accepts, listens and says nothing."""

    async def talk(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        while True:
            await read_packet(reader)

    async with scripted_broker(talk) as port:
        yield port


@pytest.mark.parametrize("broker_is", ["down", "silent"])
async def test_a_broker_that_is_not_there_delays_nothing(tmp_path: Path, broker_is: str) -> None:
    """READY comes, a file is delivered and the watchdog fed, whatever the broker does; a stop is clean too."""
    async with AsyncExitStack() as stack:
        manager = await stack.enter_async_context(Manager(tmp_path / "notify"))
        emulator = await stack.enter_async_context(Emulator())
        port = await stack.enter_async_context(silent_broker()) if broker_is == "silent" else free_port()
        site = Site(tmp_path, emulator.url, {"sources": {"mqtt": {"enabled": True, "port": port}}})
        environment = {**manager.environment, "WATCHDOG_USEC": "1000000"}
        # A silent one is never given up here: nobody waits for that.
        prefix = PATIENT if broker_is == "silent" else ()
        async with site.daemon(environment, ready=False, prefix=prefix) as daemon:
            await manager.until(lambda: manager.count("READY"), "READY")
            site.drop("Doc", "Success", "done")
            await daemon.quiet(1)
            fed = manager.count("WATCHDOG")
            await manager.until(lambda: manager.count("WATCHDOG") >= fed + 2, "the watchdog is fed")
            assert held(emulator, "Doc") == ("Success", "done")
            assert await daemon.stop() == 0


async def test_each_outcome_is_published(place: Place) -> None:
    """Whoever published a result reads what became of it: delivered, retried, parked, dead, held back, already held."""
    rules = [
        {"document": "Retried", "errors": [{"code": "TooManyUpdates"}]},
        {"document": "Parked", "errors": [{"code": "AssociationDoesNotExist", "times": 0}]},
        {"document": "Dead", "errors": [{"code": "InvalidDocument", "times": 0}]},
        {"document": "Held", "errors": [{"code": "ExpiredTokenException", "times": 3}]},
        {"document": "Same", "errors": [{"code": "StatusUnchanged"}]},
    ]
    plan = msgspec.convert(
        {"rules": [{"operation": "UpdateAssociationStatus", **rule} for rule in rules]}, FaultPlan
    )
    async with Emulator(plan) as emulator, place.peer(OUTCOMES, REPORTER, REJECTED) as other:
        site = place.site(emulator.url)
        async with site.daemon(prefix=POLITE) as daemon:
            await other.hear_last(REPORTER, lambda said: said["state"] == "online")
            told: list[tuple[str, str]] = []
            heard: list[dict[str, str]] = []
            for document, outcomes in (
                ("Good", ["delivered"]),
                ("Retried", ["retried", "delivered"]),
                ("Parked", ["parked"]),
                ("Dead", ["dead"]),
                ("Same", ["already_held"]),
                ("Held", ["held_back", "delivered"]),
            ):
                await other.publish(payload(document, "Failed", "why"))
                told += [(document, outcome) for outcome in outcomes]
                heard = await other.hear(OUTCOMES, len(told))
                assert [(said["document"], said["outcome"]) for said in heard] == told
            dead = next(said for said in heard if said["outcome"] == "dead")
            assert dead["code"] == "InvalidDocument"
            assert dead["status"] == "Failed"
            assert {"error", "request_id", "hint", "observed_at", "at"} <= dead.keys()
            await other.publish(payload("Good", "Banana", "why"))
            assert (await other.hear(REJECTED))[0]["reason"].startswith("status:")
            assert await daemon.stop() == 0
        assert len(daemon.logged("held back")) == 3, "the probes are not told"
        assert (await other.hear_last(REPORTER, lambda said: said["state"] == "offline"))["reason"] == "stopped"


async def test_the_broker_says_when_the_daemon_is_gone(place: Place) -> None:
    """Killed, the daemon says nothing: its last will does, and stays for whoever asks later."""
    async with Emulator() as emulator, place.peer(REPORTER) as other:
        async with place.site(emulator.url).daemon() as daemon:
            await other.hear_last(REPORTER, lambda said: said["state"] == "online")
            await daemon.kill()
        gone = await other.hear_last(REPORTER, lambda said: said["state"] == "offline")
        assert gone["reason"] == "connection lost"
        async with place.peer(REPORTER) as late:
            assert await late.hear(REPORTER) == [gone]


async def test_the_outcome_of_a_call_that_ends_during_the_stop_is_published(place: Place) -> None:
    """The daemon goes offline after the last call has ended, not before."""
    plan = msgspec.convert({"rules": [{"operation": "UpdateAssociationStatus", "latency": "1s"}]}, FaultPlan)
    arrivals = Arrivals()
    async with Emulator(plan, new_id=arrivals.new_id) as emulator, place.peer(OUTCOMES, REPORTER) as other:
        site = place.site(emulator.url)
        async with site.daemon(prefix=POLITE) as daemon:
            await daemon.line(CONNECTED)
            await other.publish(payload("Doc", "Success", "done"))
            await arrivals.first()
            assert await daemon.stop() == 0
        assert [said["outcome"] for said in await other.hear(OUTCOMES)] == ["delivered"]
        await other.hear_last(REPORTER, lambda said: said["state"] == "offline")


async def test_of_two_gateways_the_one_that_was_cut_off_overwrites_nothing_newer(place: Place) -> None:
    """One holds older reports while the other delivers newer ones; back again, it asks, and the newer ones stand."""
    documents = [f"Doc-{number}" for number in range(20)]
    topic = f"ssm-status/{OTHER_NODE}/results"
    async with AsyncExitStack() as stack:
        emulator = await stack.enter_async_context(Emulator())
        port = free_port()  # the first one's way to the service, which is closed
        quick = {"delivery": {"backoff": {"initial": "20ms", "max": "100ms"}}}
        sites = [
            place.site(url, {"node": {"instance_id": node, "allow": ["mi-*"]}, **quick}, shared_group="gateways")
            for url, node in ((f"http://127.0.0.1:{port}", NODE), (emulator.url, "i-11111111111111111"))
        ]
        runner = await stack.enter_async_context(place.peer())
        cut_off = await stack.enter_async_context(sites[0].daemon())
        await cut_off.line(CONNECTED)
        for document in documents:
            await runner.publish(payload(document, "Failed", "older"), topic)
        await cut_off.state(
            lambda state: state["counters"]["received"] == len(documents), "the older ones are held"
        )
        other = await stack.enter_async_context(sites[1].daemon())
        await other.line(CONNECTED)
        for document in documents:
            await runner.publish(payload(document, "Success", "newer"), topic)
        both = 2 * len(documents)

        def received() -> int:
            return sum(int(site.state()["counters"]["received"]) for site in sites)

        await other.until(lambda: received() == both, "both have taken theirs")
        await other.state(lambda state: not waiting(state), "the one delivers what it has")
        delivered = {each.document for each in calls(emulator) if each.applied}
        assert 0 < len(delivered) < len(documents), "each has a part of the newer ones"

        async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(65536):
                writer.write(data)
            writer.close()

        async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            inner = await asyncio.open_connection("127.0.0.1", int(emulator.url.rsplit(":", 1)[1]))
            await asyncio.gather(pump(reader, inner[1]), pump(inner[0], writer), return_exceptions=True)

        opened = await asyncio.start_server(forward, "127.0.0.1", port)
        stack.callback(opened.close)
        await cut_off.state(lambda state: not waiting(state), "the cut-off one has come to its end")
        reports = {document: emulator.status_of(OTHER_NODE, document) for document in documents}
        assert {report and report.message for report in reports.values()} == {"newer"}
        for each_document in delivered:
            assert [each.message for each in calls(emulator, each_document) if each.applied] == ["newer"]
        for daemon in (cut_off, other):
            assert await daemon.stop() == 0


async def test_the_broker_s_libraries_are_imported_only_where_there_is_one(tmp_path: Path) -> None:
    """A daemon without MQTT does not carry what only MQTT needs."""
    async with Emulator() as emulator:
        site = Site(tmp_path, emulator.url)
        async with site.daemon({"PYTHONPROFILEIMPORTTIME": "1"}) as daemon:
            assert await daemon.stop() == 0
            imported = {line.rsplit("|", 1)[-1].strip() for line in daemon.noise}
            daemon.noise.clear()
    assert "ssm_status_reporter.daemon" in imported
    assert imported.isdisjoint({"aiomqtt", "paho.mqtt.client", "ssm_status_reporter.sources.mqtt"})
