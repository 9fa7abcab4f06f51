"""The runner of the demo: it writes result files as any runner does, under another name first, then renamed."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

from ssm_status_reporter.domain.report import RUN_STATUSES, default_message


class ResultFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the runner writes: the fields of a result that the demo needs."""

    document: str
    status: str
    observed_at: str | None = None


@dataclass(frozen=True, slots=True)
class Expected:
    """The status that the service is to hold in the end."""

    status: str
    message: str


class Runner:
    """Writes results, and remembers what is to become of all that are handed in."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.files = 0
        """Files handed in, those that are no results included."""
        self.results: dict[str, int] = {}
        """How many results, by document."""
        self.newest: dict[str, Expected] = {}
        """The newest result by document, as the API words it."""
        self.agents: list[str] = []
        """The documents whose results are runs of the SSM Agent."""

    def write(self, result: ResultFile) -> None:
        """Write a result. One that brings a date of its own is a late one, never the newest."""
        if result.observed_at is None:
            message = default_message(result.document, result.status)
            self.newest[result.document] = Expected(RUN_STATUSES[result.status], message)
        self.results[result.document] = self.results.get(result.document, 0) + 1
        self._write(result)

    def expect_of_agent(self, document: str, newest: Expected) -> None:
        """The SSM Agent ends a run, whose state file is one result."""
        self.agents.append(document)
        self.newest[document] = newest
        self.results[document] = self.results.get(document, 0) + 1
        self.files += 1

    def write_wrongly(self, result: ResultFile) -> str:
        """Write what is no result; returns the file's name."""
        return self._write(result)

    def _write(self, result: ResultFile) -> str:
        self.files += 1
        name = f"{self.files:02}-{result.document}.json"
        draft = self._directory / f".{name}.new"
        draft.write_bytes(msgspec.json.encode(result))
        draft.rename(self._directory / name)
        return name


def late(document: str, status: str, observed_at: datetime) -> ResultFile:
    """A result that arrives long after its run. ``observed_at`` has an offset."""
    return ResultFile(document, status, observed_at.isoformat(timespec="milliseconds"))
