"""The way to the broker: a connected socket, TLS included, without ever blocking the event loop.

Rules:
  * Bounded as a whole by `MQTT_DIAL_SECONDS_MAX`, and cancelled at any moment without leaving a socket behind.
  * Password, certificate and key are read anew for each connection: what was rotated is taken up.

aiomqtt would connect in a thread of the pool that name look-ups share, which nothing cancels.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ssm_status_reporter.config import Mqtt, Tls
from ssm_status_reporter.domain.limits import MQTT_DIAL_SECONDS_MAX
from ssm_status_reporter.sources.mqtt_trouble import BrokerError, of_dialling, of_file, of_handshake

PASSWORD_BYTES_MAX: Final = 65_535
"""The protocol's own bound."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What proves to each side who the other is."""

    password: str | None
    tls: ssl.SSLContext | None


def read_credentials(mqtt: Mqtt) -> Credentials:
    """What the configuration names. Blocks for the time of reading. Raises `BrokerError`."""
    password = None if mqtt.password_file is None else _password(mqtt.password_file)
    return Credentials(password, None if mqtt.tls is None else _context(mqtt.tls))


async def dial(host: str, port: int, tls: ssl.SSLContext | None) -> socket.socket:
    """A connected socket, non-blocking. Raises `BrokerError`."""
    try:
        async with asyncio.timeout(MQTT_DIAL_SECONDS_MAX):
            stream = await _connected(host, port)
            if tls is None:
                return stream
            try:
                return await _secured(stream, tls, host.rstrip("."))
            except OSError as error:
                raise BrokerError(of_handshake(error)) from error
    except OSError as error:  # TimeoutError is one
        raise BrokerError(of_dialling(error)) from error


def _password(path: Path) -> str:
    key = "sources.mqtt.password_file"
    try:
        with path.open("rb") as file:
            content = file.read(PASSWORD_BYTES_MAX + 2)
        password = content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise BrokerError(of_file(key, ValueError("is not UTF-8"))) from None  # its text would quote the content
    except OSError as error:
        raise BrokerError(of_file(key, error)) from error
    if not password or len(content) > PASSWORD_BYTES_MAX:
        raise BrokerError(of_file(key, ValueError("is too large" if password else "is empty")))
    return password


def _context(tls: Tls) -> ssl.SSLContext:
    key = "sources.mqtt.tls.ca_file"
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
        if tls.cert_file is not None:
            key = "sources.mqtt.tls.cert_file or key_file"
            context.load_cert_chain(tls.cert_file, tls.key_file, password=_no_passphrase)
    except OSError as error:  # ssl.SSLError is one
        raise BrokerError(of_file(key, error)) from error
    return context


def _no_passphrase() -> str:
    """Instead of asking on the terminal."""
    return ""


async def _connected(host: str, port: int) -> socket.socket:
    """The first address that answers. Raises OSError."""
    loop = asyncio.get_running_loop()
    addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    failure: OSError = socket.gaierror(socket.EAI_NONAME, "no address")
    for family, kind, protocol, _, address in addresses:
        with contextlib.ExitStack() as stack:
            try:
                stream = stack.enter_context(socket.socket(family, kind, protocol))
                stream.settimeout(0)
                async with asyncio.timeout(MQTT_DIAL_SECONDS_MAX / len(addresses)):
                    await loop.sock_connect(stream, address)
            except OSError as error:
                failure = error
                continue
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stack.pop_all()
            return stream
    raise failure


async def _secured(stream: socket.socket, tls: ssl.SSLContext, host: str) -> socket.socket:
    """The same connection after the TLS handshake. Raises OSError."""
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        stack.callback(stream.close)
        secured = tls.wrap_socket(stream, server_hostname=host, do_handshake_on_connect=False)
        stack.callback(secured.close)
        while True:
            try:
                secured.do_handshake()
            except ssl.SSLWantReadError:
                await _ready(secured, loop.add_reader, loop.remove_reader)
            except ssl.SSLWantWriteError:
                await _ready(secured, loop.add_writer, loop.remove_writer)
            else:
                stack.pop_all()
                return secured


async def _ready(
    stream: socket.socket, add: Callable[..., object], remove: Callable[[socket.socket], object]
) -> None:
    """Wait until the socket is ready for what ``add`` and ``remove`` stand for."""
    ready = asyncio.get_running_loop().create_future()
    add(stream, _mark, ready)
    try:
        await ready
    finally:
        remove(stream)


def _mark(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)
