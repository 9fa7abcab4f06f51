"""The cut service model against the installed SDK's whole one."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore.exceptions import BotoCoreError
from botocore.loaders import Loader

from ssm_model_cut import cut_files
from ssm_status_reporter.ssm.client import SsmClient
from ssm_status_reporter.ssm.model import DATA, CutLoader
from ssm_support import SetClock, bare_environment, settings

ENDPOINTS = Loader().load_data("endpoints")["partitions"]
REGIONS = sorted({region for partition in ENDPOINTS for region in partition["regions"]})
READS_OF_BOTOCORE = {"sdk-default-configuration.json"}
"""What a client reads of botocore's own data: 4 KB."""


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare_environment(monkeypatch, tmp_path)


def test_shipped_files_are_what_the_installed_sdk_says() -> None:
    """An SDK upgrade that changes a fact we ship is noticed: run tests/ssm_model_cut.py and read the diff."""
    shipped = {
        str(path.relative_to(DATA)): json.loads(path.read_text("utf-8")) for path in sorted(DATA.rglob("*.json"))
    }
    assert shipped == cut_files()


@pytest.mark.parametrize(
    "options",
    [{}, {"use_fips_endpoint": True}, {"use_dualstack_endpoint": True}],
    ids=["plain", "fips", "dualstack"],
)
async def test_every_region_has_the_endpoint_that_the_whole_sdk_gives_it(options: dict[str, Any]) -> None:
    """In every region of every partition, calls go where the uncut SDK sends them, signed for the same region."""
    assert len(REGIONS) > 40
    cut, whole = AioSession(), AioSession()
    cut.register_component("data_loader", CutLoader())
    for region in REGIONS:
        assert await resolved(cut, region, options) == await resolved(whole, region, options), region


async def resolved(session: AioSession, region: str, options: dict[str, Any]) -> tuple[str, ...]:
    """The endpoint and the signing region a client of this session uses, or the error it gives instead."""
    keys = {"aws_access_key_id": "made-up", "aws_secret_access_key": "made-up"}
    try:
        async with session.create_client("ssm", region, config=AioConfig(**options), **keys) as client:
            operation = client.meta.service_model.operation_model("DescribeAssociation")
            url, _, _ = await client._resolve_endpoint_ruleset(operation, {}, {})
            return url, client._request_signer.region_name
    except BotoCoreError as error:
        return (repr(error),)


async def test_a_client_reads_none_of_the_large_files() -> None:
    """Making a client costs no 12 MiB: of botocore's own data it reads one small file."""
    read: list[str] = []
    watching = True

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event == "open" and ".json" in str(arguments[0]):
            read.append(str(arguments[0]))

    sys.addaudithook(watch)
    async with SsmClient(settings(None), SetClock()) as client:
        await client._opened()
    watching = False
    ours = [path for path in read if path.startswith(str(DATA))]
    assert len(ours) == 4
    assert {path.rpartition("/")[2] for path in read if path not in ours} <= READS_OF_BOTOCORE
