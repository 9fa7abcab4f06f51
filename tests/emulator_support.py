"""SDK clients and hand-made requests for an emulator."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import cache
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore.exceptions import (
    ClientError,
)

from ssm_status_reporter.emulator.server import Emulator

NODE = "i-0123456789abcdef0"
OTHER_NODE = "mi-0123456789abcdef0"
DOCUMENT = "AWS-RunPatchBaseline"
WAIT_SECONDS_MAX = 120.0
"""What ends a test that would hang."""
OBSERVED_AT = datetime(2026, 11, 22, 13, 23, 53, 355_000, tzinfo=UTC)


@cache
def sdk() -> AioSession:
    """One SDK session: it parses the service model once."""
    return AioSession()


@asynccontextmanager
async def connect(emulator: Emulator, key: str = "AKIDEXAMPLE", **config: Any) -> AsyncIterator[Any]:
    """A client without retries: each call is one request."""
    async with sdk().create_client(
        "ssm",
        region_name="eu-west-1",
        endpoint_url=emulator.url,
        aws_access_key_id=key,
        aws_secret_access_key="secret",
        config=AioConfig(retries={"total_max_attempts": 1}, connect_timeout=60, **config),
    ) as client:
        yield client


class Arrivals:
    """Request ids that tell when a request has arrived."""

    def __init__(self) -> None:
        self._arrived = asyncio.Event()

    def new_id(self) -> str:
        self._arrived.set()
        return str(uuid4())

    async def first(self) -> None:
        """Wait for a request."""
        await asyncio.wait_for(self._arrived.wait(), WAIT_SECONDS_MAX)

    def forget(self) -> None:
        """Count afresh."""
        self._arrived.clear()


class Latency:
    """What a latency lasts: until the test says that it is over."""

    def __init__(self) -> None:
        self._over = asyncio.Event()

    async def pause(self, _ms: int) -> None:
        await self._over.wait()

    def end(self) -> None:
        """It is over, and there is none from now on."""
        self._over.set()


def update(client: Any, status: str = "Success", message: str = "done", **changes: Any) -> Any:
    """One UpdateAssociationStatus, to be awaited."""
    details = {key: changes.pop(key) for key in ("AdditionalInfo",) if key in changes}
    members = {"InstanceId": NODE, "Name": DOCUMENT} | changes
    given = {"Date": OBSERVED_AT, "Name": status, "Message": message} | details
    return client.update_association_status(**members, AssociationStatus=given)


def describe(client: Any, **changes: Any) -> Any:
    """One DescribeAssociation, to be awaited."""
    return client.describe_association(**({"InstanceId": NODE, "Name": DOCUMENT} | changes))


async def refused(call: Any, status: int = 400) -> tuple[str, str]:
    """The error code and message that a call is answered with."""
    with pytest.raises(ClientError) as caught:
        await call
    response = caught.value.response
    assert response["ResponseMetadata"]["HTTPStatusCode"] == status
    return response["Error"]["Code"], response["Error"]["Message"]


async def raw(emulator: Emulator, body: bytes = b"{}", **changes: str) -> tuple[int, dict[str, Any]]:
    """Status and JSON of a hand-made request; ``changes`` replace headers, ``_`` for ``-``, empty leaves out."""
    now = datetime.now(UTC)
    scope = f"AKID/{now:%Y%m%d}/eu-west-1/ssm/aws4_request"
    headers = {
        "X-Amz-Target": "AmazonSSM.DescribeAssociation",
        "Content-Type": "application/x-amz-json-1.1",
        "X-Amz-Date": f"{now:%Y%m%dT%H%M%SZ}",
        "Authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature={'a' * 64}",
    }
    headers |= {
        name.replace("_", "-"): value.format(scope=scope, day=f"{now:%Y%m%d}") for name, value in changes.items()
    }
    sent = {name: value for name, value in headers.items() if value}
    async with (
        aiohttp.ClientSession() as http,
        http.post(emulator.url, data=io.BytesIO(body), headers=sent) as response,
    ):
        assert response.headers["Content-Type"] == "application/x-amz-json-1.1"
        assert response.headers["x-amzn-RequestId"] == emulator.ledger[-1].request_id
        return response.status, json.loads(await response.read())
