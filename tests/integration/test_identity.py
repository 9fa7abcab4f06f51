"""Who this node is: configuration, registration and an instance metadata service over real HTTP."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest
from structlog.testing import capture_logs

from metadata_support import INSTANCE, INSTANCE_REGION, Metadata, Token
from results_directory_support import unprivileged
from ssm_status_reporter.host.identity import Identity, NoIdentityError, Teller, find_identity
from ssm_status_reporter.host.instance_metadata import ENDPOINT, ENDPOINT_IPV6, endpoint
from ssm_support import SetClock, free_port

HYBRID: Final = "mi-0123456789abcdef0"
HYBRID_REGION: Final = "eu-central-1"
METADATA_TIMEOUT_MS: Final = "ssm_status_reporter.host.instance_metadata.METADATA_TIMEOUT_MS"
OFF: Final = {"AWS_EC2_METADATA_DISABLED": "true"}
DOCUMENT_QUESTIONS: Final = ["PUT /latest/api/token", "GET /latest/dynamic/instance-identity/document"]


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who answers is not asked again because this process stood still for a while."""
    monkeypatch.setattr(METADATA_TIMEOUT_MS, 60_000)


@pytest.fixture
def _impatient(_patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who does not answer is asked again soon."""
    monkeypatch.setattr(METADATA_TIMEOUT_MS, 2000)


def register(directory: Path, text: str | None = None) -> None:
    """The SSM Agent registers this machine."""
    whole = json.dumps({"ManagedInstanceID": HYBRID, "Region": HYBRID_REGION, "PublicKeyType": "Rsa"})
    (directory / "registration").write_text(whole if text is None else text, "utf-8")


async def identity(
    directory: Path, environment: Mapping[str, str], instance_id: str = "auto", region: str = "auto"
) -> Identity:
    return await find_identity(instance_id, region, directory, environment, SetClock())


async def error(
    directory: Path, environment: Mapping[str, str], instance_id: str = "auto", region: str = "auto"
) -> str:
    """What the operator reads when it cannot be found out."""
    with pytest.raises(NoIdentityError) as raised:
        await identity(directory, environment, instance_id, region)
    return str(raised.value)


# Who tells.


async def test_an_instance_is_told_by_imdsv2(tmp_path: Path) -> None:
    """On EC2 id and region are the identity document's, asked for with a token, once."""
    async with Metadata() as metadata:
        found = await identity(tmp_path, metadata.environment)
        assert found == Identity(INSTANCE, INSTANCE_REGION, Teller.METADATA, Teller.METADATA)
        assert metadata.asked == DOCUMENT_QUESTIONS


async def test_a_hybrid_node_is_told_by_its_registration(tmp_path: Path) -> None:
    """Where the agent is registered nobody else is asked."""
    register(tmp_path)
    async with Metadata() as metadata:
        found = await identity(tmp_path, metadata.environment)
        assert found == Identity(HYBRID, HYBRID_REGION, Teller.REGISTRATION, Teller.REGISTRATION)
        assert metadata.asked == []


async def test_what_is_configured_wins_and_asks_nobody(tmp_path: Path) -> None:
    """A configured node does not even read the registration."""
    register(tmp_path, "broken")
    async with Metadata() as metadata:
        with capture_logs() as lines:
            found = await identity(tmp_path, metadata.environment, "i-00000000", "us-east-1")
        assert found == Identity("i-00000000", "us-east-1")
        assert metadata.asked == []
    assert lines == []


@pytest.mark.parametrize(
    ("instance_id", "region", "found"),
    [
        ("auto", "us-east-1", Identity(INSTANCE, "us-east-1", Teller.METADATA, Teller.CONFIGURATION)),
        ("i-00000000", "auto", Identity("i-00000000", INSTANCE_REGION, Teller.CONFIGURATION, Teller.METADATA)),
    ],
)
async def test_only_what_is_missing_is_asked_for(
    tmp_path: Path, instance_id: str, region: str, found: Identity
) -> None:
    """One value configured, the other from the document."""
    async with Metadata() as metadata:
        assert await identity(tmp_path, metadata.environment, instance_id, region) == found


async def test_a_registration_without_a_region_is_completed(tmp_path: Path) -> None:
    """The registration's id stands; the region comes from whoever has it, and the lack is said."""
    register(tmp_path, json.dumps({"ManagedInstanceID": HYBRID}))
    async with Metadata() as metadata:
        with capture_logs() as lines:
            found = await identity(tmp_path, metadata.environment)
    assert found == Identity(HYBRID, INSTANCE_REGION, Teller.REGISTRATION, Teller.METADATA)
    assert [line["log_level"] for line in lines] == ["warning"]


async def test_a_proxy_is_never_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's proxy settings do not concern a service that only this machine reaches."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with Metadata() as metadata:
        assert (await identity(tmp_path, metadata.environment)).instance_id == INSTANCE


@pytest.mark.usefixtures("_impatient")
async def test_a_network_that_is_late_is_waited_for(tmp_path: Path) -> None:
    """A question that is lost is asked again, a bounded number of times."""
    async with Metadata(Token.NEVER_ANSWERED, Token.GRANTED) as metadata:
        assert (await identity(tmp_path, metadata.environment)).instance_id == INSTANCE
        assert metadata.asked == [DOCUMENT_QUESTIONS[0], *DOCUMENT_QUESTIONS]


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({}, ENDPOINT),
        ({"AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE": "IPv4"}, ENDPOINT),
        ({"AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE": "IPv6"}, ENDPOINT_IPV6),
        (
            {
                "AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://[::1]:1338/",
                "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE": "ipv6",
            },
            "http://[::1]:1338",
        ),
    ],
)
def test_the_service_is_where_the_sdks_variables_say(environment: Mapping[str, str], url: str) -> None:
    """Endpoint and mode as in every AWS SDK; the endpoint counts more."""
    assert endpoint(environment) == url


# What the operator reads when nobody tells.


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("token", [Token.NEVER_ANSWERED, Token.CLOSED])
async def test_a_token_that_does_not_come_is_the_hop_limit(tmp_path: Path, token: Token) -> None:
    """In a container the connection stands and the token does not arrive: the hop limit is named, and the way out."""
    async with Metadata(token) as metadata:
        said = await error(tmp_path, metadata.environment)
        assert set(metadata.asked) == {DOCUMENT_QUESTIONS[0]}, "and nothing without a token"
    assert "HttpPutResponseHopLimit" in said
    assert "(3 attempts)" in said
    assert "set node.instance_id and node.region" in said
    assert "no SSM Agent is registered here" in said


async def test_a_disabled_service_is_named(tmp_path: Path) -> None:
    """403 is an answer: it is not asked again, and the message says how to enable it."""
    async with Metadata(Token.DISABLED) as metadata:
        said = await error(tmp_path, metadata.environment, region="eu-west-1")
        assert len(metadata.asked) == 1
    assert "it is disabled on this instance" in said
    assert "--http-endpoint enabled" in said
    assert "set node.instance_id in the configuration" in said


async def test_another_service_is_no_metadata_service(tmp_path: Path) -> None:
    """What has no tokens, or gives a page for one, is not IMDSv2."""
    async with Metadata(Token.UNKNOWN) as metadata:
        assert "not IMDSv2" in await error(tmp_path, metadata.environment)
    async with Metadata(Token.MALFORMED) as metadata:
        assert "malformed token" in await error(tmp_path, metadata.environment)


async def test_nobody_there_is_no_instance(tmp_path: Path) -> None:
    """A refused connection: not EC2, and what to configure."""
    nowhere = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
    said = await error(tmp_path, nowhere, instance_id=HYBRID)
    assert "no EC2 instance" in said
    assert "set node.region in the configuration" in said


@pytest.mark.parametrize(
    "named", ["169.254.169.254", "//169.254.169.254", "ftp://169.254.169.254", "http://..", f"http://{'a' * 64}"]
)
async def test_an_endpoint_that_is_no_url_is_named(tmp_path: Path, named: str) -> None:
    """The variable that is wrong is in the message."""
    said = await error(tmp_path, {"AWS_EC2_METADATA_SERVICE_ENDPOINT": named})
    assert "AWS_EC2_METADATA_SERVICE_ENDPOINT " in said
    assert f": {named}" in said


async def test_a_service_switched_off_is_not_asked(tmp_path: Path) -> None:
    """AWS_EC2_METADATA_DISABLED is respected, and said."""
    async with Metadata() as metadata:
        said = await error(tmp_path, metadata.environment | OFF)
        assert metadata.asked == []
    assert "AWS_EC2_METADATA_DISABLED is true" in said


@pytest.mark.parametrize(
    "document",
    [b"", b"[]", b"<html></html>", b'{"instanceId": 5}', b'{"instanceId": "i-1', b'"\xff"', b"{" * 70_000],
)
async def test_a_malformed_document_is_said(tmp_path: Path, document: bytes) -> None:
    """What is no identity document is called that."""
    async with Metadata(document=document) as metadata:
        assert "malformed identity document" in await error(tmp_path, metadata.environment)


async def test_values_that_cannot_be_are_not_taken(tmp_path: Path) -> None:
    """An id or a region out of the pattern is quoted and refused."""
    document = json.dumps({"instanceId": "i-short", "region": "../../x"}).encode()
    async with Metadata(document=document) as metadata:
        said = await error(tmp_path, metadata.environment)
    assert "'i-short', which is no instance id" in said
    assert "'../../x', which is no region" in said


# A registration that is of no use.


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"ManagedInstanceID": 7}', '{"ManagedInstanceID": "mi-short", "Region": "eu-west-1"}']
)
async def test_a_broken_registration_is_said(tmp_path: Path, text: str) -> None:
    """It is a warning where another tells, and part of the error where nobody does."""
    register(tmp_path, text)
    async with Metadata() as metadata:
        with capture_logs() as lines:
            assert (await identity(tmp_path, metadata.environment)).instance_id == INSTANCE
    (line,) = lines
    assert line["log_level"] == "warning"
    assert line["path"] == str(tmp_path / "registration")
    said = await error(tmp_path, OFF)
    assert str(tmp_path / "registration") in said
    assert "register the agent anew" in said


async def test_a_registration_that_may_not_be_read_is_said() -> None:
    """Missing rights are not taken for a missing registration."""
    with unprivileged() as directory:
        register(directory)
        (directory / "registration").chmod(0)
        said = await error(directory, OFF)
        assert "cannot be read: Permission denied" in said
        assert "CAP_DAC_READ_SEARCH" in said
