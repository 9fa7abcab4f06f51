"""The seams between the loops and the world: what the daemon needs, as protocols.

What waits is asynchronous, and nothing fails but as documented; the domain below is called by what implements
these, never the other way round.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from ssm_status_reporter.domain.announcement import Announcement
from ssm_status_reporter.domain.association import Association
from ssm_status_reporter.domain.outcome import Answer, Outcome
from ssm_status_reporter.domain.report import Report
from ssm_status_reporter.domain.result import Result
from ssm_status_reporter.domain.time import Now


class Clock(Protocol):
    """The time that everything is decided by."""

    def now(self) -> Now:
        """This moment, on both clocks."""
        ...

    async def sleep_until(self, steady_ms: int) -> None:
        """Return at ``steady_ms`` or later."""
        ...


class Chance(Protocol):
    """The only source of randomness: ``random.random`` in the daemon, anything repeatable in tests."""

    def __call__(self) -> float:
        """A number in [0, 1)."""
        ...


class Intake(Protocol):
    """Where sources hand in; implemented by the outbox."""

    async def observe(self, results: Sequence[Result]) -> None:
        """Return once every result is committed to disk. Waits while the disk is full; never loses."""
        ...

    def count_refused(self, inputs: int) -> None:
        """Count inputs that are no results."""
        ...


class Source(Protocol):
    """A place results come from. ``run`` watches until it is cancelled; any other return or error is a defect."""

    name: str

    async def run(self, intake: Intake, watching: Callable[[], None]) -> None:
        """Watch and hand in. Calls ``watching`` once it watches, or has said why it cannot yet; again means nothing."""
        ...


class Teller(Source, Protocol):
    """A source that is also told what became of each report."""

    def announce(self, announcement: Announcement) -> None:
        """Take note, and return at once."""
        ...

    def take_nothing_new(self) -> None:
        """The daemon stops: what arrives from now on is left where it is, outcomes are told until the cancellation."""
        ...


class StatusService(Protocol):
    """The SSM API, as far as this daemon uses it. Never raises for what the service or the network answers."""

    async def update(self, association: Association, report: Report) -> Outcome:
        """One UpdateAssociationStatus, without retries."""
        ...

    async def describe(self, association: Association) -> Answer:
        """One DescribeAssociation, without retries."""
        ...

    async def reload_credentials(self) -> None:
        """Drop the credentials in use; the next call loads them afresh."""
        ...
