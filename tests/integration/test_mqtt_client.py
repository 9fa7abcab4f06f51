"""What of aiomqtt and paho-mqtt is not their public interface: each use shown to do what it is there for.

The brokers here are scripted, packet by packet (OASIS MQTT 5.0, chapter 3): what a client sends, and in which order, is
what is looked at. That both releases are pinned exactly is part of it.
"""

import asyncio
import socket
import struct
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from mqtt_support import NODE, REJECTED, RESULTS, read_packet, scripted_broker
from results_directory_support import WAIT_SECONDS_MAX
from ssm_status_reporter.domain.limits import (
    MQTT_IN_FLIGHT_MAX,
    MQTT_PACKET_BYTES_MAX,
    MQTT_RECEIVE_MAX,
    MQTT_SESSION_SECONDS,
)
from ssm_status_reporter.host.clock import SystemClock
from ssm_status_reporter.sources.mqtt_client import BrokerClient, Login
from ssm_status_reporter.sources.mqtt_dial import dial
from ssm_status_reporter.sources.mqtt_topics import Posting, Topics, last_will
from ssm_status_reporter.sources.mqtt_trouble import BrokerError, Trouble

ANSWER_SECONDS_MAX = "ssm_status_reporter.sources.mqtt_client.MQTT_ANSWER_SECONDS_MAX"
UNKNOWN_FAMILY = 12
"""DECnet's: Linux no longer knows it."""
CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK, DISCONNECT = 1, 2, 3, 4, 8, 9, 14


class Script:
    """The broker's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def packet(self) -> tuple[int, bytes]:
        """The next packet: its type and what follows the length."""
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            first, rest = await read_packet(self._reader)
        return first >> 4, rest

    async def send(self, first: int, rest: bytes) -> None:
        length, digits = len(rest), b""
        while True:
            digits += bytes([length % 128 | (128 if length >= 128 else 0)])
            length //= 128
            if not length:
                break
        self._writer.write(bytes([first]) + digits + rest)
        await self._writer.drain()

    async def accept(self) -> bytes:
        """Take the CONNECT, which is returned, and accept."""
        kind, connect = await self.packet()
        assert kind == CONNECT
        await self.send(CONNACK << 4, b"\0\0\0")
        return connect

    async def publish(self, packet_id: int, *, duplicate: bool = False, payload: bytes = b"{}") -> None:
        topic = struct.pack(">H", len(RESULTS)) + RESULTS.encode()
        first = PUBLISH << 4 | duplicate << 3 | 1 << 1
        await self.send(first, topic + struct.pack(">H", packet_id) + b"\0" + payload)

    def close(self) -> None:
        self._writer.close()


@asynccontextmanager
async def connection() -> AsyncIterator[tuple[BrokerClient, Script, bytes]]:
    """A client that is connected to a script, and how it introduced itself."""
    scripts: asyncio.Queue[Script] = asyncio.Queue()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        scripts.put_nowait(Script(reader, writer))
        await asyncio.Event().wait()

    async with scripted_broker(talk) as port:
        will = last_will(Topics("ssm-status", NODE))
        login = Login("me", "user", "secret", will, aiomqtt.ProtocolVersion.V5)
        client = BrokerClient("127.0.0.1", port, login, SystemClock())
        try:
            connecting = asyncio.create_task(dialled(client, port))
            script = await scripts.get()
            connect = await script.accept()
            await connecting
            yield client, script, connect
        finally:
            client.close()


async def dialled(client: BrokerClient, port: int) -> None:
    await client.connect(await dial("127.0.0.1", port, None))


async def test_an_address_of_a_family_that_the_machine_lacks_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name with an IPv6 address leads to the broker on a machine whose kernel has no IPv6, too."""
    loop = asyncio.get_running_loop()
    looked_up = loop.getaddrinfo

    async def with_another_family(*arguments: Any, **options: Any) -> list[Any]:
        found = await looked_up(*arguments, **options)
        return [(UNKNOWN_FAMILY, *found[0][1:]), *found]

    monkeypatch.setattr(loop, "getaddrinfo", with_another_family)
    async with scripted_broker(silent) as port:
        (await dial("127.0.0.1", port, None)).close()


async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accepts a connection, and that is all."""
    writer.close()


def test_the_releases_are_pinned() -> None:
    """What is used is not promised by them: no other release is taken unseen."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
    for name in ("aiomqtt", "paho-mqtt"):
        assert f"{name}=={version(name)}" in project["project"]["dependencies"]


async def test_nothing_is_acknowledged_before_it_is_settled() -> None:
    """The acknowledgement goes out when told so, after whatever was sent before it, and names the message."""
    async with connection() as (client, script, _):
        await script.publish(7)
        (message,) = await client.arrivals()
        posting = asyncio.create_task(client.post([Posting(REJECTED, b"first")]))
        kind, rest = await script.packet()
        assert kind == PUBLISH, "were it acknowledged on receipt, that would have come first"
        client.settle([message])
        assert await script.packet() == (PUBACK, struct.pack(">H", 7))
        (packet_id,) = struct.unpack_from(">H", rest, 2 + len(REJECTED))
        await script.send(PUBACK << 4, struct.pack(">H", packet_id))
        await posting


async def test_the_session_outlives_the_connection() -> None:
    """Without an expiry interval an MQTT 5 session ends with its connection, and messages are lost."""
    async with connection() as (_, _, connect):
        flags = connect[7]
        assert not flags & 0b10, "no clean start"
        assert b"\x11" + struct.pack(">I", MQTT_SESSION_SECONDS) in connect
        assert b"\x21" + struct.pack(">H", MQTT_RECEIVE_MAX) in connect
        assert b"\x27" + struct.pack(">I", MQTT_PACKET_BYTES_MAX) in connect


async def test_retained_messages_are_not_asked_for() -> None:
    """Subscribed at QoS 1, with retained messages left where they are."""
    async with connection() as (client, script, _):
        subscribing = asyncio.create_task(client.take(RESULTS, ()))
        kind, rest = await script.packet()
        assert kind == SUBSCRIBE
        assert rest[-1] == 2 << 4 | 1
        await script.send(SUBACK << 4, rest[:2] + b"\0\x01")
        assert await subscribing is True


async def test_a_redelivery_is_told_from_a_first_delivery() -> None:
    """DUP decides whether an undated result may go out at once; aiomqtt does not hand it on."""
    async with connection() as (client, script, _):
        await script.publish(1)
        await script.publish(2, duplicate=True)
        messages = await client.arrivals()
        while len(messages) < 2:
            messages += await client.arrivals()
        assert [message.duplicate for message in messages] == [False, True]


async def test_beyond_the_bound_nothing_more_is_read_and_nothing_is_discarded() -> None:
    """A broker that ignores the Receive Maximum is held back by TCP; what it sent arrives once there is room."""
    wanted = 4 * MQTT_IN_FLIGHT_MAX
    async with connection() as (client, script, _):
        sending = asyncio.create_task(_flood(script, wanted))
        taken = await client.arrivals()
        while len(taken) <= MQTT_IN_FLIGHT_MAX:
            taken += await client.arrivals()
        await client.while_it_reads(asyncio.Event().wait())  # returns, for it reads no more
        assert len(taken) == MQTT_IN_FLIGHT_MAX + 1
        assert client._messages == []
        client.settle(taken)
        seen = len(taken)
        while seen < wanted:
            more = await client.arrivals()
            client.settle(more)
            seen += len(more)
        await sending


async def test_what_is_there_is_read_in_few_turns() -> None:
    """One message in each turn of the event loop would starve beside a results directory that takes 64 files in one."""
    wanted, batches, seen = 64, 0, 0
    async with connection() as (client, script, _):
        for number in range(wanted):
            await script.publish(number + 1)
        while seen < wanted:
            seen += len(await client.arrivals())
            batches += 1
    assert batches <= wanted // 8


async def test_a_connection_that_ended_while_nothing_was_read_holds_nobody_up() -> None:
    """What had arrived is settled afterwards, and must not look as if the broker were listened to again."""
    async with connection() as (client, script, _):
        sending = asyncio.create_task(_flood(script, 2 * MQTT_IN_FLIGHT_MAX))
        taken = await client.arrivals()
        while len(taken) <= MQTT_IN_FLIGHT_MAX:
            taken += await client.arrivals()
        client.abort(Trouble("enough"))
        client.settle(taken)
        await asyncio.wait_for(client.while_it_reads(asyncio.Event().wait()), WAIT_SECONDS_MAX)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def test_a_broker_that_is_not_listened_to_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A confirmation behind what a slow disk lets in slowly is waited for, however long that takes."""
    async with connection() as (client, script, _):
        sending = asyncio.create_task(_flood(script, 2 * MQTT_IN_FLIGHT_MAX))
        taken = await client.arrivals()
        while len(taken) <= MQTT_IN_FLIGHT_MAX:
            taken += await client.arrivals()
        monkeypatch.setattr(ANSWER_SECONDS_MAX, 0.05)
        posting = asyncio.create_task(client.post([Posting(REJECTED, b"first")]))
        assert await asyncio.wait({posting}, timeout=0.5) == (set(), {posting})
        monkeypatch.setattr(ANSWER_SECONDS_MAX, WAIT_SECONDS_MAX)
        client.settle(taken)
        await sending
        kind, rest = await script.packet()
        assert kind == PUBLISH
        await script.send(PUBACK << 4, rest[2 + len(REJECTED) : 4 + len(REJECTED)])
        await posting


async def test_a_broker_that_is_heard_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it sends meanwhile shows that it is there; once it is silent, it is given up."""
    silence_seconds_max = 2.0  # longer than a busy machine stands still
    monkeypatch.setattr(ANSWER_SECONDS_MAX, silence_seconds_max)
    async with connection() as (client, script, _):
        posting = asyncio.create_task(client.post([Posting(REJECTED, b"first")]))
        assert (await script.packet())[0] == PUBLISH
        began = asyncio.get_running_loop().time()
        for number in count(1):
            if asyncio.get_running_loop().time() > began + 1.5 * silence_seconds_max:
                break
            await script.publish(number)
            client.settle(await client.arrivals())
        assert not posting.done()
        with pytest.raises(BrokerError, match="did not answer a publication"):
            await posting


async def test_a_confirmation_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that sends everything but the confirmation is given up, however talkative it is."""
    monkeypatch.setattr("ssm_status_reporter.sources.mqtt_client.MQTT_CONFIRMATION_SECONDS_MAX", 0.5)
    monkeypatch.setattr(ANSWER_SECONDS_MAX, 0.2)
    async with connection() as (client, script, _):
        posting = asyncio.create_task(client.post([Posting(REJECTED, b"first")]))
        assert (await script.packet())[0] == PUBLISH
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            for number in count(1):
                if posting.done():
                    break
                await script.publish(number)
                client.settle(await client.arrivals())
        with pytest.raises(BrokerError, match="did not answer a publication"):
            await posting


async def _flood(script: Script, messages: int) -> None:
    for packet_id in range(1, messages + 1):
        await script.publish(packet_id, payload=b"x" * 60_000)


async def test_the_end_of_the_connection_ends_what_waits() -> None:
    """Who waits for a confirmation or a message is told at once, not at a timeout; settling afterwards does nothing."""
    async with connection() as (client, script, _):
        await script.publish(1)
        messages = await client.arrivals()
        posting = asyncio.create_task(client.post([Posting(REJECTED, b"first")]))
        assert (await script.packet())[0] == PUBLISH
        script.close()
        with pytest.raises(BrokerError):
            await posting
        assert await client.arrivals() == []
        client.settle(messages)


async def test_a_client_leaves_with_a_word() -> None:
    """DISCONNECT keeps the broker from telling the last will."""
    async with connection() as (client, script, _):
        leaving = asyncio.create_task(client.disconnect())
        assert (await script.packet())[0] == DISCONNECT
        script.close()
        await asyncio.wait_for(leaving, WAIT_SECONDS_MAX)


async def test_it_uses_the_socket_that_it_is_given() -> None:
    """Left alone, paho would open one by itself, and block the event loop meanwhile."""
    async with connection() as (client, _, _):
        stream = client._client.socket()
        assert isinstance(stream, socket.socket)
        assert stream.gettimeout() == 0
    assert stream.fileno() == -1
