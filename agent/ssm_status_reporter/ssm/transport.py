"""The transport: one signed exchange with the service, over the SDK's own connections.

Rules:
  * What is sent is what the SDK would send: when the transport opens, the SDK builds a request of each operation,
    and its hook ``before-send`` takes it before anything goes out. Address, headers, signing name and region are
    that request's; only the body, the date and the signature are each call's own.
  * Signing and sending are the SDK's: `SigV4Auth`, and the HTTP session that the SDK made by its configuration
    (proxies, certificates, timeouts). What lies between, the SDK does anew for every call, of parts that never
    change, for more than half of a call's CPU; what is signed but for the body, the date and the token, too.
  * The reply comes back as bytes, of a bounded number: who answers need not be the service. It is read here, for the
    SDK would read it whole, and what goes wrong meanwhile is raised as the SDK raises it.
"""

from collections.abc import Mapping
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, NamedTuple

import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import AioSession
from aiohttp.http_exceptions import HttpProcessingError
from botocore import UNSIGNED
from botocore.auth import EMPTY_SHA256_HASH, SigV4Auth
from botocore.awsrequest import AWSPreparedRequest, AWSRequest
from botocore.exceptions import ConnectionClosedError

from ssm_status_reporter import __version__
from ssm_status_reporter.domain.limits import REPLY_BYTES_MAX
from ssm_status_reporter.ssm.codes import Operation
from ssm_status_reporter.ssm.model import SERVICE, CutLoader
from ssm_status_reporter.ssm.settings import ClientSettings

_DATE: Final = "X-Amz-Date"
_SESSION: Final = "X-Amz-Security-Token"
_GAP: Final = "\0"
"""Stands for a value that is each call's own, where the SDK forms what is signed: no address or header holds it."""
_EACH_CALL_ITS_OWN: Final = frozenset({"content-length", "amz-sdk-invocation-id", "x-amz-date", "authorization"})
_PATTERN: Final[Mapping[Operation, Mapping[str, Any]]] = {
    Operation.UPDATE: {"InstanceId": "", "Name": "", "AssociationStatus": {}},
    Operation.DESCRIBE: {"InstanceId": "", "Name": ""},
}


class Raw(NamedTuple):
    """A reply as it came; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class _Form:
    """What is signed of every call of an operation, as the SDK puts it, around what is each call's own."""

    parts: tuple[str, ...]
    """What stands before the date, before the token if there is one, and before the body's digest."""
    signed_headers: str

    def canonical(self, date: str, token: str | None, body: bytes) -> str:
        """The canonical request of one call."""
        head, *rest = self.parts
        if token:
            between, tail = rest
            # White space as the SDK signs it, and as whoever verifies it does.
            return "".join((head, date, between, " ".join(token.split()), tail, sha256(body).hexdigest()))
        (tail,) = rest
        return "".join((head, date, tail, sha256(body).hexdigest()))


@dataclass(frozen=True, slots=True)
class _Template:
    url: str
    headers: Mapping[str, str]
    signing_name: str
    signing_region: str
    plain: _Form
    with_token: _Form

    def request(self, body: bytes, keys: Any, timestamp: str) -> AWSPreparedRequest:
        """The request of one call, signed."""
        form, headers = self.plain, {**self.headers, _DATE: timestamp}
        if keys.token:
            form = self.with_token
            headers[_SESSION] = keys.token
        canonical = form.canonical(timestamp, keys.token, body)
        request = AWSRequest()
        request.context["timestamp"] = timestamp  # all that the signer needs of it
        signer = SigV4Auth(keys, self.signing_name, self.signing_region)
        signature = signer.signature(signer.string_to_sign(request, canonical), request)
        headers["Authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={signer.scope(request)}, SignedHeaders={form.signed_headers}, "
            f"Signature={signature}"
        )
        return AWSPreparedRequest("POST", self.url, headers, body, stream_output=True)


class _TakenError(Exception):
    """Ends the SDK's call before it sends. Never leaves this module."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        super().__init__(url)
        self.url = url
        self.headers = headers


class OversizedReplyError(Exception):
    """More came than any reply of the service's is long; the message says of what."""


class Transport:
    """Open from `open` to `close`."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._resources = AsyncExitStack()
        self._session: Any = None
        self._signing: tuple[str, str] = ("", "")
        self._templates: dict[Operation, _Template] = {}

    async def open(self) -> None:
        """Let the SDK make what a call needs. Raises `SDK_FAILURES` for settings it cannot use."""
        client = await self._resources.enter_async_context(self._client())
        for operation, arguments in _PATTERN.items():
            call = (
                client.update_association_status if operation is Operation.UPDATE else client.describe_association
            )
            try:
                await call(**arguments)
            except _TakenError as taken:
                kept = {
                    name: value for name, value in taken.headers.items() if name.lower() not in _EACH_CALL_ITS_OWN
                }
                self._templates[operation] = _template(taken.url, kept, *self._signing)

    async def close(self) -> None:
        """Close the connections."""
        await self._resources.aclose()

    async def exchange(self, operation: Operation, body: bytes, keys: Any, timestamp: str) -> Raw:
        """One call, signed with ``keys`` at ``timestamp`` (`SIGV4_TIMESTAMP`).

        Raises HTTPClientError and its kin for what comes of the network, and `OversizedReplyError`.
        """
        response = await self._session.send(self._templates[operation].request(body, keys, timestamp))
        return Raw(response.status_code, response.headers, await _body(response.raw))

    def _client(self) -> Any:
        settings = self._settings
        session = AioSession(profile=settings.profile, include_builtin_handlers=False)
        session.register_component("data_loader", CutLoader())
        session.register("choose-signer.ssm", _unsigned)
        session.register("before-sign.ssm", self._note_signing)
        session.register("before-send.ssm", _take)
        config = AioConfig(
            http_session_cls=self._keep_session,
            retries={"total_max_attempts": 1, "mode": "standard"},
            connect_timeout=settings.timeout_ms / 1000 / 2,
            read_timeout=None,  # the caller bounds the whole call, and a timer for each part of a reply costs it 3 %
            max_pool_connections=settings.connections,
            # The domain has checked what the API takes, and the SDK checks next to nothing of it.
            parameter_validation=False,
            user_agent=f"ssm-status-reporter/{__version__} {session.user_agent_name}/{session.user_agent_version}",
            # Keeps the SDK from looking for credentials: each call brings its own keys.
            signature_version=UNSIGNED,
        )
        return session.create_client(
            SERVICE,
            region_name=settings.region,
            endpoint_url=settings.endpoint_url,
            verify=None if settings.ca_bundle is None else str(settings.ca_bundle),
            config=config,
        )

    def _keep_session(self, *arguments: Any, **options: Any) -> Any:
        """The SDK's session, made by the SDK's own reading of the configuration."""
        self._session = AIOHTTPSession(*arguments, **options)
        return self._session

    def _note_signing(self, signing_name: str, region_name: str, **_: object) -> None:
        self._signing = (signing_name, region_name)


def _template(url: str, headers: Mapping[str, str], signing_name: str, signing_region: str) -> _Template:
    signer = SigV4Auth(None, signing_name, signing_region)

    def form(*own: str) -> _Form:
        request = AWSRequest("POST", url, {**headers, **dict.fromkeys(own, _GAP)}, data=b"")
        canonical = signer.canonical_request(request).removesuffix(EMPTY_SHA256_HASH)
        return _Form(tuple(canonical.split(_GAP)), signer.signed_headers(signer.headers_to_sign(request)))

    return _Template(url, headers, signing_name, signing_region, form(_DATE), form(_DATE, _SESSION))


async def _body(reply: aiohttp.ClientResponse) -> bytes:
    """The reply's body. Its connection is kept once all has been read, and else closed."""
    body = bytearray()
    with closing(reply):
        try:
            while part := await reply.content.readany():
                body += part
                if len(body) > REPLY_BYTES_MAX:
                    raise OversizedReplyError(f"HTTP {reply.status} with more than {REPLY_BYTES_MAX} bytes")
        except (aiohttp.ClientError, HttpProcessingError, OSError) as error:
            raise ConnectionClosedError(endpoint_url=reply.url, error=error) from error
    return bytes(body)


def _unsigned(**_: object) -> object:
    """Hook: the SDK leaves the signing to us."""
    return UNSIGNED


def _take(request: Any, **_: object) -> None:
    """Hook: the request is built, and is not to be sent."""
    headers = {
        name: value.decode() if isinstance(value, bytes) else value for name, value in request.headers.items()
    }
    raise _TakenError(request.url, headers)
