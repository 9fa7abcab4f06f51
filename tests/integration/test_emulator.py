"""The emulator's operations through real SDK clients: what botocore makes of each of its answers."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from botocore import UNSIGNED
from botocore.exceptions import (
    ClientError,
)

from emulator_support import (
    DOCUMENT,
    NODE,
    OBSERVED_AT,
    OTHER_NODE,
    WAIT_SECONDS_MAX,
    Arrivals,
    Latency,
    connect,
    describe,
    raw,
    refused,
    update,
)
from ssm_status_reporter.domain.report import Report
from ssm_status_reporter.emulator.faults import (
    Compared,
    Credentials,
    FaultPlan,
    Invalid,
    Listed,
    Match,
    Rule,
)
from ssm_status_reporter.emulator.server import Emulator

SLOW = Rule(operation="UpdateAssociationStatus", latency="1s")
"""As slow as the test says."""


async def test_an_update_is_answered_with_the_description_it_made() -> None:
    """A new status comes back in the reply and in DescribeAssociation, its date to the millisecond."""
    async with Emulator() as emulator, connect(emulator) as client:
        before = await describe(client)
        reply = await update(client, AdditionalInfo="by hand")
        after = await describe(client)
        by_id = await client.describe_association(AssociationId=after["AssociationDescription"]["AssociationId"])
    assert "Status" not in before["AssociationDescription"]
    described = reply["AssociationDescription"]
    assert described == after["AssociationDescription"] == by_id["AssociationDescription"]
    assert described["Status"] == {
        "Date": OBSERVED_AT,
        "Name": "Success",
        "Message": "done",
        "AdditionalInfo": "by hand",
    }
    assert described["Targets"] == [{"Key": "InstanceIds", "Values": [NODE]}]
    assert described["Overview"]["Status"] == "Success"
    assert datetime.now(UTC) - described["LastUpdateAssociationDate"] < timedelta(minutes=1)
    assert (described["InstanceId"], described["Name"]) == (NODE, DOCUMENT)


@pytest.mark.parametrize(
    ("compared", "same_status", "same_message", "same_everything"),
    [
        (Compared.STATUS, "StatusUnchanged", "StatusUnchanged", "StatusUnchanged"),
        (Compared.STATUS_AND_MESSAGE, "ok", "StatusUnchanged", "StatusUnchanged"),
        (Compared.ALL, "ok", "ok", "StatusUnchanged"),
    ],
)
async def test_unchanged_is_what_the_plan_compares(
    compared: Compared, same_status: str, same_message: str, same_everything: str
) -> None:
    """Of a status that differs in less than is compared, the user hears StatusUnchanged."""
    async with Emulator(FaultPlan(compare=compared)) as emulator, connect(emulator) as client:
        await update(client, message="first", AdditionalInfo="first")
        held = emulator.status_of(NODE, DOCUMENT)
        for message, info in (("second", "first"), ("second", "second"), ("second", "second")):
            await asyncio.gather(update(client, message=message, AdditionalInfo=info), return_exceptions=True)
        assert [entry.answer for entry in emulator.ledger[1:]] == [same_status, same_message, same_everything]
        assert [entry.applied for entry in emulator.ledger] == [entry.answer == "ok" for entry in emulator.ledger]
        assert (emulator.status_of(NODE, DOCUMENT) == held) == (compared is Compared.STATUS)
        await update(client, "Failed", AdditionalInfo="second")


async def test_a_second_writer_is_seen_by_the_first() -> None:
    """A status that somebody else put is what DescribeAssociation tells and StatusUnchanged compares with."""
    async with Emulator() as emulator, connect(emulator) as client:
        emulator.set_status(NODE, DOCUMENT, Report("Failed", "theirs", None, 1000))
        told = (await describe(client))["AssociationDescription"]["Status"]
        assert told == {"Name": "Failed", "Message": "theirs", "Date": datetime.fromtimestamp(1, UTC)}
        assert (await refused(update(client, "Failed", "theirs")))[0] == "StatusUnchanged"


async def test_only_truly_concurrent_updates_are_too_many() -> None:
    """Of two updates of one association at once the second is refused; another association's is not."""
    plan, latency, arrivals = FaultPlan(rules=(SLOW,)), Latency(), Arrivals()
    async with (
        Emulator(plan, pause=latency.pause, new_id=arrivals.new_id) as emulator,
        connect(emulator) as client,
    ):
        under_way = []
        for node in (NODE, OTHER_NODE):
            under_way.append(asyncio.create_task(update(client, message="1", InstanceId=node)))
            await arrivals.first()
            arrivals.forget()
        assert (await refused(update(client, message="2")))[0] == "TooManyUpdates"
        latency.end()
        await asyncio.gather(*under_way)
        assert [entry.answer for entry in emulator.ledger] == ["TooManyUpdates", "ok", "ok"]
        await update(client, message="3")


async def test_a_client_that_gives_up_undoes_nothing() -> None:
    """A call that its client gave up is applied all the same, and a retry meanwhile meets TooManyUpdates."""
    plan, latency, arrivals = FaultPlan(rules=(SLOW,)), Latency(), Arrivals()
    async with (
        Emulator(plan, pause=latency.pause, new_id=arrivals.new_id) as emulator,
        connect(emulator) as client,
    ):
        given_up = asyncio.create_task(update(client))
        await arrivals.first()
        given_up.cancel()
        assert (await refused(update(client)))[0] == "TooManyUpdates"
        latency.end()
        await emulator.wait_for(lambda ledger: len(ledger) == 2)
        assert [entry.answer for entry in emulator.ledger] == ["TooManyUpdates", "ok"]
        assert emulator.status_of(NODE, DOCUMENT) is not None


async def test_what_botocore_lets_out_the_service_refuses() -> None:
    """Statuses, lengths and patterns that the SDK does not check come back as ValidationException."""
    async with Emulator() as emulator, connect(emulator) as client:
        code, message = await refused(update(client, "InProgress", "x" * 1025, InstanceId="i-1"))
        assert code == "ValidationException"
        assert message.startswith("3 validation errors detected: Value 'i-1' at 'instanceId'")
        assert emulator.status_of("i-1", DOCUMENT) is None
        assert not emulator.ledger[0].applied


async def test_bodies_and_targets_that_are_none() -> None:
    """What no SDK sends is refused as the JSON 1.1 protocol has it."""
    async with Emulator() as emulator:
        assert await raw(emulator, b"{") == (400, {"__type": "SerializationException"})
        wrong = {"__type": "SerializationException", "Message": "NUMBER_VALUE can not be converted to a String"}
        assert await raw(emulator, b'{"InstanceId": 5}') == (400, wrong)
        unknown = {"__type": "UnknownOperationException"}
        for target in ("AmazonSSM.Describe", "DynamoDB.DescribeAssociation", ""):
            assert await raw(emulator, X_Amz_Target=target) == (400, unknown)
        assert (await raw(emulator, Content_Type="text/plain"))[1]["__type"] == "UnknownOperationException"
        neither = (await raw(emulator))[1]
        assert neither["__type"] == "ValidationException"
        assert (await raw(emulator, b" " * (1024 * 1024 + 1)))[0] == 413


async def test_headers_that_no_sdk_sends_are_answered_and_recorded_like_others() -> None:
    """Bytes that are no text, a compression that is none: refused in the service's form, each with its line."""
    async with Emulator() as emulator:
        host, port = emulator.url.removeprefix("http://").split(":")
        for headers, refusal in (
            (b"X-Amz-Target: AmazonSSM.\xff", "MissingAuthenticationTokenException"),
            (b"Authorization: \xff", "IncompleteSignatureException"),
            (b"Authorization: \xc2\xa0", "IncompleteSignatureException"),
        ):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + headers + b"\r\n\r\n")
            async with asyncio.timeout(WAIT_SECONDS_MAX):
                assert f'{{"__type":"{refusal}"'.encode() in await reader.read()
            writer.close()
            await writer.wait_closed()
        assert (await raw(emulator, b"\x00", Content_Encoding="gzip"))[1]["__type"] == "SerializationException"
        assert [entry.operation for entry in emulator.ledger] == [
            "\N{REPLACEMENT CHARACTER}",
            None,
            None,
            "DescribeAssociation",
        ]


async def test_who_asks_before_sending_a_body_is_told_to() -> None:
    """A client that waits for 100 Continue (curl does, with a long body) is not left waiting."""
    async with Emulator() as emulator:
        host, port = emulator.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"{}")
            assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("authorization", "code", "text"),
    [
        ("", "MissingAuthenticationTokenException", "Missing Authentication Token"),
        ("Bearer x", "IncompleteSignatureException", "Unsupported AWS 'algorithm': 'Bearer'"),
        (
            "AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host",
            "IncompleteSignatureException",
            "Authorization header requires 'Signature' parameter.",
        ),
        (
            "AWS4-HMAC-SHA256 Credential=AKID/{day}, SignedHeaders=host, Signature=aa",
            "IncompleteSignatureException",
            "Credential must have exactly 5 slash-delimited elements",
        ),
        (
            "AWS4-HMAC-SHA256 Credential=AKID/{day}/eu-west-1/ec2/aws4_request, SignedHeaders=host, Signature=aa",
            "InvalidSignatureException",
            "Credential should be scoped to correct service: 'ssm'.",
        ),
        (
            "AWS4-HMAC-SHA256 Credential=AKID/20010101/eu/ssm/aws4_request, SignedHeaders=host, Signature=aa",
            "InvalidSignatureException",
            "Date in Credential scope does not match",
        ),
        (
            "AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=aa",
            "InvalidSignatureException",
            "The request signature we calculated does not match",
        ),
    ],
)
async def test_a_signature_is_there_and_whole(authorization: str, code: str, text: str) -> None:
    """Each way of not signing has its own error, told before anything else that is wrong."""
    async with Emulator() as emulator:
        status, answer = await raw(emulator, b"{", Authorization=authorization)
    assert (status, answer["__type"]) == (400, code)
    assert answer["message"].startswith(text)


async def test_a_date_is_there() -> None:
    """A signed request without any date, or with one that is none, is incomplete."""
    async with Emulator() as emulator:
        assert "'X-Amz-Date'" in (await raw(emulator, X_Amz_Date=""))[1]["message"]
        for none in ("now", "Fri, 31 Dec 9999 23:59:59 -2359"):
            assert (await raw(emulator, X_Amz_Date=none))[1]["__type"] == "IncompleteSignatureException"


async def test_an_unsigned_call_misses_its_token() -> None:
    """An SDK that does not sign hears so."""
    async with Emulator() as emulator, connect(emulator, signature_version=UNSIGNED) as client:
        assert (await refused(update(client)))[0] == "MissingAuthenticationTokenException"
        assert emulator.ledger[0].access_key_id is None


@pytest.mark.parametrize(
    ("skew", "text"),
    [("6m", r"Signature expired: \w+ is now earlier than"), ("-6m", r"not yet current: \w+ is still later")],
)
async def test_a_skewed_clock_refuses_signatures_and_shows_in_the_date_header(skew: str, text: str) -> None:
    """A clock more than five minutes apart refuses every signature, and its Date header tells the difference."""
    async with Emulator(FaultPlan(clock_skew=skew)) as emulator, connect(emulator) as client:
        with pytest.raises(ClientError, match=rf"InvalidSignatureException.*{text}") as caught:
            await update(client)
        told = caught.value.response["ResponseMetadata"]["HTTPHeaders"]["date"]
        skewed = datetime.strptime(told, "%a, %d %b %Y %H:%M:%S %Z").replace(tzinfo=UTC) - datetime.now(UTC)
        assert abs(abs(skewed) - timedelta(minutes=6)) < timedelta(minutes=1)
        emulator.faults = FaultPlan(clock_skew=skew.replace("6", "4"))
        await update(client)


async def test_credentials_are_known_unknown_or_expired() -> None:
    """A plan that lists access keys refuses others, and its expired ones as expired."""
    plan = FaultPlan(credentials=Credentials(accept=("AKIDGOOD", "AKIDOLD"), expired=("AKIDOLD",)))
    async with Emulator(plan) as emulator:
        async with connect(emulator, "AKIDGOOD") as client:
            await update(client)
        async with connect(emulator, "AKIDOLD") as client:
            assert (await refused(describe(client)))[0] == "ExpiredTokenException"
        async with connect(emulator, "AKIDELSE") as client:
            assert (await refused(describe(client)))[0] == "UnrecognizedClientException"
        assert [entry.access_key_id for entry in emulator.ledger] == ["AKIDGOOD", "AKIDOLD", "AKIDELSE"]


async def test_a_denial_names_action_and_resource() -> None:
    """What the plan denies is AccessDeniedException, and only that."""
    plan = FaultPlan(
        deny=(Match(operation="DescribeAssociation"), Match(operation="Update*", document="Secret-*"))
    )
    async with Emulator(plan) as emulator, connect(emulator) as client:
        code, message = await refused(describe(client))
        assert code == "AccessDeniedException"
        assert (
            "is not authorized to perform: ssm:DescribeAssociation on resource: "
            f"arn:aws:ec2:eu-west-1:123456789012:instance/{NODE} "
        ) in message
        assert f"managed-instance/{OTHER_NODE} " in (await refused(describe(client, InstanceId=OTHER_NODE)))[1]
        assert (
            "arn:aws:ssm:eu-west-1:123456789012:document/Secret-1 "
            in (await refused(update(client, Name="Secret-1")))[1]
        )
        await update(client)


async def test_only_what_is_listed_exists_until_it_is_created() -> None:
    """With a list, others do not exist; created they do, twice they do not, and deleted they are gone."""
    plan = FaultPlan(associations=(Listed(instance_id=NODE, document=DOCUMENT),))
    async with Emulator(plan) as emulator, connect(emulator) as client:
        await update(client)
        other = {"InstanceId": NODE, "Name": "Other"}
        for call in (
            update(client, Name="Other"),
            describe(client, Name="Other"),
            client.delete_association(**other),
        ):
            assert (await refused(call))[0] == "AssociationDoesNotExist"
        made = await client.create_association(**other, Parameters={"Operation": ["Scan"]})
        assert made["AssociationDescription"]["Parameters"] == {"Operation": ["Scan"]}
        assert (await refused(client.create_association(**other)))[0] == "AssociationAlreadyExists"
        await update(client, Name="Other")
        await client.delete_association(AssociationId=made["AssociationDescription"]["AssociationId"])
        assert (await refused(update(client, Name="Other")))[0] == "AssociationDoesNotExist"


async def test_a_deleted_association_does_not_come_back_by_itself() -> None:
    """Where every association exists, one that was deleted does not until it is created anew, without a status."""
    async with Emulator() as emulator, connect(emulator) as client:
        await update(client)
        await client.delete_association(InstanceId=NODE, Name=DOCUMENT)
        assert (await refused(update(client)))[0] == "AssociationDoesNotExist"
        await client.create_association(InstanceId=NODE, Name=DOCUMENT)
        assert "Status" not in (await describe(client))["AssociationDescription"]


async def test_a_deletion_while_an_update_is_under_way_is_too_much() -> None:
    """DeleteAssociation, too, meets TooManyUpdates, whichever way it names the association."""
    plan, latency, arrivals = FaultPlan(rules=(SLOW,)), Latency(), Arrivals()
    async with (
        Emulator(plan, pause=latency.pause, new_id=arrivals.new_id) as emulator,
        connect(emulator) as client,
    ):
        association_id = (await describe(client))["AssociationDescription"]["AssociationId"]
        arrivals.forget()
        running = asyncio.create_task(update(client))
        await arrivals.first()
        assert (await refused(client.delete_association(AssociationId=association_id)))[0] == "TooManyUpdates"
        assert (await refused(client.delete_association(InstanceId=NODE, Name=DOCUMENT)))[0] == "TooManyUpdates"
        latency.end()
        await running
        await client.delete_association(AssociationId=association_id)


async def test_invalid_nodes_documents_and_versions() -> None:
    """What the plan calls invalid is answered with the documented error by each operation that documents it."""
    plan = FaultPlan(nodes=Invalid(invalid=("mi-*",)), documents=Invalid(invalid=("Gone-*",)))
    async with Emulator(plan) as emulator, connect(emulator) as client:
        key = {"InstanceId": OTHER_NODE, "Name": DOCUMENT}
        calls = [update(client, InstanceId=OTHER_NODE), describe(client, InstanceId=OTHER_NODE)]
        for call in [*calls, client.create_association(**key), client.delete_association(**key)]:
            assert (await refused(call))[0] == "InvalidInstanceId"
        for call in (update(client, Name="Gone-1"), client.create_association(Name="Gone-1", InstanceId=NODE)):
            assert (await refused(call))[0] == "InvalidDocument"
        assert (await refused(describe(client, AssociationVersion="7")))[0] == "InvalidAssociationVersion"
        assert (await refused(client.create_association(Name="Doc")))[0] == "InvalidTarget"
        scheduled = client.create_association(Name="Doc", InstanceId=NODE, ScheduleExpression="rate(1 day)")
        assert (await refused(scheduled))[0] == "ValidationException"


async def test_listing_goes_by_pages_and_filters() -> None:
    """ListAssociations gives every association once over its pages, and by filter those that pass."""
    async with Emulator() as emulator, connect(emulator) as client:
        for number in range(5):
            await update(client, "Failed" if number == 3 else "Success", Name=f"Doc-{number}")
        await client.create_association(Name="Tagged", Targets=[{"Key": "tag:a", "Values": ["b"]}])
        pages = client.get_paginator("list_associations").paginate(MaxResults=4)
        names = [[listed["Name"] for listed in page["Associations"]] async for page in pages]
        assert names == [["Doc-0", "Doc-1", "Doc-2", "Doc-3"], ["Doc-4", "Tagged"]]
        for filters, expected in (
            ({"InstanceId": NODE, "AssociationStatusName": "Failed"}, ["Doc-3"]),
            ({"Name": "Tagged"}, ["Tagged"]),
            ({"LastExecutedBefore": OBSERVED_AT.isoformat()}, []),
            ({"LastExecutedAfter": "2026-11-22T13:23:53Z", "Name": "Doc-1"}, ["Doc-1"]),
        ):
            listed = await client.list_associations(
                AssociationFilterList=[{"key": key, "value": value} for key, value in filters.items()]
            )
            assert [each["Name"] for each in listed["Associations"]] == expected
        assert (await refused(client.list_associations(NextToken="x")))[0] == "InvalidNextToken"
