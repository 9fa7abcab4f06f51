"""The associations that an emulated service holds. Pure: the time is an argument.

Rules:
  * An association made with InstanceId is found by (instance id, document), any by its AssociationId.
    Only the former have a status.
  * An association that was deleted is gone until it is created again.
  * A status equal to the one held, in the members compared, is StatusUnchanged. Its Date is never compared:
    an older one overwrites a newer one.
  * Descriptions have the members and the number format of the service: seconds since 1970, with fractions.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

from ssm_status_reporter.domain.association import Association
from ssm_status_reporter.domain.report import Report
from ssm_status_reporter.emulator.errors import ServiceError
from ssm_status_reporter.emulator.faults import Compared

VERSION: Final = "1"
LISTED_MEMBERS: Final = frozenset(
    {
        "Name",
        "InstanceId",
        "AssociationId",
        "AssociationVersion",
        "DocumentVersion",
        "Targets",
        "LastExecutionDate",
        "Overview",
        "ScheduleExpression",
        "AssociationName",
        "ScheduleOffset",
        "Duration",
        "TargetMaps",
    }
)
"""The members of the model's Association, which ListAssociations answers."""


@dataclass(slots=True)
class Held:
    """One association at the service. ``instance_id`` None: made with targets."""

    association_id: str
    instance_id: str | None
    document: str
    created_ms: int
    details: Mapping[str, Any] = field(default_factory=dict)
    """Further members given at its creation, as the API spells them."""
    updated_ms: int = 0
    status: Report | None = None

    def description(self) -> dict[str, Any]:
        """The AssociationDescription."""
        described: dict[str, Any] = {
            "Name": self.document,
            "AssociationVersion": VERSION,
            "DocumentVersion": "$DEFAULT",
            "Date": self.created_ms / 1000,
            "LastUpdateAssociationDate": self.updated_ms / 1000,
            "AssociationId": self.association_id,
            "Overview": {"Status": "Pending", "DetailedStatus": "Associated"},
            **self.details,
        }
        if self.instance_id is not None:
            described["InstanceId"] = self.instance_id
            described["Targets"] = [{"Key": "InstanceIds", "Values": [self.instance_id]}]
        if self.status is not None:
            described["Status"] = _status(self.status)
            described["Overview"] = {"Status": self.status.status, "DetailedStatus": self.status.status}
            if self.status.status != "Pending":
                described["LastExecutionDate"] = self.status.observed_at_ms / 1000
        return described

    def listing(self) -> dict[str, Any]:
        """The association as ListAssociations has it."""
        return {name: value for name, value in self.description().items() if name in LISTED_MEMBERS}


class Associations:
    """The store."""

    def __init__(self) -> None:
        self._by_key: dict[Association, Held] = {}
        self._by_id: dict[str, Held] = {}
        self._deleted: set[Association] = set()
        self._made = 0

    def __iter__(self) -> Iterator[Held]:
        return iter(self._by_id.values())

    def get(self, key: Association) -> Held | None:
        """The association of that key, if it is held."""
        return self._by_key.get(key)

    def key_of(self, association_id: str) -> Association | None:
        """The key of the association of that id, if it is held and has one."""
        held = self._by_id.get(association_id)
        return None if held is None or held.instance_id is None else Association(held.instance_id, held.document)

    def by_id(self, association_id: str) -> Held:
        """The association of that id; raises AssociationDoesNotExist."""
        held = self._by_id.get(association_id)
        if held is None:
            raise ServiceError("AssociationDoesNotExist")
        return held

    def by_key(self, key: Association, _now_ms: int) -> Held:
        """The association of that key; raises AssociationDoesNotExist."""
        held = self._by_key.get(key)
        if held is None:
            raise ServiceError("AssociationDoesNotExist")
        return held

    def seen(self, key: Association, now_ms: int) -> Held:
        """The association of that key, made at first sight; raises AssociationDoesNotExist for a deleted one."""
        held = self._by_key.get(key)
        if held is None and key not in self._deleted:
            held = self.create(key.instance_id, key.document, {}, now_ms)
        if held is None:
            raise ServiceError("AssociationDoesNotExist")
        return held

    def seed(self, keys: Iterable[Association], now_ms: int) -> None:
        """Create those that are not held."""
        for key in keys:
            if key not in self._by_key:
                self.create(key.instance_id, key.document, {}, now_ms)

    def create(self, instance_id: str | None, document: str, details: Mapping[str, Any], now_ms: int) -> Held:
        """A new association; raises AssociationAlreadyExists for a key that is held."""
        key = None if instance_id is None else Association(instance_id, document)
        if key in self._by_key:
            raise ServiceError("AssociationAlreadyExists")
        self._made += 1
        association_id = str(uuid5(NAMESPACE_URL, f"{instance_id} {document} {self._made}"))
        held = Held(association_id, instance_id, document, now_ms, details, updated_ms=now_ms)
        self._by_id[association_id] = held
        if key is not None:
            self._by_key[key] = held
            self._deleted.discard(key)
        return held

    def delete(self, held: Held) -> None:
        """Forget an association."""
        del self._by_id[held.association_id]
        if held.instance_id is not None:
            key = Association(held.instance_id, held.document)
            del self._by_key[key]
            self._deleted.add(key)

    @staticmethod
    def update(held: Held, status: Report, compared: Compared, now_ms: int) -> None:
        """Put a status; raises StatusUnchanged."""
        if held.status is not None and _members(held.status, compared) == _members(status, compared):
            raise ServiceError("StatusUnchanged")
        held.status = status
        held.updated_ms = now_ms


def _members(status: Report, compared: Compared) -> tuple[str | None, ...]:
    everything = (status.status, status.message, status.additional_info)
    return everything[: {Compared.STATUS: 1, Compared.STATUS_AND_MESSAGE: 2, Compared.ALL: 3}[compared]]


def _status(status: Report) -> dict[str, Any]:
    described: dict[str, Any] = {
        "Date": status.observed_at_ms / 1000,
        "Name": status.status,
        "Message": status.message,
    }
    if status.additional_info is not None:
        described["AdditionalInfo"] = status.additional_info
    return described
