"""The instance metadata service, version 2 (IMDSv2): which instance this is, from within.

Rules:
  * A token first (PUT), then the identity document with it (GET). Version 1 is never spoken.
  * Never through a proxy: the service answers at a link-local address, to this machine alone.
  * Bounded: each request, the attempts at what may pass (a lost packet, a network still coming up), what is read.
    What the service has answered is not asked again.
  * An error says what was met and what would mend it.

The SDK's own fetcher is not used: its methods are private, it falls back to version 1, sends the question through
a proxy where one is set, and ends whatever it met in one error without a reason, which is what an operator needs.

Source: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html; the
variables are those of https://docs.aws.amazon.com/sdkref/latest/guide/feature-imds-credentials.html.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import aiohttp
import msgspec

from ssm_status_reporter.config.errors import UnacceptableError
from ssm_status_reporter.config.texts import endpoint_url, without_credentials
from ssm_status_reporter.domain.limits import (
    METADATA_ATTEMPTS_MAX,
    METADATA_BYTES_MAX,
    METADATA_PAUSE_MS,
    METADATA_TIMEOUT_MS,
)
from ssm_status_reporter.ports import Clock

ENDPOINT: Final = "http://169.254.169.254"
ENDPOINT_IPV6: Final = "http://[fd00:ec2::254]"
TOKEN_PATH: Final = "/latest/api/token"  # noqa: S105 - where it is to be had
DOCUMENT_PATH: Final = "/latest/dynamic/instance-identity/document"
TTL_SECONDS: Final = 60
"""The token is used once, at once."""

_TOKEN: Final = re.compile(rb"[\x21-\x7e]+")
_NO_INSTANCE: Final = (
    "this machine is no EC2 instance, or a firewall or its network namespace keeps the service away"
)


class NoMetadataError(Exception):
    """The service told nothing; the message says why, and what would mend it where something would."""


class Document(msgspec.Struct, frozen=True):
    """The identity document, as far as it is of interest."""

    instance_id: str = msgspec.field(name="instanceId", default="")
    region: str = ""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes


class _PassingError(Exception):
    """No answer came, which may be different the next time."""


def endpoint(environment: Mapping[str, str]) -> str:
    """Where the service is, without a slash at the end."""
    named = environment.get("AWS_EC2_METADATA_SERVICE_ENDPOINT")
    if named:
        return named.rstrip("/")
    ipv6 = environment.get("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "").lower() == "ipv6"
    return ENDPOINT_IPV6 if ipv6 else ENDPOINT


async def identity_document(environment: Mapping[str, str], clock: Clock) -> Document:
    """The identity document of the instance this runs on. Raises `NoMetadataError`."""
    if environment.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        raise NoMetadataError("the instance metadata service was not asked: AWS_EC2_METADATA_DISABLED is true")
    url = endpoint(environment)
    try:
        endpoint_url(url)
    except UnacceptableError as error:
        raise NoMetadataError(
            f"AWS_EC2_METADATA_SERVICE_ENDPOINT {error}: {without_credentials(url)}"
            + (f" ({error.hint})" if error.hint else "")
        ) from error
    # Half of it for connecting, so that nobody there is told apart from somebody who does not answer.
    timeout = aiohttp.ClientTimeout(total=METADATA_TIMEOUT_MS / 1000, sock_connect=METADATA_TIMEOUT_MS / 2000)
    # trust_env=False: no proxy.
    async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:

        async def token() -> _Answer:
            return await _exchange(
                session, "PUT", url, TOKEN_PATH, {"X-aws-ec2-metadata-token-ttl-seconds": str(TTL_SECONDS)}
            )

        granted = _token(url, await _persistently(token, clock))

        async def document() -> _Answer:
            return await _exchange(session, "GET", url, DOCUMENT_PATH, {"X-aws-ec2-metadata-token": granted})

        return _document(url, await _persistently(document, clock))


async def _persistently(ask: Callable[[], Awaitable[_Answer]], clock: Clock) -> _Answer:
    for attempt in range(1, METADATA_ATTEMPTS_MAX + 1):
        try:
            return await ask()
        except _PassingError as error:
            if attempt == METADATA_ATTEMPTS_MAX:
                raise NoMetadataError(f"{error} ({attempt} attempts)") from error
        await clock.sleep_until(clock.now().steady_ms + METADATA_PAUSE_MS)
    raise AssertionError("the last attempt returns or raises")


async def _exchange(
    session: aiohttp.ClientSession, method: str, url: str, path: str, headers: Mapping[str, str]
) -> _Answer:
    """One request. Raises `_PassingError`."""
    where = f"the instance metadata service at {url}"
    try:
        async with session.request(method, url + path, headers=headers, allow_redirects=False) as response:
            return _Answer(response.status, await _body(response.content))
    except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError) as error:
        reason = (
            f"no connection within {METADATA_TIMEOUT_MS // 2} ms"
            if isinstance(error, TimeoutError)
            else error.strerror or str(error)
        )
        raise _PassingError(f"{where} cannot be reached: {reason}: {_NO_INSTANCE}") from error
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        raise _PassingError(
            f"{where} took the connection and gave no answer to {method} {path} within {METADATA_TIMEOUT_MS} ms "
            "or closed it: in a container the answer comes no further than the instance's HttpPutResponseHopLimit, "
            "which must be raised to 2 (aws ec2 modify-instance-metadata-options --http-put-response-hop-limit 2)"
        ) from error


async def _body(content: aiohttp.StreamReader) -> bytes:
    body = b""
    while len(body) < METADATA_BYTES_MAX and (part := await content.read(METADATA_BYTES_MAX)):
        body += part
    return body


def _token(url: str, answer: _Answer) -> str:
    """The token in the answer to the PUT."""
    where = f"the instance metadata service at {url}"
    match answer.status:
        case HTTPStatus.OK:
            if _TOKEN.fullmatch(answer.body) is None:
                raise NoMetadataError(f"{where} gave a malformed token: what answers there is another service")
            return answer.body.decode()
        case HTTPStatus.FORBIDDEN:
            raise NoMetadataError(
                f"{where} refuses (403): it is disabled on this instance; enable it "
                "(aws ec2 modify-instance-metadata-options --http-endpoint enabled)"
            )
        case HTTPStatus.NOT_FOUND | HTTPStatus.METHOD_NOT_ALLOWED:
            raise NoMetadataError(
                f"{where} has no tokens ({answer.status}): what answers there is not IMDSv2; {_NO_INSTANCE}"
            )
        case other:
            raise NoMetadataError(f"{where} answered {other} to the question for a token")


def _document(url: str, answer: _Answer) -> Document:
    where = f"the instance metadata service at {url}"
    if answer.status != HTTPStatus.OK:
        raise NoMetadataError(f"{where} answered {answer.status} to the question for the identity document")
    try:
        return msgspec.json.decode(answer.body, type=Document)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NoMetadataError(f"{where} gave a malformed identity document: {error}") from error
