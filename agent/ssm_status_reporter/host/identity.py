"""Identity: which managed node this is, and in which region.

The configuration's word counts first. ``auto`` on a hybrid machine is what the SSM Agent wrote at its
registration (FACTS: ``<path>/registration``, JSON, readable by root alone).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from ssm_status_reporter.domain.association import INSTANCE_ID

AUTO: Final = "auto"
REGISTRATION_BYTES_MAX: Final = 64 * 1024


class NoIdentityError(Exception):
    """It cannot be found out; the message says why and what to configure."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A managed node and its region."""

    instance_id: str
    region: str


class _Registration(msgspec.Struct):
    instance_id: str | None = msgspec.field(name="ManagedInstanceID", default=None)
    region: str | None = msgspec.field(name="Region", default=None)


def find_identity(instance_id: str, region: str, agent_path: Path) -> Identity:
    """The identity, as configured or as found. Raises `NoIdentityError`."""
    if AUTO not in (instance_id, region):
        return Identity(instance_id, region)
    registration = _registration(agent_path / "registration")
    found_id = registration.instance_id if instance_id == AUTO else instance_id
    found_region = registration.region if region == AUTO else region
    missing = [
        f"node.{name}" for name, value in (("instance_id", found_id), ("region", found_region)) if not value
    ]
    if missing or not found_id or not found_region:
        raise NoIdentityError(
            f"{' and '.join(missing)}: not found out, {agent_path / 'registration'} says nothing; "
            "set it in the configuration"
        )
    if INSTANCE_ID.fullmatch(found_id) is None:
        raise NoIdentityError(
            f"{agent_path / 'registration'}: ManagedInstanceID is no instance id: set node.instance_id"
        )
    return Identity(found_id, found_region)


def _registration(path: Path) -> _Registration:
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(REGISTRATION_BYTES_MAX), type=_Registration)
    except (OSError, msgspec.DecodeError):
        return _Registration()
