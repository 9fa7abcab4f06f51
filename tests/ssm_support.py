"""A scripted stand-in for the service over real HTTP, and what tests of the SSM client share.

Each connection is served by hand, so that a script may do what no HTTP library offers: hang, reset, cut a body.
"""

import asyncio
import json
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any, Final

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials

from ssm_status_reporter.domain.association import Association
from ssm_status_reporter.domain.report import Report
from ssm_status_reporter.domain.time import Now
from ssm_status_reporter.ssm.reply import Reply
from ssm_status_reporter.ssm.settings import ClientSettings

REGION: Final = "eu-central-1"
NODE: Final = Association("i-0123456789abcdef0", "Deploy-Web")
NOW_MS: Final = 1_795_000_000_355
WAIT_SECONDS_MAX: Final = 120.0
"""What ends a test that would hang."""
REPORT: Final = Report("Success", "all steps done", '{"run":1}', NOW_MS - 1000)
SECRET: Final = "made-up"
TOKEN: Final = "made-up-token"
REQUEST_ID: Final = "7a3c1f52-0000-4000-8000-5f0e6a1b2c3d"

Script = Callable[[asyncio.StreamWriter], Awaitable[None]]
"""How one request is answered."""


class SetClock:
    """A clock that stands where a test puts it."""

    def __init__(self, wall_ms: int = NOW_MS) -> None:
        self.wall_ms = wall_ms

    def now(self) -> Now:
        return Now(self.wall_ms, self.wall_ms)

    async def sleep_until(self, steady_ms: int) -> None:
        self.wall_ms = max(self.wall_ms, steady_ms)


@dataclass(frozen=True)
class Request:
    """A call as the service saw it."""

    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def access_key(self) -> str:
        return self.headers["authorization"].partition("Credential=")[2].partition("/")[0]

    def signed_by(self, access_key: str, secret_key: str, token: str | None = None) -> bool:
        """Whether the signature is right, at the time that the call itself names."""
        again = AWSRequest(
            method="POST",
            url=f"http://{self.headers['host']}/",
            data=self.body,
            headers={name: self.headers[name] for name in ("content-type", "x-amz-target")},
        )
        signer = _SignerAt(ReadOnlyCredentials(access_key, secret_key, token), "ssm", REGION)
        signer.at = self.headers["x-amz-date"]
        signer.add_auth(again)
        return bool(again.headers["Authorization"] == self.headers["authorization"])


class _SignerAt(SigV4Auth):  # type: ignore[misc]  # botocore is untyped
    at = ""

    def _modify_request_before_signing(self, request: Any) -> None:
        request.context["timestamp"] = self.at
        super()._modify_request_before_signing(request)


@dataclass
class Service:
    """A service that answers by script, in order; the last script is used for ever."""

    scripts: list[Script]
    url: str = ""
    requests: list[Request] = field(default_factory=list)
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)
    connections: int = 0

    async def wait_for_requests(self, count: int) -> None:
        """Return once so many requests have arrived; bounded."""
        async with asyncio.timeout(WAIT_SECONDS_MAX), self.arrived:
            await self.arrived.wait_for(lambda: len(self.requests) >= count)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode("latin-1").split("\r\n")[1:-2]
                headers = {
                    name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
                }
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                async with self.arrived:
                    self.requests.append(Request(headers, body))
                    self.arrived.notify_all()
                script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
                await script(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client went away, as clients do
        finally:
            writer.close()


@asynccontextmanager
async def service(*scripts: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[Service]:
    """A scripted service on a free port of the loopback interface."""
    scripted = Service(list(scripts))
    serving: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(scripted.serve(reader, writer))
        serving.add(task)
        task.add_done_callback(serving.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    scripted.url = f"http{'s' if tls else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield scripted
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


def answer(
    status: int, body: bytes, headers: Mapping[str, str] | None = None, *, length: int | None = None
) -> Script:
    """A whole reply; with ``length``, one that promises another size and is then cut off."""

    async def script(writer: asyncio.StreamWriter) -> None:
        given = {"Content-Length": str(len(body) if length is None else length), **(headers or {})}
        lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in given.items())]
        writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
        await writer.drain()
        if length is not None:
            writer.close()

    return script


def described(status: Mapping[str, Any] | None = None, *, date_ms: int | None = NOW_MS) -> Script:
    """200 with a description that holds ``status``."""
    description: dict[str, Any] = {"Name": NODE.document, "InstanceId": NODE.instance_id}
    if status is not None:
        description["Status"] = dict(status)
    return answer(200, json.dumps({"AssociationDescription": description}).encode(), service_headers(date_ms))


def error(code: str, message: str = "no", *, status: int = 400, date_ms: int | None = NOW_MS) -> Script:
    """An error as the service writes it."""
    return answer(status, error_body(code, message), service_headers(date_ms))


def error_body(code: str, message: str = "no") -> bytes:
    """The body of such an error."""
    return json.dumps({"__type": code, "message": message}).encode()


def service_headers(date_ms: int | None = NOW_MS) -> dict[str, str]:
    """The headers the service puts on every reply."""
    headers = {"Content-Type": "application/x-amz-json-1.1", "x-amzn-RequestId": REQUEST_ID}
    return headers if date_ms is None else {**headers, "Date": formatdate(date_ms / 1000, usegmt=True)}


def reply(status: int, body: bytes = b"", *, correction_ms: int = 0, **headers: str) -> Reply:
    """A reply as the pure part takes it, received at ``NOW_MS``; underscores in names stand for hyphens."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, given, body, NOW_MS, correction_ms)


def http_date(wall_ms: int) -> str:
    return formatdate(wall_ms / 1000, usegmt=True)


async def hang(_: asyncio.StreamWriter) -> None:
    """Never answer."""
    await asyncio.Event().wait()


async def close(writer: asyncio.StreamWriter) -> None:
    """Close without a word."""
    writer.close()


async def reset(writer: asyncio.StreamWriter) -> None:
    """Reset the connection (RST)."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def when(released: asyncio.Event, then: Script) -> Script:
    """Answer only once a test says so."""

    async def script(writer: asyncio.StreamWriter) -> None:
        await released.wait()
        await then(writer)

    return script


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def bare_environment(monkeypatch: pytest.MonkeyPatch, home: Path) -> Path:
    """No SDK configuration but the test's own; returns where the shared credentials file would be."""
    for name in [name for name in os.environ if name.startswith("AWS_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(home / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(home / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return home / "credentials"


def settings(
    url: str | None, *, timeout_ms: int = 60_000, profile: str | None = None, ca_bundle: Path | None = None
) -> ClientSettings:
    return ClientSettings(REGION, url, profile, ca_bundle, timeout_ms, 4)


def write_keys(path: Path, access_key: str, *, profile: str = "default") -> None:
    """Write a shared credentials file as the SSM Agent does: in place, one write."""
    write(
        path,
        f"[{profile}]\naws_access_key_id = {access_key}\naws_secret_access_key = {SECRET}\n"
        f"aws_session_token = {TOKEN}\n",
    )


def write(path: Path, text: str) -> None:
    """Write a file in place."""
    path.write_text(text)


def remove(path: Path) -> None:
    """Delete a file."""
    path.unlink()
