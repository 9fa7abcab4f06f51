"""Requests against botocore's service model, in the service's words."""

from typing import Any

import pytest

from ssm_status_reporter.emulator.errors import ServiceError
from ssm_status_reporter.emulator.model import Model, decode, load_model

NODE = "i-0123456789abcdef0"


@pytest.fixture(scope="module")
def model() -> Model:
    """The installed botocore's model; read only."""
    return load_model()


def update(**changes: Any) -> dict[str, Any]:
    """A good UpdateAssociationStatus with changes to its AssociationStatus."""
    status = {"Name": "Success", "Date": 1.5, "Message": "done"} | changes
    return {"Name": "AWS-RunPatchBaseline", "InstanceId": NODE, "AssociationStatus": status}


@pytest.mark.parametrize(
    ("members", "text"),
    [
        (
            update(Name="Skipped"),
            (
                "1 validation error detected: Value 'Skipped' at 'associationStatus.name' failed to satisfy "
                "constraint: Member must satisfy enum value set: [Pending, Success, Failed]"
            ),
        ),
        (
            update(Message=""),
            (
                "1 validation error detected: Value '' at 'associationStatus.message' failed to satisfy "
                "constraint: Member must have length greater than or equal to 1"
            ),
        ),
        (
            update(AdditionalInfo="x" * 1025),
            (
                f"1 validation error detected: Value '{'x' * 1025}' at 'associationStatus.additionalInfo' failed "
                "to satisfy constraint: Member must have length less than or equal to 1024"
            ),
        ),
        (
            update() | {"InstanceId": f"{NODE}\n"},
            (
                f"1 validation error detected: Value '{NODE}\n' at 'instanceId' failed to satisfy constraint: "
                r"Member must satisfy regular expression pattern: (^i-(\w{8}|\w{17})$)|(^mi-\w{17}$)"
            ),
        ),
        (
            update() | {"InstanceId": "i-éééééééé"},
            (
                "1 validation error detected: Value 'i-éééééééé' at 'instanceId' failed to satisfy constraint: "
                r"Member must satisfy regular expression pattern: (^i-(\w{8}|\w{17})$)|(^mi-\w{17}$)"
            ),
        ),
        (
            {"Name": "x", "InstanceId": None},
            (
                "3 validation errors detected: Value 'x' at 'name' failed to satisfy constraint: Member must "
                r"satisfy regular expression pattern: ^[a-zA-Z0-9_\-.:/]{3,128}$; "
                "Value null at 'instanceId' failed to satisfy constraint: Member must not be null; "
                "Value null at 'associationStatus' failed to satisfy constraint: Member must not be null"
            ),
        ),
    ],
)
def test_every_broken_constraint_is_told_as_the_service_tells_it(
    model: Model, members: dict[str, Any], text: str
) -> None:
    """A user reads the sentence that the real service would answer."""
    with pytest.raises(ServiceError) as caught:
        model.check("UpdateAssociationStatus", members)
    assert (caught.value.code, caught.value.message) == ("ValidationException", text)


@pytest.mark.parametrize(
    ("members", "text"),
    [
        (update(Message=5), "NUMBER_VALUE can not be converted to a String"),
        (update(Message=True), "TRUE_VALUE can not be converted to a String"),
        (update(Message=[]), "Start of list found where not expected"),
        (update(Message={}), "Start of structure or map found where not expected."),
        (update(Date="2026-11-22T13:23:53Z"), "STRING_VALUE can not be converted to milliseconds since epoch"),
        (update(Date=True), "TRUE_VALUE can not be converted to milliseconds since epoch"),
        (update(Date=1e300), "NUMBER_VALUE can not be converted to milliseconds since epoch"),
        (update() | {"AssociationStatus": "Success"}, "Unexpected field type"),
        ([], None),
        (None, None),
    ],
)
def test_a_wrong_type_is_told_before_any_constraint(model: Model, members: object, text: str | None) -> None:
    """A value of another JSON type is a SerializationException, even beside a broken constraint."""
    if isinstance(members, dict):
        members["Name"] = "x"
    with pytest.raises(ServiceError) as caught:
        model.check("UpdateAssociationStatus", members)
    assert (caught.value.code, caught.value.message) == ("SerializationException", text)


@pytest.mark.parametrize("body", [b"", b"{", b'{"a": NaN}', b"\xff", b'"\\ud800"', b"[" * 100_000])
def test_what_is_no_json_is_a_serialization_exception(body: bytes) -> None:
    """A body that is no JSON is refused, whatever is in it."""
    with pytest.raises(ServiceError) as caught:
        decode(body)
    assert caught.value.code == "SerializationException"


@pytest.mark.parametrize(
    ("operation", "members", "at"),
    [
        ("ListAssociations", {"MaxResults": 51}, "Value '51' at 'maxResults'"),
        ("ListAssociations", {"AssociationFilterList": []}, "Value '[]' at 'associationFilterList'"),
        (
            "ListAssociations",
            {"AssociationFilterList": [{"key": "Name", "value": "x"}, {"key": "Nom"}]},
            "Value 'Nom' at 'associationFilterList.2.member.key'",
        ),
        ("CreateAssociation", {"Name": "Doc", "Tags": [{"Key": "a\tb", "Value": ""}]}, "'tags.1.member.key'"),
        ("CreateAssociation", {"Name": "Doc", "TargetMaps": [{}]}, "Value '{}' at 'targetMaps.1.member'"),
    ],
)
def test_constraints_within_lists_and_maps_name_their_place(
    model: Model, operation: str, members: dict[str, Any], at: str
) -> None:
    """An error in the second entry of a list says so."""
    with pytest.raises(ServiceError, match="ValidationException") as caught:
        model.check(operation, members)
    assert at in str(caught.value.message)


@pytest.mark.parametrize(
    ("operation", "members"),
    [
        ("UpdateAssociationStatus", update(Message="é" * 1024, AdditionalInfo=None) | {"Unknown": 1}),
        ("UpdateAssociationStatus", update(Date=1) | {"InstanceId": "mi-0123456789abcdef0"}),
        (
            "CreateAssociation",
            {"Name": "Doc", "Tags": [{"Key": "Größe 1", "Value": ""}], "Parameters": {"a": ["b"]}},
        ),
        ("ListAssociations", {}),
    ],
)
def test_what_the_model_allows_passes(model: Model, operation: str, members: dict[str, Any]) -> None:
    """Limits are inclusive, unknown members are ignored, null is absence."""
    assert model.check(operation, members) is members


def test_statuses_are_the_models(model: Model) -> None:
    """Only the error that the model marks as the server's fault is a 500."""
    assert model.errors["StatusUnchanged"] == 400
    assert [code for code, status in model.errors.items() if status == 500] == ["InternalServerError"]
