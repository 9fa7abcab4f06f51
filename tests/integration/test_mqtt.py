"""The MQTT source with a real Mosquitto: password, ACL, TLS, sessions."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import aiomqtt
import pytest
from structlog.testing import capture_logs

from mosquitto_support import Broker, make_certificates, mosquitto_binary, running_broker
from mqtt_support import (
    NODE,
    OTHER_NODE,
    OUTCOMES,
    REJECTED,
    REPORTER,
    RESULTS,
    Peer,
    Setup,
    old_broker,
    peer,
    protocol_level,
    read_packet,
    running,
    scripted_broker,
)
from results_directory_support import WAIT_SECONDS_MAX, RecordingIntake, result_bytes, until
from ssm_status_reporter.config import Tls
from ssm_status_reporter.domain.announcement import Announcement, Ending
from ssm_status_reporter.domain.association import Association
from ssm_status_reporter.domain.limits import MQTT_IN_FLIGHT_MAX, MQTT_PAYLOAD_BYTES_MAX, MQTT_POSTINGS_MAX
from ssm_status_reporter.domain.report import Report
from ssm_status_reporter.domain.result import Edge, Writer
from ssm_status_reporter.sources.mqtt import Mqtt

AN_HOUR_MS = 3_600_000
FAREWELL_SECONDS_MAX = "ssm_status_reporter.sources.mqtt_session.MQTT_FAREWELL_SECONDS_MAX"


@pytest.fixture(scope="session", autouse=True)
def _mosquitto() -> None:
    """Every test here needs the broker."""
    mosquitto_binary()


@pytest.fixture(autouse=True)
def _unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the broker or this process, it is not given up, nothing is cut short, and no silence tells."""
    modules = "ssm_status_reporter.sources"
    monkeypatch.setattr(f"{modules}.mqtt.MQTT_PATIENCE_MS", AN_HOUR_MS)
    monkeypatch.setattr(f"{modules}.mqtt_dial.MQTT_DIAL_SECONDS_MAX", WAIT_SECONDS_MAX)
    monkeypatch.setattr(f"{modules}.mqtt_client.MQTT_ANSWER_SECONDS_MAX", WAIT_SECONDS_MAX)
    monkeypatch.setattr(FAREWELL_SECONDS_MAX, WAIT_SECONDS_MAX)
    monkeypatch.setattr(f"{modules}.mqtt_topics.MQTT_BACKLOG_QUIET_MS", AN_HOUR_MS)
    monkeypatch.setattr(f"{modules}.mqtt_topics.MQTT_BACKLOG_MS_MAX", AN_HOUR_MS)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with running_broker(tmp_path / "broker") as broker:
        yield broker


@pytest.fixture
def setup(broker: Broker, tmp_path: Path) -> Setup:
    return Setup(broker.port, tmp_path)


@pytest.fixture
def intake() -> RecordingIntake:
    return RecordingIntake()


@pytest.fixture
async def other(broker: Broker) -> AsyncIterator[Peer]:
    """Somebody who publishes, and hears everything that the daemon says."""
    async with peer(
        broker.port, "ssm-status/+/rejected", "ssm-status/+/outcomes", "ssm-status/+/reporter"
    ) as other:
        yield other


@contextmanager
def abruptly(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What ends meanwhile does not wait long for a commit that never comes."""
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(FAREWELL_SECONDS_MAX, 0.05)
        yield


def announced(number: int) -> Announcement:
    report = Report("Success", f"{number}", None, 1_790_000_000_000)
    return Announcement(Association(NODE, f"Doc-{number}"), report, Ending.DELIVERED, 1_790_000_001_000)


# Results.


async def test_a_published_result_is_handed_in(setup: Setup, intake: RecordingIntake, other: Peer) -> None:
    """A runner publishes a result: it arrives, for this node, dated by its arrival, and goes out at once."""
    async with running(setup.source(), intake):
        before_ms = setup.clock.now().wall_ms
        await other.publish(result_bytes("done"))
        await intake.until(lambda: len(intake.results) == 1)
        (result,) = intake.results
        assert result.association == Association(NODE, "My-Doc")
        assert (result.report.status, result.report.message) == ("Success", "done")
        assert before_ms <= result.report.observed_at_ms <= setup.clock.now().wall_ms
        assert (result.source, result.writer, result.edge) == ("mqtt", Writer.SOLE, Edge.LEADING)


@pytest.mark.parametrize("level", [4, 5])
async def test_a_message_is_acknowledged_only_after_the_commit(
    broker: Broker,
    setup: Setup,
    intake: RecordingIntake,
    other: Peer,
    monkeypatch: pytest.MonkeyPatch,
    level: int,
) -> None:
    """What was not committed when the daemon ended comes again; what was committed does not."""
    intake.commits.clear()
    async with old_broker(broker) as (old_port, _):
        if level == 4:
            setup.port = old_port
        with abruptly(monkeypatch):
            async with running(setup.source(), intake):
                await other.publish(result_bytes("first"))
                await intake.until(lambda: len(intake.offered) == 1)
        await other.publish(result_bytes("while away"))
        second = RecordingIntake()
        async with running(setup.source(), second):
            await second.until(lambda: len(second.results) == 2)
            assert second.messages() == ["first", "while away"]
            assert [result.edge for result in second.results] == [Edge.TRAILING, Edge.TRAILING]
        third = RecordingIntake()
        async with running(setup.source(), third):
            await other.publish(result_bytes("third"))
            await third.until(lambda: len(third.results) == 1)
            assert third.messages() == ["third"]


async def test_a_commit_that_is_under_way_at_the_stop_is_acknowledged(
    setup: Setup, intake: RecordingIntake, other: Peer
) -> None:
    """What is committed while the daemon stops does not come again at its next start."""
    intake.commits.clear()
    async with running(setup.source(), intake) as task:
        await other.publish(result_bytes("first"))
        await intake.until(lambda: len(intake.offered) == 1)
        task.cancel()
        elsewhere = f"ssm-status/{OTHER_NODE}/reporter"
        for turn in range(5):  # it has had time to leave without waiting for the commit
            await other.publish(b"{}", elsewhere)
            await other.hear(elsewhere, turn + 1)
        intake.commits.set()
    again = RecordingIntake()
    async with running(setup.source(), again):
        await other.publish(result_bytes("second"))
        await again.until(lambda: again.messages() == ["second"])


async def test_what_arrives_after_the_stop_was_asked_for_is_left_to_the_broker(
    setup: Setup, intake: RecordingIntake, other: Peer
) -> None:
    """While the last calls end, outcomes are still told, and nothing new is taken."""
    source = setup.source()
    async with running(source, intake):
        source.take_nothing_new()
        await other.publish(result_bytes("late"))
        source.announce(announced(1))
        await other.hear(OUTCOMES)
    assert intake.offered == []
    again = RecordingIntake()
    async with running(setup.source(), again):
        await again.until(lambda: again.messages() == ["late"])


async def test_publications_that_end_the_connection_are_dropped(intake: RecordingIntake, tmp_path: Path) -> None:
    """A broker that ends the connection for a forbidden topic does not keep the daemon from results for ever."""
    levels: list[int] = []
    told: list[bytes] = []
    more = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        levels.append(protocol_level((await read_packet(reader))[1]))
        writer.write(b"\x20\x03\0\0\0")
        while True:
            first, rest = await read_packet(reader)
            match first >> 4:
                case 8:
                    writer.write(b"\x90\x04" + rest[:2] + b"\0\x01")
                case 3 if b"/outcomes" in rest:
                    told.append(rest)
                    return
                case 3:
                    size = int.from_bytes(rest[:2])
                    writer.write(b"\x40\x02" + rest[2 + size : 4 + size])
            if len(levels) == 3:
                more.set()

    async with scripted_broker(talk) as port:
        source = Setup(port, tmp_path).source()
        source.announce(announced(1))
        with capture_logs() as logs:
            async with running(source, intake):
                await asyncio.wait_for(more.wait(), WAIT_SECONDS_MAX)
                await until(lambda: len([each for each in logs if "connected to" in each["event"]]) == 3)
    assert len(told) == 2
    (said,) = [entry for entry in logs if "dropped" in entry["event"]]
    assert said["topics"] == [OUTCOMES]


async def test_a_broker_that_was_given_up_is_told_again(
    intake: RecordingIntake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Publications that a stuck broker left unanswered are not what ended the connection: none is dropped for it."""
    monkeypatch.setattr("ssm_status_reporter.sources.mqtt_client.MQTT_ANSWER_SECONDS_MAX", 0.5)
    told: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_packet(reader)
        writer.write(b"\x20\x03\0\0\0")
        while True:
            first, rest = await read_packet(reader)
            match first >> 4:
                case 8:
                    writer.write(b"\x90\x04" + rest[:2] + b"\0\x01")
                case 3 if b"/outcomes" in rest:
                    told.append(rest)
                case 3:
                    size = int.from_bytes(rest[:2])
                    writer.write(b"\x40\x02" + rest[2 + size : 4 + size])

    async with scripted_broker(talk) as port:
        source = Setup(port, tmp_path).source()
        source.announce(announced(1))
        with capture_logs() as logs:
            async with running(source, intake):
                await until(lambda: len(told) == 4)
    assert not [entry for entry in logs if "dropped" in entry["event"]]


async def test_a_redelivery_with_a_date_keeps_its_place(
    setup: Setup, intake: RecordingIntake, other: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A redelivered result that brings its date is as old as it says, and needs no caution."""
    intake.commits.clear()
    with abruptly(monkeypatch):
        async with running(setup.source(), intake):
            await other.publish(result_bytes("first", observed_at="2026-01-01T00:00:00Z"))
            await intake.until(lambda: len(intake.offered) == 1)
    second = RecordingIntake()
    async with running(setup.source(), second):
        await second.until(lambda: len(second.results) == 1)
        assert second.results[0].edge is Edge.LEADING


@pytest.mark.parametrize(("level", "qos"), [(5, 1), (4, 1), (5, 0)])
async def test_a_slow_disk_holds_the_broker_back(
    broker: Broker, setup: Setup, intake: RecordingIntake, other: Peer, level: int, qos: int
) -> None:
    """While commits wait, no more than the bound is taken, and nothing is discarded: all arrive in their order."""
    count = 4 * MQTT_IN_FLIGHT_MAX
    intake.commits.clear()
    async with old_broker(broker) as (old_port, _):
        if level == 4:
            setup.port = old_port
        source = setup.source()
        async with running(source, intake):
            await asyncio.gather(*(other.publish(result_bytes(f"{number}"), qos=qos) for number in range(count)))
            await other.publish(
                b"{}", f"ssm-status/{OTHER_NODE}/reporter"
            )  # the broker has dealt with all before it
            await other.hear(f"ssm-status/{OTHER_NODE}/reporter")
            assert len(intake.offered) <= MQTT_IN_FLIGHT_MAX + 1
            intake.commits.set()
            await intake.until(lambda: len(intake.results) == count)
            assert intake.messages() == [f"{number}" for number in range(count)]
            assert max(intake.batches) <= MQTT_IN_FLIGHT_MAX + 1


@pytest.mark.parametrize("level", [4, 5])
async def test_retained_results_are_not_taken_at_each_subscription(
    broker: Broker, setup: Setup, intake: RecordingIntake, other: Peer, level: int
) -> None:
    """A runner that publishes with the retain flag does not have its old result reported at every connect."""
    await other.publish(result_bytes("old"), retain=True)
    async with old_broker(broker) as (old_port, _):
        if level == 4:
            setup.port = old_port
        for name in ("one", "two"):
            with capture_logs() as logs:
                async with running(setup.source(), intake):
                    await other.publish(result_bytes(name))
                    await intake.until(lambda name=name: name in intake.messages())  # type: ignore[misc]
            said = [entry for entry in logs if "retained" in entry["event"]]
            assert len(said) == (1 if level == 4 else 0)
    assert intake.messages() == ["one", "two"]


# Refusals.


async def test_a_refused_payload_is_answered(setup: Setup, intake: RecordingIntake, other: Peer) -> None:
    """Whoever published nonsense reads which field is wrong; it is counted, and does not come again."""
    nonsense = b'{"document": "My-Doc", "status": "Banana"}'
    async with running(setup.source(), intake):
        await other.publish(nonsense)
        await other.publish(b"\xff\xfe")
        await other.publish(result_bytes(instance_id=OTHER_NODE))
        await other.publish(result_bytes("x" * (MQTT_PAYLOAD_BYTES_MAX + 1)))
        await other.publish(result_bytes("good"))
        answers = await other.hear(REJECTED, 4)
        await intake.until(lambda: intake.messages() == ["good"])
    assert [answer["reason"].split(":")[0] for answer in answers[:3]] == ["status", "not UTF-8", "instance_id"]
    assert str(MQTT_PAYLOAD_BYTES_MAX) in answers[3]["reason"]
    assert answers[0]["payload"] == nonsense.decode()
    assert intake.refused == 4
    again = RecordingIntake()
    async with running(setup.source(), again):
        await other.publish(result_bytes("after"))
        await again.until(lambda: again.messages() == ["after"])
        assert again.refused == 0


async def test_many_refused_payloads_are_all_answered(setup: Setup, intake: RecordingIntake, other: Peer) -> None:
    """A flood of nonsense gets an answer each, and what comes after it is served."""
    count = MQTT_POSTINGS_MAX + 200
    async with running(setup.source(), intake):
        for start in range(0, count, 100):
            await asyncio.gather(*(other.publish(b"%d" % number) for number in range(start, start + 100)))
        await other.publish(result_bytes("good"))
        answers = await other.hear(REJECTED, count)
        await intake.until(lambda: intake.messages() == ["good"])
    assert [answer["payload"] for answer in answers] == [f"{number}" for number in range(count)]


async def test_an_answer_that_the_broker_does_not_allow_is_said_and_stops_nothing(
    tmp_path: Path, intake: RecordingIntake
) -> None:
    """Without the right to publish on `rejected`, the daemon says so once and goes on."""
    acl = "user reporter\ntopic readwrite ssm-status/+/results\ntopic write ssm-status/+/reporter\n"
    with running_broker(tmp_path / "broker", acl=acl) as broker:
        setup = Setup(broker.port, tmp_path)
        with capture_logs() as logs:
            async with peer(broker.port) as other, running(setup.source(), intake):
                await other.publish(b"nonsense")
                await other.publish(b"nonsense")
                await other.publish(result_bytes("good"))
                await intake.until(lambda: intake.messages() == ["good"])
    denied = [entry for entry in logs if entry["event"] == "a publication was refused"]
    assert len(denied) == 1, logs
    assert "Not authorized" in denied[0]["reason"]
    assert "ssm-status/+/rejected" in denied[0]["hint"]


# Gateways.


async def test_a_gateway_takes_results_of_allowed_nodes(
    setup: Setup, intake: RecordingIntake, other: Peer
) -> None:
    """With node.allow, results of other nodes are taken for those it names; the others are refused and answered."""
    setup.allow = ("mi-*",)
    stranger = "i-00000000000000000"
    async with running(setup.source(), intake):
        await other.publish(result_bytes("stranger"), f"ssm-status/{stranger}/results")
        await other.publish(result_bytes("allowed"), f"ssm-status/{OTHER_NODE}/results")
        await other.publish(result_bytes("own"))
        await intake.until(lambda: len(intake.results) == 2)
        (answer,) = await other.hear(f"ssm-status/{stranger}/rejected")
    assert [result.association.instance_id for result in intake.results] == [OTHER_NODE, NODE]
    assert "node.allow" in answer["reason"]
    assert intake.refused == 1


async def test_a_gateway_that_is_none_any_more_gives_up_the_others(
    setup: Setup, intake: RecordingIntake, other: Peer
) -> None:
    """Once node.allow is empty, results of other nodes are not even sent here, although the session is the same."""
    setup.allow = ("mi-*",)
    async with running(setup.source(), RecordingIntake()):
        pass
    setup.allow = ()
    async with running(setup.source(), intake):
        await other.publish(result_bytes("theirs"), f"ssm-status/{OTHER_NODE}/results")
        await other.publish(result_bytes("own"))
        await intake.until(lambda: intake.messages() == ["own"])
    assert intake.refused == 0


async def test_gateways_share_the_results(broker: Broker, tmp_path: Path, other: Peer) -> None:
    """Two gateways in one group each take a part; together they have every result once, also after a restart."""
    setups = [
        Setup(broker.port, tmp_path, allow=("mi-*",), shared_group="gateways", instance_id=node)
        for node in (NODE, "i-11111111111111111")
    ]
    one, two = RecordingIntake(), RecordingIntake()

    async def publish(start: int) -> None:
        for number in range(start, start + 20):
            await other.publish(result_bytes(f"{number}"), f"ssm-status/{OTHER_NODE}/results")
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            while len(one.results) + len(two.results) < start + 20:
                await asyncio.wait(
                    [asyncio.ensure_future(each.changed.wait()) for each in (one, two)],
                    return_when=asyncio.FIRST_COMPLETED,
                )
                one.changed.clear()
                two.changed.clear()

    async with running(setups[0].source(), one), running(setups[1].source(), two):
        await publish(0)
        assert one.results
        assert two.results
        assert {result.writer for result in one.results} == {Writer.SHARED}
        assert {result.edge for result in one.results} == {Edge.TRAILING}
        assert sorted(map(int, one.messages() + two.messages())) == list(range(20))


@pytest.mark.parametrize(("allow", "warned"), [(("mi-*",), True), (("mi-*", NODE), False)])
async def test_a_gateway_whose_own_results_the_group_would_refuse_is_told(
    setup: Setup, intake: RecordingIntake, allow: tuple[str, ...], *, warned: bool
) -> None:
    """The broker hands this node's own results to the others too; who may not report for it refuses them."""
    setup.shared_group, setup.allow = "gateways", allow
    with capture_logs() as logs:
        async with running(setup.source(), intake):
            pass
    said = [entry for entry in logs if "would refuse this node's own results" in entry["event"]]
    assert len(said) == warned
    assert all(NODE in entry["hint"] for entry in said)


async def test_a_shared_subscription_outlives_a_restart_of_the_broker(
    broker: Broker, setup: Setup, intake: RecordingIntake
) -> None:
    """Some brokers forget it with the session present: it is made again at every connect."""
    setup.shared_group, setup.allow = "gateways", ("mi-*",)
    with capture_logs() as logs:
        async with running(setup.source(), intake):
            async with peer(broker.port) as other:
                await other.publish(result_bytes("before"))
                await intake.until(lambda: intake.messages() == ["before"])
            broker.stop()
            broker.start()
            # Not by the retained word of the reporter, which may be that from before.
            await until(lambda: [each["event"] for each in logs].count("connected to the broker") == 2)
            async with peer(broker.port) as other:
                await other.publish(result_bytes("after"))
                # The first may come again: its acknowledgement may not have reached the broker before that ended.
                await intake.until(lambda: "after" in intake.messages())


# What the daemon says.


async def test_the_reporters_state_is_kept(setup: Setup, intake: RecordingIntake, other: Peer) -> None:
    """Whoever asks the broker sees whether the daemon is there: online, offline after a clean stop, and who."""
    async with running(setup.source(), intake):
        said = await other.hear_last(REPORTER, lambda said: said["state"] == "online")
        assert said["reporter"].startswith("ssm-status-reporter/")
    said = await other.hear_last(REPORTER, lambda said: said["state"] == "offline")
    assert said["reason"] == "stopped"
    async with peer(setup.port, REPORTER) as late:
        assert await late.hear(REPORTER) == [said]


async def test_outcomes_are_published(setup: Setup, intake: RecordingIntake, other: Peer) -> None:
    """What became of each report can be followed; what happened while there was no broker is told afterwards."""
    source = setup.source()
    source.announce(announced(1))
    async with running(source, intake):
        await other.hear(OUTCOMES)
        source.announce(announced(2))
        outcomes = await other.hear(OUTCOMES, 2)
    assert [said["document"] for said in outcomes] == ["Doc-1", "Doc-2"]
    assert outcomes[0]["outcome"] == "delivered"


async def test_outcomes_that_nobody_takes_are_bounded(setup: Setup, intake: RecordingIntake, other: Peer) -> None:
    """Without a broker the oldest outcomes are dropped, which is said, once when it begins and once at the end."""
    source = setup.source()
    with capture_logs() as logs:
        for number in range(MQTT_POSTINGS_MAX + 5):
            source.announce(announced(number))
        async with running(source, intake):
            outcomes = await other.hear(OUTCOMES, MQTT_POSTINGS_MAX)
            source.announce(announced(9999))
            await other.hear(OUTCOMES, MQTT_POSTINGS_MAX + 1)
    assert outcomes[0]["document"] == "Doc-5"
    said = [entry["event"] for entry in logs if "outcomes" in entry["event"]]
    assert len(said) == 2
    assert next(entry for entry in logs if "dropped" in entry)["dropped"] == 5


async def test_an_outcome_at_the_stop_still_goes_out(setup: Setup, intake: RecordingIntake, other: Peer) -> None:
    """What was announced before the stop is told before the daemon leaves."""
    source = setup.source()
    async with running(source, intake):
        source.announce(announced(1))
    assert {said["document"] for said in await other.hear(OUTCOMES)} == {"Doc-1"}


# MQTT 5 and before.


async def test_mqtt_5_is_spoken(broker: Broker, setup: Setup, intake: RecordingIntake) -> None:
    """The session outlives the connection, and the broker knows how much it may send."""
    with capture_logs() as logs:
        async with running(setup.source(), intake):
            pass
    (connected,) = [entry for entry in logs if entry["event"] == "connected to the broker"]
    assert (connected["protocol"], connected["session"], connected["topic"]) == ("5", "new", RESULTS)
    assert f"as ssm-status-reporter-{NODE} (p5, c0" in broker.log()


async def test_a_broker_without_mqtt_5_is_spoken_to_in_3_1_1(
    broker: Broker, setup: Setup, intake: RecordingIntake, other: Peer
) -> None:
    """An older broker is served as well; that it is older is found out once."""
    async with old_broker(broker) as (port, levels):
        setup.port = port
        async with running(setup.source(), intake):
            await other.publish(result_bytes("old"))
            await intake.until(lambda: intake.messages() == ["old"])
            assert levels == [5, 4]
            broker.stop()
            broker.start()
            async with peer(broker.port) as again:
                await until(lambda: len(levels) >= 3)
                await again.publish(result_bytes("again"))
                await intake.until(lambda: "again" in intake.messages())
            assert set(levels[2:]) == {4}


# TLS.


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_tls_with_a_client_certificate(tmp_path: Path, intake: RecordingIntake, host: str) -> None:
    """As with AWS IoT Core: both sides show a certificate."""
    certificates = make_certificates(tmp_path / "tls")
    with running_broker(tmp_path / "broker", tls=certificates) as broker:
        tls = Tls(ca_file=certificates.ca, cert_file=certificates.client, key_file=certificates.client_key)
        setup = Setup(broker.port, tmp_path, host=host, tls=tls)
        ours = aiomqtt.TLSParameters(str(certificates.ca), str(certificates.client), str(certificates.client_key))
        async with running(setup.source(), intake), peer(broker.port, REJECTED, tls=ours) as other:
            messages = [f"{number}" for number in range(300)]
            await asyncio.gather(*(other.publish(result_bytes(message)) for message in messages))
            await intake.until(lambda: len(intake.results) == 300)
            assert intake.messages() == messages
            await other.publish(b"nonsense")
            await other.hear(REJECTED)


async def first_trouble(source: Mqtt) -> dict[str, str]:
    """What the operator reads when it does not connect."""
    with capture_logs() as logs:
        async with running(source, RecordingIntake()):
            pass
    (said,) = [entry for entry in logs if entry["log_level"] == "warning"]
    return {name: str(value) for name, value in said.items()}


async def test_tls_troubles_are_told_with_their_remedy(tmp_path: Path) -> None:
    """A wrong authority, a missing client certificate, a wrong name, unusable files: each names the key to change."""
    certificates = make_certificates(tmp_path / "tls")
    elsewhere = make_certificates(tmp_path / "elsewhere", names="DNS:elsewhere.example")
    good = Tls(ca_file=certificates.ca, cert_file=certificates.client, key_file=certificates.client_key)

    async def trouble(port: int, tls: Tls | None) -> str:
        said = await first_trouble(Setup(port, tmp_path, tls=tls).source())
        return f"{said['reason']} | {said['hint']}"

    with running_broker(tmp_path / "broker", tls=certificates) as broker:
        port = broker.port
        assert "tls.ca_file" in await trouble(port, Tls(ca_file=elsewhere.ca))
        assert "tls.ca_file" in await trouble(port, Tls())
        assert "tls.cert_file" in await trouble(port, Tls(ca_file=certificates.ca))
        mixed = Tls(ca_file=certificates.ca, cert_file=certificates.client, key_file=elsewhere.client_key)
        assert "belong together" in await trouble(port, mixed)
        missing = Tls(ca_file=tmp_path / "none.pem")
        assert "none.pem" in await trouble(port, missing) or "cannot be read" in await trouble(port, missing)
        assert "sources.mqtt.tls" in await trouble(port, None)
    with running_broker(tmp_path / "renamed", tls=elsewhere) as broker:
        tls = Tls(ca_file=elsewhere.ca, cert_file=elsewhere.client, key_file=elsewhere.client_key)
        assert "sources.mqtt.host" in await trouble(broker.port, tls)
    with running_broker(tmp_path / "plain") as broker:
        assert "no TLS on this port" in await trouble(broker.port, good)


async def test_a_locked_key_is_refused_and_asks_nobody(tmp_path: Path) -> None:
    """A key with a passphrase does not make the daemon wait for a terminal."""
    certificates = make_certificates(tmp_path / "tls")
    locked = tmp_path / "locked.key"
    process = await asyncio.create_subprocess_exec(
        "openssl", "ec", "-in", certificates.client_key, "-aes256", "-passout", "pass:secret", "-out", locked,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert await process.wait() == 0
    tls = Tls(ca_file=certificates.ca, cert_file=certificates.client, key_file=locked)
    said = await first_trouble(Setup(1, tmp_path, tls=tls).source())
    assert "passphrase" in said["hint"]


# Logging in.


async def test_a_wrong_password_is_told_with_its_remedy(setup: Setup) -> None:
    """The operator reads which keys to check, and never the password."""
    setup.password = "wrong horse"
    said = await first_trouble(setup.source())
    assert "Not authorized" in said["reason"]
    assert "password_file" in said["hint"]
    assert "wrong horse" not in json.dumps(said)


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe secret", b"x" * 70_000, None])
async def test_an_unusable_password_file_is_told(setup: Setup, content: bytes | None) -> None:
    """A password file that is missing or holds no password is named, and its content is not."""
    source = setup.source()
    path = source._settings.section.password_file
    assert path is not None
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    said = await first_trouble(source)
    assert "sources.mqtt.password_file" in said["reason"]
    assert "secret" not in json.dumps(said)
