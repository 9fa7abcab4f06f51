"""What a state file of the SSM Agent says: its bytes become a `Run`, or what else they are. Pure.

Rules:
  * State files hold resolved parameters in clear text. Only the members named here are decoded; a step's
    configuration is looked into for one purpose, to keep it out of an error text. No error tells content.
  * The agent truncates and rewrites its files in place: bytes that are no whole JSON text are ``TORN``, which is
    no error. The last byte closes the object, so that no cut text passes for a whole one.
  * Run Command and sessions share the directory: they are ``NOT_A_RUN``.
  * A run counts as final only with a status that the agent does not leave again: `FINAL`.

Source: amazon-ssm-agent 3.3, agent/contracts (the file's format); recordings of real runs in the tests.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

import msgspec

from ssm_status_reporter import __version__
from ssm_status_reporter.config import AgentAssociations
from ssm_status_reporter.domain.association import DOCUMENT, Association
from ssm_status_reporter.domain.report import RUN_STATUSES, Report, Status, cut
from ssm_status_reporter.domain.result import Edge, Result, Served, Writer
from ssm_status_reporter.domain.rfc3339 import milliseconds
from ssm_status_reporter.sources import strict_json
from ssm_status_reporter.sources.agent_message import Step, message, shown
from ssm_status_reporter.sources.quoting import shortened

SOURCE: Final = "ssm_agent"
FINAL: Final = frozenset(name for name, status in RUN_STATUSES.items() if status is not Status.PENDING)
"""The run statuses that the agent does not leave again."""
_ASSOCIATION: Final = "Association"
_RUN_NAME: Final = re.compile(r".+\.\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{3}Z", re.ASCII)


class NoRun(Enum):
    """What a state file may be instead of a run."""

    TORN = "it is empty or cut: it is being written"
    NOT_A_RUN = "it belongs to Run Command or a session"
    UNKNOWN_FORMAT = "it is JSON, and not as the SSM Agent 3.3 writes it"


@dataclass(frozen=True, slots=True)
class Run:
    """One run of an association. Two that are equal have the same to say, whatever the agent's restarts."""

    run_id: str
    association_id: str
    document: str
    document_version: str
    """Empty in legacy mode."""
    status: str
    ended_at_ms: int | None
    """The latest end of a step; None when none brings one. Wall time."""
    message: str

    @property
    def is_final(self) -> bool:
        """Whether the agent is done with it."""
        return self.status in FINAL

    @property
    def is_legacy(self) -> bool:
        """Whether the agent itself got it as a legacy association."""
        return self.association_id == self.document

    @property
    def is_reportable(self) -> bool:
        """Whether the API can name its association."""
        return DOCUMENT.fullmatch(self.document) is not None


class _Result(msgspec.Struct):
    status: str = ""
    code: int = 0
    end: str = msgspec.field(name="endDateTime", default="")
    error: str = ""
    standard_error: str = msgspec.field(name="standardError", default="")


class _Step(msgspec.Struct, rename="pascal"):
    id: str = ""
    result: _Result | None = None
    configuration: msgspec.Raw = msgspec.Raw(b"null")


class _Information(msgspec.Struct, rename="pascal"):
    document_name: str
    document_status: str
    association_id: str = msgspec.field(name="AssociationID", default="")
    run_id: str = msgspec.field(name="RunID", default="")
    document_version: str = ""


class _Kind(msgspec.Struct, rename="pascal"):
    document_type: str


class _State(msgspec.Struct, rename="pascal"):
    document_information: _Information
    instance_plugins_information: list[_Step] | None = None


_KIND: Final = msgspec.json.Decoder(_Kind)
_STATE: Final = msgspec.json.Decoder(_State)


def decode(payload: bytes) -> Run | NoRun:
    """What the bytes of a state file say. Never raises; nothing of a step's configuration comes back."""
    try:
        if _KIND.decode(payload).document_type != _ASSOCIATION:
            return NoRun.NOT_A_RUN
        return _run(_STATE.decode(payload))
    except (msgspec.ValidationError, RecursionError):
        return NoRun.UNKNOWN_FORMAT
    except (msgspec.DecodeError, UnicodeDecodeError):
        return NoRun.TORN


def is_run_name(name: str) -> bool:
    """Whether a state file of this name is a run of an association; for when there is no content to tell."""
    return _RUN_NAME.fullmatch(name) is not None


def wanted(run: Run, associations: AgentAssociations) -> bool:
    """Whether runs such as this one are to be reported at all."""
    return run.is_legacy or associations is not AgentAssociations.LEGACY


def result(run: Run, instance_id: str, associations: AgentAssociations, seen_at_ms: int) -> Result:
    """The result of a final, reportable run. ``seen_at_ms`` is its date if no step brings one. Wall time."""
    return Result(
        association=Association(instance_id, run.document),
        report=Report(
            status=RUN_STATUSES[run.status].value,
            message=run.message,
            additional_info=_additional_info(run),
            observed_at_ms=seen_at_ms if run.ended_at_ms is None else run.ended_at_ms,
        ),
        source=SOURCE,
        writer=Writer.SECOND,
        edge=Edge.LEADING,
        served=Served.ASKED if associations is AgentAssociations.AUTO else Served.SUPPOSED,
    )


def _run(state: _State) -> Run:
    information = state.document_information
    final = information.document_status in FINAL
    steps = state.instance_plugins_information or []
    results = [step.result for step in steps if step.result is not None]
    return Run(
        run_id=information.run_id,
        association_id=information.association_id,
        document=information.document_name,
        document_version=information.document_version,
        status=information.document_status,
        ended_at_ms=max((ms for each in results if (ms := _milliseconds(each.end)) is not None), default=None),
        message=message(information.document_status, _told(steps)) if final else "",
    )


def _told(steps: Sequence[_Step]) -> list[Step]:
    results = [step.result or _Result() for step in steps]
    reasons = [_reason(result) for result in results]
    if any(reasons):  # else no configuration need be looked into
        reasons = shown(reasons, [msgspec.json.decode(step.configuration) for step in steps])
    return [
        Step(shortened(step.id), result.status, result.code, reason)
        for step, result, reason in zip(steps, results, reasons, strict=True)
    ]


def _reason(result: _Result) -> str:
    return result.standard_error or result.error if result.status == "Failed" else ""


def _milliseconds(end: str) -> int | None:
    """None: Go's zero time, or no date."""
    try:
        return milliseconds(end)
    except ValueError:
        return None


def _additional_info(run: Run) -> str:
    facts = {"reporter": f"ssm-status-reporter/{__version__}", "source": SOURCE, "run_status": run.status}
    named = {"run_id": run.run_id, "association_id": run.association_id, "document_version": run.document_version}
    return cut(strict_json.compact(facts | {name: shortened(value) for name, value in named.items() if value}))
