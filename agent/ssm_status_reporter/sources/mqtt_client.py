"""aiomqtt's client with what this daemon needs besides: the one place that touches aiomqtt's and paho's insides.

What it changes, each change held by a test (tests/integration/test_mqtt_client.py), the releases pinned:
  * PUBLISH is acknowledged when `settle` says so, not on receipt: paho's ``manual_ack_set`` and ``ack``.
  * `Message` tells DUP, which aiomqtt drops.
  * Backpressure: beyond `MQTT_IN_FLIGHT_MAX` messages nothing is read from the socket; aiomqtt would discard.
  * All that is there is read in one turn of the event loop, up to that bound; one message in a turn is nothing beside
    the many files that the results directory takes in one.
  * It connects over a socket that is connected already (mqtt_dial): nothing blocks, nothing runs in a thread.
  * A connection that ends before CONNACK, or while a confirmation is awaited, is noticed at once, not at a timeout.
  * A confirmation is waited for as long as the broker is heard, or is not listened to: Mosquitto 2.0 sends thousands of
    messages ahead of it, whatever the Receive Maximum, and a slow disk lets them in slowly. aiomqtt would time out.
    But not for ever.
  * Idle, it wakes a few times in a keepalive interval; aiomqtt once a second.

A client is one connection. What an earlier one did not acknowledge, the broker sends again to the next.
"""

import asyncio
import logging
import math
import socket
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiomqtt
import paho.mqtt.client as paho
from paho.mqtt.enums import LogLevel
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from ssm_status_reporter.domain.limits import (
    MQTT_ANSWER_SECONDS_MAX,
    MQTT_CONFIRMATION_SECONDS_MAX,
    MQTT_IN_FLIGHT_MAX,
    MQTT_KEEPALIVE_SECONDS,
    MQTT_PACKET_BYTES_MAX,
    MQTT_PAYLOAD_BYTES_MAX,
    MQTT_POSTINGS_OUT_MAX,
    MQTT_RECEIVE_MAX,
    MQTT_SESSION_SECONDS,
)
from ssm_status_reporter.ports import Clock
from ssm_status_reporter.race import race
from ssm_status_reporter.sources.mqtt_topics import Message, Posting
from ssm_status_reporter.sources.mqtt_trouble import (
    BrokerError,
    Trouble,
    of_answer,
    of_end,
    of_publication,
    of_silence,
    of_subscription,
)

_QOS: Final = 1
_UNSUPPORTED_VERSION: Final = 0x84
_KEEPALIVE_LOOKS: Final = 3
"""Looks at the keepalive in one interval: a ping goes out within 4/3 of it, and brokers wait for 3/2."""


class UnsupportedVersionError(Exception):
    """The broker does not speak MQTT 5."""


@dataclass(frozen=True, slots=True)
class Login:
    """As whom, and how, a client connects."""

    client_id: str
    username: str | None
    password: str | None
    will: Posting
    version: aiomqtt.ProtocolVersion


class BrokerClient(aiomqtt.Client):
    """One connection to the broker. `connect`, then anything else, then `close`, whatever happened."""

    def __init__(self, host: str, port: int, login: Login, clock: Clock) -> None:
        modern = login.version is aiomqtt.ProtocolVersion.V5
        session: dict[str, Any] = (
            {"clean_start": False, "properties": _wishes()} if modern else {"clean_session": False}
        )
        super().__init__(
            host,
            port,
            username=login.username,
            password=login.password,
            identifier=login.client_id,
            protocol=login.version,
            will=aiomqtt.Will(login.will.topic, login.will.payload, _QOS, login.will.retain),
            timeout=math.inf,  # `_answered` knows better
            keepalive=MQTT_KEEPALIVE_SECONDS,
            max_inflight_messages=MQTT_POSTINGS_OUT_MAX,
            logger=_unheard(),
            **session,
        )
        self.session_present = False
        self.ended: asyncio.Future[Trouble] = self._loop.create_future()
        """Done once the connection has ended, whoever ended it."""
        self.denied: Trouble | None = None
        """The last publication that the broker refused."""
        self.is_given_up = False
        """Whether it was this side that ended the connection."""
        self._modern = modern
        self._clock = clock
        self._messages: list[Message] = []
        self._unsettled = 0
        self._paused = False
        self._stirred = asyncio.Event()
        self._stalled = asyncio.Event()
        self._heard_at = self._loop.time()
        self._network_error: str | None = None
        self._client.manual_ack_set(on=True)
        self._client.on_log = self._on_log

    async def connect(self, stream: socket.socket) -> None:
        """Log in over a connected socket, which is this client's from now on.

        Raises `BrokerError` and `UnsupportedVersionError`.
        """
        self._client._create_socket = lambda: stream  # type: ignore[method-assign] # noqa: SLF001 (see above)
        self._client.connect(
            self._hostname,
            self._port,
            self._keepalive,
            clean_start=self._clean_start,
            properties=self._properties,
        )
        try:
            await self._wait_for(self._connected, timeout=MQTT_ANSWER_SECONDS_MAX)
        except aiomqtt.MqttCodeError as error:
            code = error.rc
            if not isinstance(code, ReasonCode):
                raise BrokerError(Trouble(str(error))) from error
            if code.value == _UNSUPPORTED_VERSION and self._modern:
                raise UnsupportedVersionError from error
            raise BrokerError(of_answer(code)) from error
        except aiomqtt.MqttError as error:
            raise BrokerError(of_silence("the connection")) from error

    def close(self) -> None:
        """Let go of the socket; without `disconnect` before, the broker says the last will."""
        self.abort(Trouble("closed here"))

    def abort(self, trouble: Trouble) -> None:
        """End the connection because of what is wrong with it."""
        self.is_given_up = self.is_given_up or not self.ended.done()
        self._finish(trouble)
        self._client._sock_close()  # noqa: SLF001 (see above)

    async def disconnect(self) -> None:
        """End the connection with a word: the broker keeps the session and drops the last will."""
        self._client.disconnect()
        await asyncio.wait({self.ended})

    # What comes in.

    async def take(self, subscription: str, outgrown: Sequence[str]) -> bool:
        """Subscribe. Returns whether QoS 1 was granted. Raises `BrokerError`."""
        about = "the subscription"
        try:
            if self.session_present:
                await self._answered(self.unsubscribe(list(outgrown)), about)
            # Retained results are old ones: not to be repeated at a subscription.
            options = SubscribeOptions(_QOS, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
            wanted: dict[str, Any] = {"options": options} if self._modern else {"qos": _QOS}
            codes = await self._answered(self.subscribe(subscription, **wanted), about)
        except aiomqtt.MqttError as error:
            raise self._unanswered(about) from error
        code = codes[0]
        if isinstance(code, ReasonCode) and code.is_failure:
            raise BrokerError(of_subscription(code, subscription))
        return bool(code == _QOS)

    async def arrivals(self) -> list[Message]:
        """What has arrived, in its order; nothing only once the connection has ended and all is handed out."""
        while not self._messages and not self.ended.done():
            self._stirred.clear()
            await self._stirred.wait()
        arrived, self._messages = self._messages, []
        return arrived

    def settle(self, messages: Sequence[Message]) -> None:
        """Acknowledge, in the order of arrival. On a connection that has ended it does nothing."""
        for message in messages:
            self._client.ack(message.packet_id, message.qos)
        self._unsettled -= len(messages)
        if self._paused and self._unsettled <= MQTT_IN_FLIGHT_MAX and not self.ended.done():
            self._paused = False
            self._stalled.clear()
            self._heard_at = self._loop.time()
            if (stream := self._client.socket()) is not None:
                self._loop.add_reader(stream, self._read)
                self._loop.call_soon(self._read)  # TLS may have decrypted what no event tells of

    async def while_it_reads(self, something: Coroutine[Any, Any, object]) -> None:
        """Wait for something that the broker's confirmations bring about; not once nothing is read any more."""
        await race(something, self._stalled.wait())

    # What goes out.

    async def post(self, postings: Sequence[Posting]) -> None:
        """Publish in this order; returns once the broker has confirmed them all. Raises `BrokerError`."""
        about = "a publication"
        publications = [self.publish(each.topic, each.payload, _QOS, each.retain) for each in postings]
        try:
            await self._answered(asyncio.gather(*publications), about)
        except aiomqtt.MqttError as error:
            raise self._unanswered(about) from error

    def _unanswered(self, about: str) -> BrokerError:
        return BrokerError(self.ended.result() if self.ended.done() else of_silence(about))

    async def _answered(self, answer: Any, about: str) -> Any:
        """The answer. Raises `BrokerError` if the connection ends or falls silent before, and `aiomqtt.MqttError`."""
        waiting = asyncio.ensure_future(answer)
        asked_at = self._heard_at = self._loop.time()
        try:
            while not waiting.done():
                if self.ended.done():
                    raise BrokerError(self.ended.result())
                now = self._loop.time()
                if self._paused:
                    asked_at = self._heard_at = now
                silent = now - self._heard_at
                if silent >= MQTT_ANSWER_SECONDS_MAX:
                    raise BrokerError(of_silence(about))
                if now - asked_at >= MQTT_CONFIRMATION_SECONDS_MAX:
                    raise BrokerError(of_silence(about, MQTT_CONFIRMATION_SECONDS_MAX))
                await asyncio.wait(
                    {waiting, self.ended},
                    timeout=MQTT_ANSWER_SECONDS_MAX - silent,
                    return_when=asyncio.FIRST_COMPLETED,
                )
            return waiting.result()
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    # What paho calls, always in the event loop's thread.

    def _on_connect(
        self,
        client: paho.Client,
        userdata: Any,
        flags: paho.ConnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        self.session_present = flags.session_present
        window = getattr(properties, "ReceiveMaximum", MQTT_POSTINGS_OUT_MAX)
        # What the broker takes at a time; paho does not look at it, and aiomqtt's own bound is a semaphore.
        self._outgoing_calls_sem = asyncio.Semaphore(min(window, MQTT_POSTINGS_OUT_MAX))
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_disconnect(
        self,
        client: paho.Client,
        userdata: Any,
        flags: paho.DisconnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        del client, userdata, flags, properties
        self._finish(of_end(reason_code, self._network_error, answered=self._connected.done()))

    def _finish(self, trouble: Trouble) -> None:
        if not self._connected.done():
            self._connected.set_exception(BrokerError(trouble))
            self._connected.exception()  # whoever awaits it gets it; nobody need
        if not self.ended.done():
            self.ended.set_result(trouble)
        self._stirred.set()
        self._stalled.set()

    def _on_message(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        del userdata
        self._messages.append(
            Message(
                topic=message.topic,
                payload=bytes(message.payload[:MQTT_PAYLOAD_BYTES_MAX]),
                size_bytes=len(message.payload),
                qos=message.qos,
                packet_id=message.mid,
                duplicate=message.dup,
                retained=message.retain,
                arrived=self._clock.now(),
            )
        )
        self._unsettled += 1
        if self._unsettled > MQTT_IN_FLIGHT_MAX:
            self._paused = True
            self._stalled.set()
            if (stream := client.socket()) is not None:
                self._loop.remove_reader(stream)
        self._stirred.set()

    def _on_publish(
        self, client: paho.Client, userdata: Any, mid: int, reason_code: ReasonCode, properties: Properties
    ) -> None:
        if reason_code.is_failure:
            self.denied = of_publication(reason_code)
        super()._on_publish(client, userdata, mid, reason_code, properties)

    def _on_log(self, client: paho.Client, userdata: Any, level: int, text: str) -> None:
        del client, userdata
        if level == LogLevel.MQTT_LOG_ERR:
            self._network_error = text

    def _on_socket_open(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        del client, userdata
        self._loop.add_reader(sock, self._read)
        self._misc_task = self._loop.create_task(self._misc_loop())

    def _on_socket_register_write(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        del client, userdata
        self._loop.add_writer(sock, self._write)

    def _read(self) -> None:
        self._heard_at = self._loop.time()
        try:
            while not self._paused and self._client.socket() is not None:
                before = self._unsettled
                self._client.loop_read()
                if not self._has_more() and self._unsettled == before:
                    break
        except Exception as error:  # noqa: BLE001 (whatever the broker sent that paho chokes on)
            self.abort(
                Trouble(f"the broker sent what cannot be read: {error!r}", "report it, and which broker it is")
            )

    def _has_more(self) -> bool:
        """Whether TLS has decrypted more than was read, which no event of the socket would tell."""
        size = self._client._in_packet["remaining_length"]  # noqa: SLF001 (see above)
        if size > MQTT_PACKET_BYTES_MAX:
            hint = "let the broker drop the message, and limit what may be published (mosquitto: max_packet_size)"
            self.abort(
                Trouble(f"the broker sends a packet of {size} bytes; at most {MQTT_PACKET_BYTES_MAX}", hint)
            )
            return False
        stream = self._client.socket()
        pending = getattr(stream, "pending", None)
        return pending is not None and pending() > 0

    def _write(self) -> None:
        try:
            self._client.loop_write()
        except Exception as error:  # noqa: BLE001 (as in _read)
            self.abort(Trouble(f"nothing can be sent: {error!r}"))

    async def _misc_loop(self) -> None:
        while self._client.loop_misc() == paho.MQTT_ERR_SUCCESS:  # noqa: ASYNC110 (time is what it looks at)
            await asyncio.sleep(max(1.0, self._client.keepalive / _KEEPALIVE_LOOKS))


def _wishes() -> Properties:
    """What MQTT 5 lets a client ask for."""
    wishes = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call] # paho's
    wishes.SessionExpiryInterval = MQTT_SESSION_SECONDS
    wishes.ReceiveMaximum = MQTT_RECEIVE_MAX
    wishes.MaximumPacketSize = MQTT_PACKET_BYTES_MAX
    return wishes


def _unheard() -> logging.Logger:
    """What paho and aiomqtt would log of a connection is in the `Trouble` that it ends with."""
    logger = logging.getLogger(__name__)
    logger.disabled = True
    return logger
