"""The emulated service: one request in, one answer out, without HTTP. Pure but for what it holds.

A request passes, in this order: signature, known access key, operation, JSON, the model's shapes,
permission. That is `Service.admit`. What passes is carried out by `Service.perform`. Both raise
`ServiceError` for every other answer.
"""

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from ssm_status_reporter.domain.association import Association
from ssm_status_reporter.domain.report import Report
from ssm_status_reporter.emulator.associations import VERSION, Associations, Held
from ssm_status_reporter.emulator.errors import ServiceError, validation_error
from ssm_status_reporter.emulator.faults import FaultPlan, Match
from ssm_status_reporter.emulator.injector import Request, any_matcher, request_matcher
from ssm_status_reporter.emulator.model import Model, decode
from ssm_status_reporter.emulator.signature import Signature, read_signature

ACCOUNT: Final = "123456789012"
PAGE_ENTRIES_MAX: Final = 50
TARGET_PREFIX: Final = "AmazonSSM."
CONTENT_TYPE: Final = "application/x-amz-json-1.1"
HEADERS: Final = ("Authorization", "Content-Type", "Date", "X-Amz-Date", "X-Amz-Target")
"""What is read of a request's headers."""
NOT_WITH_INSTANCE_ID: Final = (
    "AssociationName",
    "DocumentVersion",
    "MaxErrors",
    "MaxConcurrency",
    "OutputLocation",
    "ScheduleExpression",
)
"""What CreateAssociation's reference rules out beside InstanceId."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request as it came in. ``request`` and ``members`` hold what could be read of it."""

    request: Request
    headers: Mapping[str, str]
    """Those of `HEADERS`; what is not UTF-8 in them is replaced, so that an answer and the ledger can quote it."""
    body: bytes
    members: Mapping[str, Any]


def read_call(headers: Mapping[str, str], body: bytes) -> Call:
    """What can be read of a request, however wrong it is."""
    told = {name: _in_utf_8(headers[name]) for name in HEADERS if name in headers}
    target = told.get("X-Amz-Target", "")
    operation = target.removeprefix(TARGET_PREFIX) if target.startswith(TARGET_PREFIX) else None
    try:
        decoded = decode(body)
    except ServiceError:
        decoded = None
    members = decoded if isinstance(decoded, dict) else {}
    request = Request(operation, text_or_none(members.get("InstanceId")), text_or_none(members.get("Name")))
    return Call(request, told, body, members)


def _in_utf_8(header: str) -> str:
    return header.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def text_or_none(value: object) -> str | None:
    """The value if it is text."""
    return value if isinstance(value, str) else None


class Service:
    """The operations over a store, under a plan that may change."""

    def __init__(self, model: Model, plan: FaultPlan, now_ms: int) -> None:
        self._model = model
        self.associations = Associations()
        self._operations: Mapping[str, Callable[[Mapping[str, Any], int], Mapping[str, Any]]] = {
            "UpdateAssociationStatus": self._update_association_status,
            "DescribeAssociation": self._describe_association,
            "ListAssociations": self._list_associations,
            "CreateAssociation": self._create_association,
            "DeleteAssociation": self._delete_association,
        }
        self.adopt(plan, now_ms)

    def adopt(self, plan: FaultPlan, now_ms: int) -> None:
        """Go by this plan from now on; what is held stays."""
        self._plan = plan
        self._is_invalid_node = any_matcher(plan.nodes.invalid)
        self._is_invalid_document = any_matcher(plan.documents.invalid)
        self._denials = [(rule, request_matcher(rule)) for rule in plan.deny]
        self._find: Callable[[Association, int], Held] = self.associations.seen
        if plan.associations != "any":
            self._find = self.associations.by_key
            listed = (Association(entry.instance_id, entry.document) for entry in plan.associations)
            self.associations.seed(listed, now_ms)

    def admit(self, call: Call, now_ms: int) -> None:
        """Raise unless the service would carry this request out."""
        signature = read_signature(call.headers, datetime.fromtimestamp(now_ms // 1000, UTC))
        self._check_access_key(signature.access_key_id)
        operation = call.request.operation
        if operation is None or operation not in self._operations:
            raise ServiceError("UnknownOperationException")
        if call.headers.get("Content-Type", "").partition(";")[0].strip() != CONTENT_TYPE:
            raise ServiceError("UnknownOperationException", f"Content-Type must be {CONTENT_TYPE}")
        self._model.check(operation, call.members or decode(call.body))
        for rule, denies in self._denials:
            if denies(call.request):
                raise ServiceError("AccessDeniedException", _denial(call.request, rule, signature))

    def perform(self, call: Call, now_ms: int) -> Mapping[str, Any]:
        """Carry out an admitted request; the reply's members."""
        return self._operations[str(call.request.operation)](call.members, now_ms)

    def key_of(self, call: Call) -> Association | None:
        """The key of the association that an admitted request is about, None if it has none."""
        association_id = text_or_none(call.members.get("AssociationId"))
        instance_id, document = call.request.instance_id, call.request.document
        if association_id is not None:
            return self.associations.key_of(association_id)
        return None if instance_id is None or document is None else Association(instance_id, document)

    def target(self, key: Association, now_ms: int) -> Held:
        """The association of that key, as the plan has it; raises what the service answers."""
        if self._is_invalid_node(key.instance_id):
            raise ServiceError("InvalidInstanceId")
        if self._is_invalid_document(key.document):
            raise ServiceError("InvalidDocument")
        return self._find(key, now_ms)

    def _check_access_key(self, access_key_id: str) -> None:
        credentials = self._plan.credentials
        if access_key_id in credentials.expired:
            raise ServiceError("ExpiredTokenException")
        if credentials.accept is not None and access_key_id not in credentials.accept:
            raise ServiceError("UnrecognizedClientException")

    def _update_association_status(self, members: Mapping[str, Any], now_ms: int) -> Mapping[str, Any]:
        held = self.target(Association(members["InstanceId"], members["Name"]), now_ms)
        given = members["AssociationStatus"]
        status = Report(given["Name"], given["Message"], given.get("AdditionalInfo"), round(given["Date"] * 1000))
        self.associations.update(held, status, self._plan.compare, now_ms)
        return {"AssociationDescription": held.description()}

    def _describe_association(self, members: Mapping[str, Any], now_ms: int) -> Mapping[str, Any]:
        held = self._named(members, now_ms)
        if members.get("AssociationVersion") not in {None, VERSION, "$LATEST"}:
            raise ServiceError("InvalidAssociationVersion")
        return {"AssociationDescription": held.description()}

    def _list_associations(self, members: Mapping[str, Any], _now_ms: int) -> Mapping[str, Any]:
        filters = [(each["key"], each["value"]) for each in members.get("AssociationFilterList") or () if each]
        found = [held for held in self.associations if all(_passes(held, *each) for each in filters)]
        start = _page_start(members.get("NextToken"))
        end = start + (members.get("MaxResults") or PAGE_ENTRIES_MAX)
        page: dict[str, Any] = {"Associations": [held.listing() for held in found[start:end]]}
        if end < len(found):
            page["NextToken"] = base64.urlsafe_b64encode(str(end).encode()).decode()
        return page

    def _create_association(self, members: Mapping[str, Any], now_ms: int) -> Mapping[str, Any]:
        instance_id, document = members.get("InstanceId"), members["Name"]
        if instance_id is None and not members.get("Targets"):
            raise ServiceError("InvalidTarget")
        if instance_id is not None:
            for name in NOT_WITH_INSTANCE_ID:
                if members.get(name) is not None:
                    raise validation_error(f"{name} can't be used with InstanceId; use Targets.")
            if self._is_invalid_node(instance_id):
                raise ServiceError("InvalidInstanceId")
        if self._is_invalid_document(document):
            raise ServiceError("InvalidDocument")
        apart = {"InstanceId", "Name", "Tags"}
        details = {name: value for name, value in members.items() if name not in apart and value is not None}
        held = self.associations.create(instance_id, document, details, now_ms)
        return {"AssociationDescription": held.description()}

    def _delete_association(self, members: Mapping[str, Any], now_ms: int) -> Mapping[str, Any]:
        self.associations.delete(self._named(members, now_ms))
        return {}

    def _named(self, members: Mapping[str, Any], now_ms: int) -> Held:
        """The association that a request names, by its id or by its key."""
        association_id = members.get("AssociationId")
        if association_id is not None:
            return self.associations.by_id(association_id)
        instance_id, document = members.get("InstanceId"), members.get("Name")
        if instance_id is None or document is None:
            raise validation_error("Must specify either AssociationId or both InstanceId and Name.")
        return self.target(Association(instance_id, document), now_ms)


def _denial(request: Request, rule: Match, signature: Signature) -> str:
    """IAM's sentence. It names the document if the rule does, else the node, else everything."""
    where = f"{signature.region}:{ACCOUNT}"
    if rule.document != "*" and request.document is not None:
        resource = (
            request.document if ":" in request.document else f"arn:aws:ssm:{where}:document/{request.document}"
        )
    elif request.instance_id is None:
        resource = f"arn:aws:ssm:{where}:*"
    elif request.instance_id.startswith("mi-"):
        resource = f"arn:aws:ssm:{where}:managed-instance/{request.instance_id}"
    else:
        resource = f"arn:aws:ec2:{where}:instance/{request.instance_id}"
    action = f"ssm:{request.operation}"
    user = f"arn:aws:sts::{ACCOUNT}:assumed-role/emulated/{request.instance_id or 'session'}"
    return (
        f"User: {user} is not authorized to perform: {action} on resource: {resource} "
        f"because no identity-based policy allows the {action} action"
    )


def _passes(held: Held, key: str, value: str) -> bool:
    """Whether an association passes one filter of ListAssociations."""
    status = held.status
    if key in {"LastExecutedBefore", "LastExecutedAfter"}:
        try:
            bound = datetime.fromisoformat(value)
        except ValueError:
            raise validation_error(f"{value} isn't a date in ISO 8601.") from None
        if status is None or status.status == "Pending":
            return False
        bound_ms = (bound if bound.tzinfo else bound.replace(tzinfo=UTC)).timestamp() * 1000
        before = key == "LastExecutedBefore"
        return status.observed_at_ms < bound_ms if before else status.observed_at_ms > bound_ms
    members: Mapping[str, str | None] = {
        "InstanceId": held.instance_id,
        "Name": held.document,
        "AssociationId": held.association_id,
        "AssociationStatusName": "Pending" if status is None else status.status,
        "AssociationName": held.details.get("AssociationName"),
    }
    return members.get(key) == value


def _page_start(token: str | None) -> int:
    if token is None:
        return 0
    try:
        start = base64.urlsafe_b64decode(token.encode()).decode()
    except (binascii.Error, ValueError):
        start = ""
    if not re.fullmatch("[0-9]{1,9}", start):
        raise ServiceError("InvalidNextToken")
    return int(start)
