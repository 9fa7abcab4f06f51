"""The emulator: the service behind HTTP, with the plan's faults in between and a ledger behind it.

Rules:
  * Every request gets a request id and one line in the ledger, whatever it meets.
  * Processing belongs to the service, not to the connection: a client that gives up does not undo it.
  * An update or deletion is under way for as long as its latency; another of the same association
    meanwhile is TooManyUpdates.
  * What is refused at the door (signature, shape, permission) is refused without latency.
"""

import asyncio
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from email.utils import formatdate
from functools import cache, lru_cache
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Self
from uuid import uuid4

import msgspec
from aiohttp import web

from ssm_status_reporter.domain.association import Association
from ssm_status_reporter.domain.report import Report
from ssm_status_reporter.domain.rfc3339 import date_text
from ssm_status_reporter.emulator.errors import ServiceError
from ssm_status_reporter.emulator.faults import FaultPlan, skew_ms
from ssm_status_reporter.emulator.injector import Injection, Injector
from ssm_status_reporter.emulator.ledger import Entry, Ledger
from ssm_status_reporter.emulator.model import DATE_S_MAX, DATE_S_MIN, Model, load_model
from ssm_status_reporter.emulator.reply import OUTAGE, Delivery, Reply, refusal, struck
from ssm_status_reporter.emulator.service import CONTENT_TYPE, Call, Service, read_call, text_or_none
from ssm_status_reporter.emulator.signature import access_key_id_of

LOCALHOST: Final = "127.0.0.1"
REQUEST_BYTES_MAX: Final = 1024 * 1024
"""A longer request body is refused."""
STOP_SECONDS_MAX: Final = 0.01
"""Connections get so long at the end: what hangs is to hang no longer."""
EXCLUSIVE: Final = frozenset({"UpdateAssociationStatus", "DeleteAssociation"})
"""Operations of which an association takes one at a time."""
CHANGING: Final = EXCLUSIVE | {"CreateAssociation"}
"""Operations that change what is held."""


def wall_clock_ms() -> int:
    """Milliseconds since 1970-01-01T00:00:00Z."""
    return time.time_ns() // 1_000_000


async def wall_clock_pause(ms: int) -> None:
    """Return so many milliseconds later."""
    await asyncio.sleep(ms / 1000)


class Emulator:
    """A local SSM endpoint: ``async with Emulator(plan) as emulator: … emulator.url``.

    ``clock`` gives wall milliseconds; ``pause`` passes so many of them, a latency; ``new_id`` gives request ids.
    Opening raises OSError if the address is in use or the ledger's file cannot be opened.
    """

    url: str
    """The endpoint's URL, known once it is open."""

    def __init__(
        self,
        plan: FaultPlan = FaultPlan(),  # noqa: B008 - frozen
        *,
        ledger_path: Path | None = None,
        host: str = LOCALHOST,
        port: int = 0,
        clock: Callable[[], int] = wall_clock_ms,
        pause: Callable[[int], Awaitable[object]] = wall_clock_pause,
        new_id: Callable[[], str] = lambda: str(uuid4()),
    ) -> None:
        self._clock = clock
        self._pause = pause
        self._new_id = new_id
        self._address = (host, port)
        self._ledger_path = ledger_path
        self._model = installed_model()
        self._service = Service(self._model, plan, clock())
        self._under_way: set[Association] = set()
        self._processing: set[asyncio.Task[Reply]] = set()
        self._recorded = asyncio.Event()
        self.faults = plan

    async def __aenter__(self) -> Self:
        self._ledger = Ledger(self._ledger_path)
        try:
            # A body is taken as it is sent: the service knows no compressed ones.
            self._http = web.Server(self._serve, handler_cancellation=True, access_log=None, auto_decompress=False)
            host, port = self._address
            self._listener = await asyncio.get_running_loop().create_server(self._http, host, port)
        except BaseException:
            self._ledger.close()
            raise
        bound = self._listener.sockets[0].getsockname()
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{bound[1]}"
        return self

    async def __aexit__(self, *_exc_info: object) -> None:
        self._listener.close()
        await self._http.shutdown(STOP_SECONDS_MAX)
        await self._listener.wait_closed()
        for task in self._processing:
            task.cancel()
        await asyncio.gather(*self._processing, return_exceptions=True)
        self._ledger.close()

    @property
    def faults(self) -> FaultPlan:
        """The plan in force. Setting one starts its sequences, buckets and outages afresh; what is held stays."""
        return self._plan

    @faults.setter
    def faults(self, plan: FaultPlan) -> None:
        now_ms = self._clock()
        self._plan = plan
        self._skew_ms = skew_ms(plan.clock_skew)
        self._injector = Injector(plan, now_ms)
        self._service.adopt(plan, now_ms + self._skew_ms)

    @property
    def ledger(self) -> Sequence[Entry]:
        """Every request that has ended, oldest first."""
        return self._ledger.entries()

    async def wait_for(
        self, enough: Callable[[Sequence[Entry]], bool], timeout_s: float = 60.0
    ) -> Sequence[Entry]:
        """Wait until the ledger satisfies ``enough``; raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while not enough(entries := self.ledger):
                self._recorded.clear()
                await self._recorded.wait()
        return entries

    def status_of(self, instance_id: str, document: str) -> Report | None:
        """The status held for an association, None if it has none or is not known."""
        held = self._service.associations.get(Association(instance_id, document))
        return None if held is None else held.status

    def set_status(self, instance_id: str, document: str, status: Report) -> None:
        """Put a status as a second writer would, past all faults and comparisons."""
        held = self._service.associations.seen(Association(instance_id, document), self._now_ms())
        held.status = status

    def _now_ms(self) -> int:
        """The service's own clock."""
        return self._clock() + self._skew_ms

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        request_id = self._new_id()
        body = await _body(request)
        call = read_call(request.headers, body if body is not None else b"")
        if self._injector.is_out(self._clock()):
            reply = OUTAGE
            self._record(request_id, call, reply)
        elif body is None:
            reply = refusal(ServiceError("RequestEntityTooLargeException"), self._model.errors)
            self._record(request_id, call, reply)
        else:
            injection = self._injector.next(call.request, self._clock())
            processing = self._processed(request_id, call, injection)
            # Without latency it does not pause, and so cannot be cancelled half-way.
            reply = await (self._detached(processing) if injection.latency_ms else processing)
        if reply.delivery is Delivery.HANG:
            try:
                await asyncio.Event().wait()
            finally:
                self._record(request_id, call, reply)
        if reply.delivery is not Delivery.REPLY:
            _drop(request, reply.delivery)
        return self._response(request_id, reply)

    async def _detached(self, processing: Coroutine[Any, Any, Reply]) -> Reply:
        """The result of work that goes on when the client leaves."""
        task = asyncio.create_task(processing)
        self._processing.add(task)
        task.add_done_callback(self._processing.discard)
        return await asyncio.shield(task)

    async def _processed(self, request_id: str, call: Call, injection: Injection) -> Reply:
        fault = injection.fault
        if fault is not None and not fault.applied:
            await self._delayed(injection.latency_ms)
            reply = struck(fault, self._model.errors, applied=False)
        else:
            try:
                reply = await self._carried_out(call, injection.latency_ms)
            except ServiceError as error:
                reply = refusal(error, self._model.errors)
            if fault is not None:
                reply = struck(fault, self._model.errors, applied=reply.applied)
        if reply.delivery is not Delivery.HANG:
            self._record(request_id, call, reply)
        return reply

    async def _carried_out(self, call: Call, latency_ms: int) -> Reply:
        """The answer of a success; raises ServiceError."""
        self._service.admit(call, self._now_ms())
        operation = call.request.operation
        key = self._service.key_of(call)
        if operation in EXCLUSIVE and key is not None:
            if key in self._under_way:
                raise ServiceError("TooManyUpdates")
            if latency_ms:
                self._under_way.add(key)
                try:
                    await self._delayed(latency_ms)
                finally:
                    self._under_way.discard(key)
        else:
            await self._delayed(latency_ms)
        body = msgspec.json.encode(self._service.perform(call, self._now_ms()))
        return Reply("ok", HTTPStatus.OK, body, applied=operation in CHANGING)

    async def _delayed(self, latency_ms: int) -> None:
        if latency_ms:
            await self._pause(latency_ms)

    def _response(self, request_id: str, reply: Reply) -> web.Response:
        headers = {
            "Server": "Server",
            "Date": _http_date(self._now_ms() // 1000),
            "Content-Type": reply.content_type,
        }
        if reply.content_type == CONTENT_TYPE:
            headers["x-amzn-RequestId"] = request_id
        if reply.retry_after_s is not None:
            headers["Retry-After"] = str(reply.retry_after_s)
        return web.Response(status=reply.status or HTTPStatus.OK, body=reply.body, headers=headers)

    def _record(self, request_id: str, call: Call, reply: Reply) -> None:
        given = call.members.get("AssociationStatus")
        status = given if isinstance(given, dict) else {}
        authorization = call.headers.get("Authorization", "")
        self._ledger.append(
            Entry(
                at=date_text(self._clock()),
                request_id=request_id,
                operation=call.request.operation,
                instance_id=call.request.instance_id,
                document=call.request.document,
                status=text_or_none(status.get("Name")),
                message=text_or_none(status.get("Message")),
                date=_date_or_none(status.get("Date")),
                http_status=None if reply.status is None else int(reply.status),
                answer=reply.answer,
                applied=reply.applied,
                access_key_id=access_key_id_of(authorization),
            )
        )
        self._recorded.set()


@cache
def installed_model() -> Model:
    """The service model, loaded once a process."""
    return load_model()


async def _body(request: web.BaseRequest) -> bytes | None:
    """The request's body, None if it is too long."""
    if (request.content_length or 0) > REQUEST_BYTES_MAX:
        return None
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer itself has not begun
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        return None


def _drop(request: web.BaseRequest, delivery: Delivery) -> None:
    """Close the connection at once, by RST or by FIN."""
    transport = request.transport
    if transport is None:
        return
    if delivery is Delivery.RESET:
        # Closing a socket that lingers for zero seconds sends RST.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _date_or_none(value: Any) -> str | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not DATE_S_MIN <= value <= DATE_S_MAX:
        return None
    return date_text(round(value * 1000))


@lru_cache(maxsize=1)
def _http_date(epoch_s: int) -> str:
    return formatdate(epoch_s, usegmt=True)
