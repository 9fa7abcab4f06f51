"""What a call says on the wire, held against the SDK's own serialiser."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from botocore.model import ServiceModel
from botocore.serialize import create_serializer
from hypothesis import example, given
from hypothesis import strategies as st

from ssm_status_reporter.domain.report import Report
from ssm_status_reporter.ssm.model import API_VERSION, SERVICE, CutLoader
from ssm_status_reporter.ssm.request import describe_body, epoch_ms, update_body
from ssm_support import NODE, REPORT

MODEL = ServiceModel(CutLoader().load_service_model(SERVICE, "service-2", API_VERSION), SERVICE)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def sdk_body(arguments: dict[str, Any], operation: str) -> Any:
    """What the SDK would say."""
    serialized = create_serializer("json").serialize_to_request(arguments, MODEL.operation_model(operation))
    return json.loads(serialized["body"])


def test_every_member_goes_out() -> None:
    """The service gets node, document and the whole status, its date in epoch seconds with milliseconds."""
    assert json.loads(update_body(NODE, REPORT)) == {
        "InstanceId": "i-0123456789abcdef0",
        "Name": "Deploy-Web",
        "AssociationStatus": {
            "Name": "Success",
            "Date": 1794999999.355,
            "Message": "all steps done",
            "AdditionalInfo": '{"run":1}',
        },
    }


def test_absent_additional_information_is_absent() -> None:
    """A report without additional information sends no such member."""
    bare = Report("Failed", "no", None, 0)
    assert "AdditionalInfo" not in json.loads(update_body(NODE, bare))["AssociationStatus"]


def test_a_question_names_node_and_document() -> None:
    """DescribeAssociation is asked by instance id and document name, for there is no association id to go by."""
    arguments = {"InstanceId": "i-0123456789abcdef0", "Name": "Deploy-Web"}
    assert json.loads(describe_body(NODE)) == arguments == sdk_body(arguments, "DescribeAssociation")


@example(1_001, "m")  # 1.001 s is 1000.9999999999999 ms
@given(st.integers(min_value=0, max_value=253_402_300_799_999), st.text(st.characters(codec="utf-8"), min_size=1))
def test_the_body_is_the_sdks_and_no_millisecond_is_lost(observed_at_ms: int, message: str) -> None:
    """Body by body what the SDK writes; the date that comes back is, to the millisecond, the date that was sent."""
    said = json.loads(update_body(NODE, Report("Success", message, None, observed_at_ms)))
    assert epoch_ms(said["AssociationStatus"]["Date"]) == observed_at_ms
    date = EPOCH + timedelta(milliseconds=observed_at_ms)
    status = {"Name": "Success", "Date": date, "Message": message}
    arguments = {"InstanceId": NODE.instance_id, "Name": NODE.document, "AssociationStatus": status}
    assert said == sdk_body(arguments, "UpdateAssociationStatus")
