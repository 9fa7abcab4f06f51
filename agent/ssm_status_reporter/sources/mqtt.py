"""MQTT: results that are published for this node, or for the nodes behind this gateway.

Rules (numbers as in ARCHITECTURE.md):
  1. A message is acknowledged only after the commit (`mqtt_session`).
  9. A connection that is refused, lost or not answered is tried again with full jitter, for ever, and never without
     a pause. A connection that does not last does not begin the pauses anew.
  * The session is the broker's to keep: what is published while this daemon is away arrives when it is back.
  * MQTT 5, and 3.1.1 from then on with a broker that says it has no 5.
  * No broker delays the start: one that is slow or down is said, and tried further.
  * Said once: that there is no connection and why, again when the reason changes, and that there is one.

The password is in a file. systemd's credentials are files too: the drop-in mqtt.conf.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import aiomqtt
import structlog

from ssm_status_reporter.config import Mqtt as MqttSection
from ssm_status_reporter.domain.announcement import Announcement
from ssm_status_reporter.domain.backoff import Backoff
from ssm_status_reporter.domain.limits import (
    MQTT_BACKOFF_MS_INITIAL,
    MQTT_BACKOFF_MS_MAX,
    MQTT_BACKOFF_MS_MIN,
    MQTT_PATIENCE_MS,
    MQTT_STEADY_MS,
)
from ssm_status_reporter.ports import Chance, Clock, Intake
from ssm_status_reporter.sources.decode import allowed
from ssm_status_reporter.sources.mqtt_client import BrokerClient, Login, UnsupportedVersionError
from ssm_status_reporter.sources.mqtt_dial import dial, read_credentials
from ssm_status_reporter.sources.mqtt_postings import Postings
from ssm_status_reporter.sources.mqtt_session import Said, Session
from ssm_status_reporter.sources.mqtt_topics import SOURCE, Topics, last_will, outcome
from ssm_status_reporter.sources.mqtt_trouble import BrokerError, Trouble

BACKOFF: Final = Backoff(MQTT_BACKOFF_MS_INITIAL, MQTT_BACKOFF_MS_MAX)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class MqttSettings:
    """What the source takes from the configuration, and the node that this is."""

    section: MqttSection
    instance_id: str
    allow: tuple[str, ...] = ()

    @property
    def client_id(self) -> str:
        """The broker's name for this daemon's session."""
        return self.section.client_id or f"ssm-status-reporter-{self.instance_id}"


class Mqtt:
    """The source ``mqtt``; implements `ports.Teller`."""

    def __init__(self, settings: MqttSettings, clock: Clock, chance: Chance) -> None:
        self.name = SOURCE
        self._settings = settings
        self._section = settings.section
        self._clock = clock
        self._chance = chance
        self._topics = Topics(
            settings.section.topic_prefix, settings.instance_id, settings.allow, settings.section.shared_group
        )
        self._postings = Postings()
        self._said = Said()
        self._stopping = asyncio.Event()
        self._version = aiomqtt.ProtocolVersion.V5
        self._failures = 0
        self._troubles_said: set[Trouble] = set()
        self._subscribed_at_ms: int | None = None
        self._watches: Callable[[], None] = lambda: None
        """To be called when the source watches, or has said why it cannot yet."""

    def announce(self, announcement: Announcement) -> None:
        """Tell those who follow what became of a report; at once, or when the broker is there again."""
        self._postings.add(outcome(self._topics, announcement))

    def take_nothing_new(self) -> None:
        """The daemon stops: what the broker sends from now on is its to send again."""
        self._stopping.set()

    async def run(self, intake: Intake, watching: Callable[[], None]) -> None:
        """Connect, hand in and publish until cancelled; says ``offline`` then."""
        self._watches = watching
        if self._section.shared_group is not None and not allowed(
            self._settings.instance_id, self._settings.allow
        ):
            log.warning(
                "the other gateways of the group would refuse this node's own results: the broker hands them out too",
                shared_group=self._section.shared_group,
                hint=f"let node.allow name {self._settings.instance_id} as well, the same on every gateway",
            )
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._lose_patience())
            await self._stay_connected(intake)

    async def _lose_patience(self) -> None:
        """A broker that takes long to answer is said, and is no reason to wait."""
        await self._clock.sleep_until(self._clock.now().steady_ms + MQTT_PATIENCE_MS)
        if self._subscribed_at_ms is None and not self._troubles_said:
            log.warning(
                "the broker has not answered yet: it is waited for, and everything else goes on", **self._broker
            )
            self._watches()

    async def _stay_connected(self, intake: Intake) -> None:
        while True:
            try:
                trouble = await self._connect_and_serve(intake)
            except UnsupportedVersionError:
                self._version = aiomqtt.ProtocolVersion.V311
                log.info("the broker does not speak MQTT 5: going on with 3.1.1", **self._broker)
                continue
            except BrokerError as error:
                trouble = error.trouble
            self._say(trouble)
            await self._pause()

    async def _pause(self) -> None:
        now_ms = self._clock.now().steady_ms
        steady = self._subscribed_at_ms is not None and now_ms - self._subscribed_at_ms >= MQTT_STEADY_MS
        self._subscribed_at_ms = None
        self._failures = 1 if steady else self._failures + 1
        pause_ms = BACKOFF.delay_ms(self._failures, self._chance(), MQTT_BACKOFF_MS_MIN)
        await self._clock.sleep_until(now_ms + pause_ms)

    async def _connect_and_serve(self, intake: Intake) -> Trouble:
        """One connection. Returns or raises why it ended: `BrokerError`, `UnsupportedVersionError`."""
        section = self._section
        host, port = section.host, section.broker_port
        credentials = await asyncio.to_thread(read_credentials, section)
        will = last_will(self._topics)
        login = Login(self._settings.client_id, section.username, credentials.password, will, self._version)
        client = BrokerClient(host, port, login, self._clock)
        try:
            await client.connect(await dial(host, port, credentials.tls))
            session = Session(
                client, self._topics, self._clock, intake, self._postings, self._said, self._stopping
            )
            try:
                return await session.serve(lambda: self._say_connected(client))
            except asyncio.CancelledError:
                await session.say_farewell()
                raise
        finally:
            client.close()

    # What the operator reads.

    @property
    def _broker(self) -> dict[str, object]:
        return {"host": self._section.host, "port": self._section.broker_port}

    def _say(self, trouble: Trouble) -> None:
        known = trouble in self._troubles_said or (trouble.passing and bool(self._troubles_said))
        said = {**self._broker, "reason": trouble.reason, "hint": trouble.hint}
        if known:
            log.debug("still no connection to the broker", **said)
        elif self._subscribed_at_ms is None:
            log.warning("no connection to the broker: it is tried again, and results wait there", **said)
        else:
            log.warning("the connection to the broker is lost: results wait there until it is back", **said)
        self._troubles_said.add(trouble)
        self._watches()

    def _say_connected(self, client: BrokerClient) -> None:
        self._troubles_said.clear()
        self._subscribed_at_ms = self._clock.now().steady_ms
        self._watches()
        log.info(
            "connected to the broker",
            **self._broker,
            protocol="5" if self._version is aiomqtt.ProtocolVersion.V5 else "3.1.1",
            session="resumed" if client.session_present else "new",
            topic=self._topics.subscription,
        )
