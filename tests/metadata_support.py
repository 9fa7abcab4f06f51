"""An instance metadata service as EC2's: version 2 alone, tokens with a lifetime, role keys, the identity document.

Over real HTTP on the loopback interface. What it does to the question for a token is the test's to choose: grant it,
never answer (the hop limit of a container), close, refuse as a disabled one does.

Source: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html
"""

import asyncio
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import Enum
from itertools import count
from typing import Final, Self

from aiohttp import web

INSTANCE: Final = "i-0fedcba9876543210"
INSTANCE_REGION: Final = "ap-southeast-2"
ROLE: Final = "status-reporter-role"
TTL_SECONDS_MAX: Final = 21_600
ROLES_PATH: Final = "/latest/meta-data/iam/security-credentials/"
DOCUMENT: Final = {
    "accountId": "123456789012",
    "architecture": "x86_64",
    "availabilityZone": "ap-southeast-2b",
    "imageId": "ami-0abcdef1234567890",
    "instanceId": INSTANCE,
    "instanceType": "t3.micro",
    "pendingTime": "2026-11-20T08:00:00Z",
    "privateIp": "10.0.0.5",
    "region": INSTANCE_REGION,
    "version": "2017-09-30",
}


class Token(Enum):
    """What becomes of the question for a token."""

    GRANTED = "granted"
    NEVER_ANSWERED = "never answered"
    CLOSED = "closed"
    DISABLED = "disabled"
    UNKNOWN = "unknown"
    MALFORMED = "malformed"


def keys(access_key: str, lifetime: timedelta = timedelta(hours=6)) -> dict[str, str]:
    """A role's keys as the service gives them."""
    now = datetime.now(UTC)
    return {
        "Code": "Success",
        "LastUpdated": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        "Type": "AWS-HMAC",
        "AccessKeyId": access_key,
        "SecretAccessKey": "made-up",
        "Token": f"token-of-{access_key}",
        "Expiration": f"{now + lifetime:%Y-%m-%dT%H:%M:%SZ}",
    }


class Metadata:
    """The service. ``token`` may be a list: one answer a question, the last one for ever."""

    url: str

    def __init__(self, *token: Token, document: bytes | None = None) -> None:
        self._answers = list(token) or [Token.GRANTED]
        self.document = json.dumps(DOCUMENT, indent=2).encode() if document is None else document
        self.role_keys: Callable[[], dict[str, str]] | None = None
        """The keys of the instance's role, made at each request; None: no role is attached."""
        self.asked: list[str] = []
        """Every request, such as ``GET /latest/…``."""
        self._tokens: dict[str, float] = {}
        self._numbers = count()

    async def __aenter__(self) -> Self:
        self._http = web.Server(self._serve, handler_cancellation=True, access_log=None)
        self._listener = await asyncio.get_running_loop().create_server(self._http, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        await self._http.shutdown(0.01)
        await self._listener.wait_closed()

    @property
    def environment(self) -> dict[str, str]:
        """What makes a process ask this service."""
        return {"AWS_EC2_METADATA_SERVICE_ENDPOINT": self.url, "AWS_EC2_METADATA_DISABLED": "false"}

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path}")
        if request.method == "PUT" and request.path == "/latest/api/token":
            return await self._token(request)
        if self._tokens.get(request.headers.get("X-aws-ec2-metadata-token", ""), 0.0) < time.monotonic():
            return web.Response(status=401)
        match request.path:
            case "/latest/dynamic/instance-identity/document":
                return web.Response(body=self.document, content_type="text/plain")
            case path if self.role_keys is not None and path == ROLES_PATH:
                return web.Response(text=ROLE)
            case path if self.role_keys is not None and path == f"{ROLES_PATH}{ROLE}":
                return web.Response(text=json.dumps(self.role_keys()))
        return web.Response(status=404)

    async def _token(self, request: web.BaseRequest) -> web.StreamResponse:
        match self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]:
            case Token.NEVER_ANSWERED:
                await asyncio.Event().wait()
            case Token.CLOSED:
                assert request.transport is not None
                request.transport.abort()
            case Token.DISABLED:
                return web.Response(status=403)
            case Token.UNKNOWN:
                return web.Response(status=404, text="<html>no such page</html>")
            case Token.MALFORMED:
                return web.Response(text="<html>welcome to this network</html>")
        lifetime = request.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        if not lifetime.isdecimal() or not 1 <= int(lifetime) <= TTL_SECONDS_MAX:
            return web.Response(status=400)
        if "X-Forwarded-For" in request.headers:
            return web.Response(status=403)
        token = f"AQAE{next(self._numbers)}=="
        self._tokens[token] = time.monotonic() + int(lifetime)
        return web.Response(text=token, headers={"X-aws-ec2-metadata-token-ttl-seconds": lifetime})
