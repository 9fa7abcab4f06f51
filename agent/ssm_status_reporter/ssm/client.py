"""The call: UpdateAssociationStatus and DescribeAssociation over aiobotocore, one attempt each.

Rules:
  * Nothing is raised for what the service, the network or the machine's set-up answers; each is an outcome. Only
    cancellation and programming errors pass.
  * The SDK's retries are off, its connections bounded; ``timeout_ms`` bounds the whole call, the loading of
    credentials included. Connecting gets half of it, so that what was never sent is told apart from what was sent
    and not answered.
  * Signing is ours, by the SDK's own hooks and signer: `Credentials` brings the keys and the clock the time, so
    that renewed keys and a corrected clock reach the next call without a new client; calls in flight keep theirs.
  * When the service refuses the time of a call, its Date header tells the skew, and the next signature is
    corrected by it. While a correction is in force every reply measures it anew, and drops it once the clock is
    right.
  * The reply is read here (``answer.py``), as bytes: the SDK's parser takes a cut body for a success and raises on
    a list, and reading three members costs a tenth of what parsing forty does.
"""

import asyncio
import time
from typing import Any, Final, Self

import aiohttp
import structlog
from botocore.auth import SIGV4_TIMESTAMP
from botocore.exceptions import (
    BotoCoreError,
    ConfigParseError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    ProfileNotFound,
    ProxyConnectionError,
    SSLError,
)

from ssm_status_reporter.domain.association import Association
from ssm_status_reporter.domain.limits import CLOCK_SKEW_MS_TOLERATED
from ssm_status_reporter.domain.outcome import Answer, Failure, Outcome, Problem, Scope, Withheld
from ssm_status_reporter.domain.report import Report
from ssm_status_reporter.ports import Clock
from ssm_status_reporter.ssm.answer import Break, broken_off, describe_answer, update_outcome
from ssm_status_reporter.ssm.codes import Operation
from ssm_status_reporter.ssm.credentials import SDK_FAILURES, Credentials, NoKeysError
from ssm_status_reporter.ssm.reply import Reply, skew_ms
from ssm_status_reporter.ssm.request import describe_body, update_body
from ssm_status_reporter.ssm.settings import ClientSettings
from ssm_status_reporter.ssm.text import plain
from ssm_status_reporter.ssm.transport import OversizedReplyError, Transport

CREDENTIALS_HINT: Final = (
    "give this machine an instance role, or a shared credentials file that the daemon's user may read "
    "(AWS_SHARED_CREDENTIALS_FILE, aws.profile); they are looked for again by themselves"
)

log = structlog.get_logger()


class SsmClient:
    """The SSM API, as ``ports.StatusService``. To be closed; opens itself at the first call."""

    def __init__(self, settings: ClientSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._credentials = Credentials(settings.profile)
        self._correction_ms = 0
        self._last_reply: Reply | None = None
        self._transport: Transport | None = None
        self._opening = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. Calls in flight end as calls whose connection was lost."""
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.close()

    async def update(self, association: Association, report: Report) -> Outcome:
        """One UpdateAssociationStatus, without retries."""
        reply = await self._exchange(Operation.UPDATE, update_body(association, report))
        if not isinstance(reply, Reply):
            return reply
        outcome = update_outcome(reply, association)
        self._follow_clock(reply, outcome)
        return outcome

    async def describe(self, association: Association) -> Answer:
        """One DescribeAssociation, without retries."""
        reply = await self._exchange(Operation.DESCRIBE, describe_body(association))
        if not isinstance(reply, Reply):
            return reply
        answer = describe_answer(reply, association)
        self._follow_clock(reply, answer)
        return answer

    async def reload_credentials(self) -> None:
        """Drop the credentials in use; the next call loads them afresh. Calls in flight are not touched."""
        self._credentials.refuse()

    @property
    def credentials(self) -> Credentials:
        """The keys, for who wants to know where they come from."""
        return self._credentials

    def measured_skew_ms(self) -> int | None:
        """How far the service's clock was ahead of ours at the last reply; None before one, or without a date."""
        return None if self._last_reply is None else skew_ms(self._last_reply)

    async def _exchange(self, operation: Operation, body: bytes) -> Reply | Failure:
        transport: Transport | None = None
        try:
            async with asyncio.timeout(self._settings.timeout_ms / 1000):
                ready = await self._ready()
                if isinstance(ready, Withheld):
                    return ready
                transport, keys = ready
                # Nothing between here and the signature suspends: what is read here is what signs.
                correction_ms = self._correction_ms
                timestamp = time.strftime(
                    SIGV4_TIMESTAMP, time.gmtime((self._clock.now().wall_ms + correction_ms) // 1000)
                )
                raw = await transport.exchange(operation, body, keys, timestamp)
        except TimeoutError:
            if transport is None:
                detail = "no credentials came within the call's timeout"
                return _withheld(Scope.CREDENTIALS, "CredentialsTimeout", detail)
            return broken_off(Break.TIMEOUT, f"no reply within {self._settings.timeout_ms} ms", operation)
        except OversizedReplyError as error:
            return broken_off(Break.OVERSIZED, str(error), operation)
        except BotoCoreError as error:
            kind = _break(error)
            return _unusable(error) if kind is None else broken_off(kind, _detail(error), operation)
        reply = Reply(raw.status, raw.headers, raw.body, self._clock.now().wall_ms, correction_ms)
        self._last_reply = reply
        return reply

    async def _ready(self) -> tuple[Transport, Any] | Withheld:
        """What a call needs: the transport, and the keys that sign it."""
        try:
            return self._transport or await self._opened(), await self._credentials.keys()
        except NoKeysError as error:
            return _withheld(Scope.CREDENTIALS, error.code, str(error))
        except OSError as error:
            return _unreadable(error)
        except SDK_FAILURES as error:
            return _unusable(error)

    async def _opened(self) -> Transport:
        async with self._opening:
            if self._transport is None:
                transport = Transport(self._settings)
                try:
                    await transport.open()
                except BaseException:
                    await transport.close()
                    raise
                self._transport = transport
            return self._transport

    def _follow_clock(self, reply: Reply, came: Outcome | Answer) -> None:
        """Measure the skew when the service refuses our time, and as long as it is being corrected."""
        refused = isinstance(came, Withheld) and came.scope is Scope.CLOCK
        if not refused and not self._correction_ms:
            return
        skew = skew_ms(reply)
        if skew is None:
            return
        correction_ms = skew if abs(skew) >= CLOCK_SKEW_MS_TOLERATED else 0
        if abs(correction_ms - self._correction_ms) >= CLOCK_SKEW_MS_TOLERATED:
            self._correction_ms = correction_ms
            log.warning("clock skew corrected", skew_seconds=round(correction_ms / 1000))


def _break(error: BotoCoreError) -> Break | None:
    """How the call was broken off; None when the SDK could not even start it."""
    cause = error.kwargs.get("error")
    match error:
        case ProxyConnectionError():
            return Break.PROXY
        case SSLError():
            return Break.TLS
        case ConnectTimeoutError():
            return Break.CONNECT_TIMEOUT
        case ConnectionClosedError():
            return Break.LOST
        case EndpointConnectionError():
            # The SDK says so too of a connection that broke in mid-call.
            return Break.CONNECTION if isinstance(cause, aiohttp.ClientConnectorError) else Break.LOST
        case HTTPClientError():
            if isinstance(cause, aiohttp.InvalidURL):
                return Break.CONNECTION
            # Outside aiohttp's own errors only the certificates are read from disk.
            certificates = isinstance(cause, OSError) and not isinstance(cause, aiohttp.ClientError)
            return Break.TLS if certificates else Break.LOST
    return None


def _detail(error: BotoCoreError) -> str:
    cause = error.kwargs.get("error") or error
    return f"{type(cause).__name__}: {cause}"


def _unusable(error: Exception) -> Withheld:
    """The SDK's settings in the environment or its configuration file cannot be used."""
    scope = Scope.CREDENTIALS if isinstance(error, ProfileNotFound | ConfigParseError) else Scope.ENDPOINT
    return _withheld(scope, type(error).__name__, str(error))


def _unreadable(error: OSError) -> Withheld:
    """The machine does not let the SDK read its files."""
    remedy = "let the daemon open its files: the limit of open files, the disk, their permissions"
    return Withheld(Scope.ENDPOINT, Problem("FilesUnreadable", plain(str(error)), None, remedy))


def _withheld(scope: Scope, code: str, detail: str) -> Withheld:
    settings = "check aws.*, the AWS_* environment variables and the SDK's configuration file (~/.aws/config)"
    remedy = CREDENTIALS_HINT if scope is Scope.CREDENTIALS else settings
    return Withheld(scope, Problem(code, plain(detail), None, remedy))
