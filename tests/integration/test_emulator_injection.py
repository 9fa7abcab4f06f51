"""The emulator's faults on the wire: what an SDK client meets, and what the ledger says of it."""

import asyncio
import json
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    HTTPClientError,
    ReadTimeoutError,
)

from emulator_support import (
    DOCUMENT,
    NODE,
    WAIT_SECONDS_MAX,
    Arrivals,
    connect,
    describe,
    raw,
    refused,
    update,
)
from ssm_status_reporter.emulator.faults import (
    Effect,
    Fault,
    FaultPlan,
    Kind,
    Outage,
    Rule,
    Throttle,
)
from ssm_status_reporter.emulator.server import Emulator, wall_clock_ms


@pytest.mark.parametrize(
    ("fault", "code", "status"),
    [
        ("InternalServerError", "InternalServerError", 500),
        ("TooManyUpdates", "TooManyUpdates", 400),
        ("InvalidInstanceId", "InvalidInstanceId", 400),
        ("ThrottlingException", "ThrottlingException", 400),
        ("RequestExpired", "RequestExpired", 400),
        ("ServiceUnavailable", "ServiceUnavailable", 503),
        (Fault(code="OddException", status=418, message="short and stout"), "OddException", 418),
        (Fault(kind=Kind.HTML, status=403), "403", 403),
        (Fault(kind=Kind.HTML, status=407), "407", 407),
        ("html", "502", 502),
    ],
)
async def test_an_injected_error_is_the_code_that_botocore_reads(
    fault: str | Fault, code: str, status: int
) -> None:
    """Each error and each proxy's page reaches the SDK once, with its status, and the next call goes through."""
    async with Emulator(FaultPlan(rules=(Rule(errors=(fault,)),))) as emulator, connect(emulator) as client:
        assert (await refused(update(client), status))[0] == code
        assert emulator.status_of(NODE, DOCUMENT) is None
        await update(client)
        assert [entry.http_status for entry in emulator.ledger] == [status, 200]
        assert [entry.applied for entry in emulator.ledger] == [False, True]


async def test_an_injected_error_may_come_after_the_fact() -> None:
    """An error whose effect is `applied` has changed the status, its text and hint are the plan's."""
    fault = Fault(code="ServiceUnavailable", message="later", retry_after="2500ms", effect=Effect.APPLIED)
    async with Emulator(FaultPlan(rules=(Rule(errors=(fault,)),))) as emulator, connect(emulator) as client:
        with pytest.raises(ClientError, match="later") as caught:
            await update(client)
        assert caught.value.response["ResponseMetadata"]["HTTPHeaders"]["retry-after"] == "3"
        assert (await refused(update(client)))[0] == "StatusUnchanged"
        assert [entry.applied for entry in emulator.ledger] == [True, False]


@pytest.mark.parametrize(
    ("fault", "seen", "applied"),
    [
        ("lose_reply", ConnectionClosedError, True),
        (Fault(kind=Kind.LOSE_REPLY, effect=Effect.NONE), ConnectionClosedError, False),
        # aiobotocore calls any reset a failure to connect, one after the request was sent included.
        ("reset", EndpointConnectionError, False),
        (Fault(kind=Kind.RESET, effect=Effect.APPLIED), EndpointConnectionError, True),
    ],
)
async def test_a_dropped_connection_has_an_effect_or_none(
    fault: str | Fault,
    seen: type[HTTPClientError],
    applied: bool,  # noqa: FBT001 - an expectation
) -> None:
    """The SDK cannot tell whether a call whose connection broke was applied; the ledger and the status can."""
    kind = fault if isinstance(fault, str) else fault.kind
    async with Emulator(FaultPlan(rules=(Rule(errors=(fault,)),))) as emulator, connect(emulator) as client:
        with pytest.raises(seen):
            await update(client)
        (entry,) = emulator.ledger
        assert (entry.answer, entry.applied, entry.http_status) == (kind, applied, None)
        assert (emulator.status_of(NODE, DOCUMENT) is not None) == applied


async def test_applied_is_what_changed_something() -> None:
    """The ledger calls applied what changed an association: no question, and nothing refused."""
    async with Emulator() as emulator, connect(emulator) as client:
        await client.create_association(InstanceId=NODE, Name=DOCUMENT)
        await describe(client)
        await client.list_associations()
        await update(client)
        emulator.faults = FaultPlan(rules=(Rule(errors=("lose_reply",)),))
        with pytest.raises(ConnectionClosedError):
            await update(client)
        await client.delete_association(InstanceId=NODE, Name=DOCUMENT)
        assert [entry.applied for entry in emulator.ledger] == [True, False, False, True, False, True]


async def test_a_reset_is_a_reset() -> None:
    """A reset is RST on the wire, an outage is an orderly end."""
    plan = FaultPlan(rules=(Rule(errors=("reset",)),))
    async with Emulator(plan) as emulator:
        host, port = emulator.url.removeprefix("http://").split(":")
        for expected in (ConnectionResetError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
            with pytest.raises(expected):
                await asyncio.wait_for(reader.readexactly(1), WAIT_SECONDS_MAX)
            writer.close()
            emulator.faults = FaultPlan(outages=(Outage(after="0s", lasting="1h"),))


async def test_a_hang_lasts_till_the_client_gives_up() -> None:
    """The SDK times out, the ledger has the request as soon as the client is gone, and nothing was applied."""
    plan = FaultPlan(rules=(Rule(errors=("hang",)),))
    async with Emulator(plan) as emulator, connect(emulator) as patient:
        async with connect(emulator, read_timeout=0.2) as client:
            with pytest.raises(ReadTimeoutError):
                await update(client)
        (entry,) = await emulator.wait_for(lambda ledger: len(ledger) == 1)
        assert (entry.answer, entry.applied) == ("hang", False)
        await update(patient)


async def test_a_hang_does_not_outlive_the_emulator() -> None:
    """The emulator ends although a request hangs, and the ledger has it."""
    plan = FaultPlan(rules=(Rule(errors=("hang",)),))
    async with asyncio.timeout(WAIT_SECONDS_MAX), AsyncExitStack() as clients:
        async with Emulator(plan, new_id=(arrivals := Arrivals()).new_id) as emulator:
            client = await clients.enter_async_context(connect(emulator))
            hung = asyncio.create_task(update(client))
            await arrivals.first()
        with pytest.raises(ConnectionClosedError):
            await hung
    assert [entry.answer for entry in emulator.ledger] == ["hang"]


@pytest.mark.parametrize(("kind", "applied"), [("empty_200", False), ("cut_200", True)])
async def test_a_broken_200_looks_like_success_without_a_description(
    kind: str,
    applied: bool,  # noqa: FBT001 - an expectation
) -> None:
    """The SDK takes an empty or a cut reply as a success; only the missing description tells."""
    async with Emulator(FaultPlan(rules=(Rule(errors=(kind,)),))) as emulator, connect(emulator) as client:
        reply = await update(client)
        assert reply["ResponseMetadata"]["HTTPStatusCode"] == 200
        assert "AssociationDescription" not in reply
        assert emulator.ledger[0].applied == applied
        assert (emulator.status_of(NODE, DOCUMENT) is not None) == applied


async def test_throttling_is_by_the_emulators_clock() -> None:
    """Beyond the burst calls are throttled until the clock has moved on."""
    started_ms = wall_clock_ms()
    passed_ms = 0
    plan = FaultPlan(rules=(Rule(throttle=Throttle(rate=0.5, burst=2)),))
    async with Emulator(plan, clock=lambda: started_ms + passed_ms) as emulator, connect(emulator) as client:
        await describe(client)
        await describe(client)
        assert await refused(describe(client)) == ("ThrottlingException", "Rate exceeded")
        passed_ms = 2000
        await describe(client)
        assert (await refused(describe(client)))[0] == "ThrottlingException"


async def test_an_outage_closes_connections_and_ends() -> None:
    """During an outage every call fails without an answer; before and after it calls go through."""
    started_ms = wall_clock_ms()
    passed_ms = 0
    plan = FaultPlan(outages=(Outage(after="1s", lasting="2s"),))
    async with Emulator(plan, clock=lambda: started_ms + passed_ms) as emulator, connect(emulator) as client:
        await describe(client)
        passed_ms = 1000
        with pytest.raises(ConnectionClosedError):
            await update(client)
        passed_ms = 3000
        await describe(client)
        assert [entry.answer for entry in emulator.ledger] == ["ok", "outage", "ok"]


async def test_the_ledger_is_one_line_a_request(tmp_path: Path) -> None:
    """Each request is in the file by the time its answer arrives, with what it brought and what came of it."""
    path = tmp_path / "ledger.jsonl"
    async with Emulator(ledger_path=path) as emulator, connect(emulator) as client:
        request_id = (await update(client))["ResponseMetadata"]["RequestId"]
        (line,) = path.read_text("utf-8").splitlines()
        entry = json.loads(line)
        at = datetime.fromisoformat(entry.pop("at"))
        assert abs(datetime.now(UTC) - at) < timedelta(minutes=1)
        assert entry == {
            "request_id": request_id,
            "operation": "UpdateAssociationStatus",
            "instance_id": NODE,
            "document": DOCUMENT,
            "status": "Success",
            "message": "done",
            "date": "2026-11-22T13:23:53.355Z",
            "http_status": 200,
            "answer": "ok",
            "applied": True,
            "access_key_id": "AKIDEXAMPLE",
        }
        await raw(emulator, b'{"InstanceId": [], "AssociationStatus": {"Name": 1, "Date": 1e99}}')
        odd = json.loads(path.read_text("utf-8").splitlines()[1])
        assert (odd["instance_id"], odd["status"], odd["date"]) == (None, None, None)
    async with Emulator(ledger_path=path) as emulator, connect(emulator) as client:
        await update(client)
    assert len(path.read_text("utf-8").splitlines()) == 3
