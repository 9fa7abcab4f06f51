"""What tests of MQTT share: the source, running; somebody who publishes and listens; brokers that misbehave."""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiomqtt

from mosquitto_support import PASSWORD, USER, Broker
from results_directory_support import WAIT_SECONDS_MAX, RecordingIntake
from ssm_status_reporter.config import Mqtt as Section
from ssm_status_reporter.config import Tls
from ssm_status_reporter.host.clock import SystemClock
from ssm_status_reporter.ports import Chance, Clock
from ssm_status_reporter.sources.mqtt import Mqtt, MqttSettings

NODE = "i-0123456789abcdef0"
OTHER_NODE = "mi-0123456789abcdef0"
RESULTS = f"ssm-status/{NODE}/results"
REJECTED = f"ssm-status/{NODE}/rejected"
OUTCOMES = f"ssm-status/{NODE}/outcomes"
REPORTER = f"ssm-status/{NODE}/reporter"


def no_jitter() -> float:
    """Pauses as short as they get."""
    return 0.0


@dataclass
class Setup:
    """How the source is configured; all but the port as it is without configuration."""

    port: int
    directory: Path
    host: str = "127.0.0.1"
    password: str = PASSWORD
    tls: Tls | None = None
    client_id: str | None = None
    shared_group: str | None = None
    instance_id: str = NODE
    allow: tuple[str, ...] = ()
    clock: Clock = field(default_factory=SystemClock)
    chance: Chance = no_jitter

    def settings(self) -> MqttSettings:
        password_file = self.directory / f"password-{len(self.password)}"
        password_file.write_text(f"{self.password}\n")
        section = Section(
            enabled=True,
            host=self.host,
            port=self.port,
            client_id=self.client_id,
            username=USER,
            password_file=password_file,
            tls=self.tls,
            shared_group=self.shared_group,
        )
        return MqttSettings(section, self.instance_id, self.allow)

    def source(self) -> Mqtt:
        return Mqtt(self.settings(), self.clock, self.chance)


@asynccontextmanager
async def running(source: Mqtt, intake: RecordingIntake) -> AsyncIterator["asyncio.Task[None]"]:
    """The source, once it watches or has said why not; stopped cleanly at the end."""
    watching = asyncio.Event()
    task = asyncio.create_task(source.run(intake, watching.set))
    waiting = asyncio.create_task(watching.wait())
    try:
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        yield task
    finally:
        waiting.cancel()
        if task.done():
            task.result()
        if not task.cancelling():
            task.cancel()
        await asyncio.gather(task, waiting, return_exceptions=True)


class Peer:
    """Another client of the broker: publishes results and reads what the daemon publishes."""

    def __init__(self, client: aiomqtt.Client) -> None:
        self.client = client
        self._heard: defaultdict[str, list[dict[str, str]]] = defaultdict(list)
        self._changed = asyncio.Event()

    async def publish(self, payload: bytes, topic: str = RESULTS, qos: int = 1, *, retain: bool = False) -> None:
        await self.client.publish(topic, payload, qos, retain)

    async def listen(self) -> None:
        async for message in self.client.messages:
            assert isinstance(message.payload, bytes)
            self._heard[str(message.topic)].append(json.loads(message.payload))
            self._changed.set()

    def heard(self, topic: str) -> list[dict[str, str]]:
        return list(self._heard[topic])

    async def hear(self, topic: str, count: int = 1) -> list[dict[str, str]]:
        """What was said on a topic, once it is that much."""
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            while len(self._heard[topic]) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.heard(topic)

    async def hear_last(self, topic: str, condition: Callable[[dict[str, str]], bool]) -> dict[str, str]:
        """The last word on a topic, once it is so."""
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            while not (self._heard[topic] and condition(self._heard[topic][-1])):
                self._changed.clear()
                await self._changed.wait()
        return self._heard[topic][-1]


@asynccontextmanager
async def peer(port: int, *filters: str, tls: aiomqtt.TLSParameters | None = None) -> AsyncIterator[Peer]:
    """Connected, and subscribed to ``filters``."""
    async with aiomqtt.Client(
        "127.0.0.1",
        port,
        username=USER,
        password=PASSWORD,
        timeout=WAIT_SECONDS_MAX,
        protocol=aiomqtt.ProtocolVersion.V5,
        tls_params=tls,
    ) as client:
        client.pending_calls_threshold = 1000
        other = Peer(client)
        for each in filters:
            await client.subscribe(each, qos=1)
        listening = asyncio.create_task(other.listen())
        try:
            yield other
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)


@asynccontextmanager
async def scripted_broker(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    """A listener that says to each connection what the test says; its port."""
    talks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await talk(reader, writer)
        finally:
            talks.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for task in list(talks):
            task.cancel()
        await asyncio.gather(*talks, return_exceptions=True)
        await server.wait_closed()


async def read_packet(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """One MQTT packet: its first byte and what follows the length."""
    first = (await reader.readexactly(1))[0]
    length, shift = 0, 0
    while True:
        byte = (await reader.readexactly(1))[0]
        length |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return first, await reader.readexactly(length)


def protocol_level(connect: bytes) -> int:
    """4 for MQTT 3.1.1, 5 for MQTT 5: in CONNECT, behind the protocol's name."""
    return connect[6]


@asynccontextmanager
async def old_broker(broker: Broker) -> AsyncIterator[tuple[int, list[int]]]:
    """A broker without MQTT 5: what stands in front of a real one refuses it. Its port and the levels asked for."""
    levels: list[int] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        start = await reader.readexactly(2)
        while start[-1] & 128:
            start += await reader.readexactly(1)
        name_and_level = await reader.readexactly(7)
        levels.append(protocol_level(name_and_level))
        if levels[-1] == 5:
            writer.write(b"\x20\x02\x00\x01")
            await writer.drain()
            return
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", broker.port)
        inner_writer.write(start + name_and_level)
        try:
            await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))
        finally:
            inner_writer.close()

    async with scripted_broker(talk) as port:
        yield port, levels
