"""Identity: which managed node this is, and in which region.

Rules:
  * The configuration's word counts first. What it leaves to ``auto`` is what the SSM Agent wrote at its registration
    (a hybrid node: ``<path>/registration``, JSON, readable by root alone), then what the instance metadata
    service tells (an EC2 instance). Only what is still missing is asked for.
  * A registration that is there and cannot be read, or is broken, is said: never silently taken for none.
  * What nobody tells is an error that names each place that was asked, what it said, and what to do.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import msgspec
import structlog

from ssm_status_reporter.config.texts import AUTO, REGION
from ssm_status_reporter.domain.association import INSTANCE_ID
from ssm_status_reporter.domain.limits import REGISTRATION_BYTES_MAX
from ssm_status_reporter.host.instance_metadata import NoMetadataError, identity_document
from ssm_status_reporter.ports import Clock

log = structlog.get_logger()


class NoIdentityError(Exception):
    """It cannot be found out; the message says why and what to configure."""


class Teller(StrEnum):
    """Who told."""

    CONFIGURATION = "configuration"
    REGISTRATION = "SSM Agent's registration"
    METADATA = "instance metadata service"


@dataclass(frozen=True, slots=True)
class Identity:
    """A managed node and its region, and who told them."""

    instance_id: str
    region: str
    instance_id_from: Teller = Teller.CONFIGURATION
    region_from: Teller = Teller.CONFIGURATION


class _Registration(msgspec.Struct):
    instance_id: str = msgspec.field(name="ManagedInstanceID", default="")
    region: str = msgspec.field(name="Region", default="")


class _Gathering:
    """What has been told so far, and what was said by those who told nothing."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[str, Teller]] = {}
        self.findings: list[str] = []

    @property
    def missing(self) -> list[str]:
        return [key for key in ("instance_id", "region") if key not in self._told]

    def take(self, teller: Teller, where: str, instance_id: str, region: str) -> None:
        """Take what is still missing and is what it should be."""
        for key, value, pattern, what in (
            ("instance_id", instance_id, INSTANCE_ID, "instance id"),
            ("region", region, REGION, "region"),
        ):
            if key in self._told or value == AUTO:
                continue
            if pattern.fullmatch(value):
                self._told[key] = value, teller
            else:
                self.findings.append(f"{where} names {value!r}, which is no {what}")

    def identity(self) -> Identity:
        """The whole. Raises `NoIdentityError`."""
        if self.missing:
            keys = " and ".join(f"node.{key}" for key in self.missing)
            raise NoIdentityError(
                f"{keys}: auto, and not to be found out: {'; '.join(self.findings)}. "
                f"Mend that, or set {keys} in the configuration"
            )
        (instance_id, instance_id_from), (region, region_from) = self._told["instance_id"], self._told["region"]
        return Identity(instance_id, region, instance_id_from, region_from)


async def find_identity(
    instance_id: str, region: str, agent_path: Path, environment: Mapping[str, str], clock: Clock
) -> Identity:
    """The identity, as configured or as found. Raises `NoIdentityError`."""
    gathering = _Gathering()
    gathering.take(Teller.CONFIGURATION, "the configuration", instance_id, region)
    if gathering.missing:
        _ask_registration(agent_path / "registration", gathering)
    if gathering.missing:
        try:
            document = await identity_document(environment, clock)
        except NoMetadataError as error:
            gathering.findings.append(str(error))
        else:
            where = "the instance metadata service"
            gathering.take(Teller.METADATA, where, document.instance_id, document.region)
    return gathering.identity()


def _ask_registration(path: Path, gathering: _Gathering) -> None:
    try:
        with path.open("rb") as file:
            registration = msgspec.json.decode(file.read(REGISTRATION_BYTES_MAX), type=_Registration)
    except (FileNotFoundError, NotADirectoryError):
        gathering.findings.append(f"no SSM Agent is registered here (no {path})")
        return
    except OSError as error:
        problem = f"the SSM Agent's registration {path} cannot be read: {error.strerror}"
        hint = "let the daemon read it: its unit gives it CAP_DAC_READ_SEARCH"
    except (msgspec.DecodeError, UnicodeDecodeError):
        problem, hint = (
            f"the SSM Agent's registration {path} is no JSON object of texts",
            "register the agent anew",
        )
    else:
        before = len(gathering.findings)
        gathering.take(
            Teller.REGISTRATION,
            f"the SSM Agent's registration {path}",
            registration.instance_id,
            registration.region,
        )
        if len(gathering.findings) == before:
            return
        problem, hint = "; ".join(gathering.findings[before:]), "register the agent anew"
        del gathering.findings[before:]
    gathering.findings.append(f"{problem} ({hint})")
    log.warning("the SSM Agent's registration is of no use", path=str(path), error=problem, hint=hint)
