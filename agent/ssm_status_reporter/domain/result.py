"""The result: what a source hands in, decoded and normalised, or the refusal it gets instead."""

from dataclasses import dataclass
from enum import StrEnum

from ssm_status_reporter.domain.association import Association
from ssm_status_reporter.domain.report import Report


class Writer(StrEnum):
    """Who else writes this association's status at the service."""

    SOLE = "sole"
    """Nobody known: a change is sent without asking."""
    SECOND = "second"
    """Somebody reports the same run before us (the SSM Agent): the service is asked first (rule 8)."""
    SHARED = "shared"
    """Other daemons report for it too: only the service knows what it holds, and is asked before a report goes out."""


class Edge(StrEnum):
    """Whether a result may open a debounce window by going out at once."""

    LEADING = "leading"
    TRAILING = "trailing"
    """Never at once: its date is only its arrival, and it may have arrived before (a redelivery)."""


class Served(StrEnum):
    """Whether the association is known to be one that this API serves."""

    SUPPOSED = "supposed"
    """Whoever handed it in says so: it is parked until the service knows it."""
    ASKED = "asked"
    """Only the service knows: when it does not, the result is none of ours, and so are those of the next hour."""


@dataclass(frozen=True, slots=True)
class Result:
    """One association run's result, ready for the outbox."""

    association: Association
    report: Report
    source: str
    writer: Writer = Writer.SOLE
    edge: Edge = Edge.LEADING
    served: Served = Served.SUPPOSED


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an input is no result. ``field`` is the member at fault, or None when the whole is."""

    field: str | None
    reason: str

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}" if self.field else self.reason
