"""The announcement: what became of a report, for whoever wants to follow (MQTT ``outcomes``)."""

from dataclasses import dataclass
from enum import StrEnum

from ssm_status_reporter.domain.association import Association
from ssm_status_reporter.domain.outcome import Problem
from ssm_status_reporter.domain.report import Report


class Ending(StrEnum):
    """What came of one call or question, as the follower reads it."""

    DELIVERED = "delivered"
    ALREADY_HELD = "already_held"
    STALE = "stale"
    RETRIED = "retried"
    PARKED = "parked"
    HELD_BACK = "held_back"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Announcement:
    """One outcome. ``at_ms`` is wall time; ``problem`` is None for what succeeded."""

    association: Association
    report: Report
    ending: Ending
    at_ms: int
    problem: Problem | None = None
