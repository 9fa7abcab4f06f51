"""What a call says on the wire, by the SDK's own serialiser."""

import json
from typing import Any

from botocore.model import ServiceModel
from botocore.serialize import create_serializer
from hypothesis import example, given
from hypothesis import strategies as st

from ssm_status_reporter.domain.report import Report
from ssm_status_reporter.ssm.model import API_VERSION, SERVICE, CutLoader
from ssm_status_reporter.ssm.request import describe_arguments, epoch_ms, update_arguments
from ssm_support import NODE, REPORT

MODEL = ServiceModel(CutLoader().load_service_model(SERVICE, "service-2", API_VERSION), SERVICE)


def on_the_wire(arguments: dict[str, Any], operation: str) -> Any:
    serialized = create_serializer("json").serialize_to_request(arguments, MODEL.operation_model(operation))
    assert serialized["headers"]["X-Amz-Target"] == f"AmazonSSM.{operation}"
    return json.loads(serialized["body"])


def test_every_member_goes_out() -> None:
    """The service gets node, document and the whole status, its date in epoch seconds with milliseconds."""
    assert on_the_wire(update_arguments(NODE, REPORT), "UpdateAssociationStatus") == {
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
    assert (
        "AdditionalInfo"
        not in on_the_wire(update_arguments(NODE, bare), "UpdateAssociationStatus")["AssociationStatus"]
    )


def test_a_question_names_node_and_document() -> None:
    """DescribeAssociation is asked by instance id and document name, for there is no association id to go by."""
    assert on_the_wire(describe_arguments(NODE), "DescribeAssociation") == {
        "InstanceId": "i-0123456789abcdef0",
        "Name": "Deploy-Web",
    }


@example(1_001)  # 1.001 s is 1000.9999999999999 ms
@given(st.integers(min_value=-62_135_596_800_000, max_value=253_402_300_799_999))
def test_no_millisecond_is_lost(observed_at_ms: int) -> None:
    """The date that comes back from the service is, to the millisecond, the date that was sent."""
    sent = on_the_wire(
        update_arguments(NODE, Report("Success", "m", None, observed_at_ms)), "UpdateAssociationStatus"
    )
    assert epoch_ms(sent["AssociationStatus"]["Date"]) == observed_at_ms
