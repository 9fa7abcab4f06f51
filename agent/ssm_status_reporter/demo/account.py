"""The account: what the files said, what the service saw, what the daemon counted, and whether they agree.

Rules:
  * The service's side is the emulator's own: its ledger and the statuses that it really holds.
  * Something is missing unless every association holds its newest result, every result ends in exactly one of
    the ends, and nothing is left over.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ssm_status_reporter.demo import ssm_agent
from ssm_status_reporter.demo.daemon_process import ACCESS_KEY_ID, NODE
from ssm_status_reporter.demo.runner import Runner
from ssm_status_reporter.domain.entry import Count
from ssm_status_reporter.emulator.ledger import Entry
from ssm_status_reporter.emulator.server import Emulator
from ssm_status_reporter.outbox.snapshot import OutboxView, Snapshot
from ssm_status_reporter.ssm.codes import Operation

ENDS: Final = {
    Count.DELIVERED: "delivered",
    Count.ALREADY_HELD: "held already",
    Count.SUPPRESSED_UNCHANGED: "unchanged",
    Count.SUPPRESSED_STALE: "stale",
    Count.COALESCED: "replaced",
    Count.DEAD: "dead",
}
"""Every end of a result, and what it is called here."""


@dataclass(frozen=True, slots=True)
class Row:
    """One document: ``calls`` = ``results`` - ``saved`` + ``again``."""

    document: str
    results: int
    saved: int
    """Results that needed no call."""
    again: int
    """Calls repeated because the service or the connection failed."""
    calls: int
    held: str
    """The status that the service holds in the end."""


@dataclass(frozen=True, slots=True)
class AgentsRun:
    """What became of the run that the SSM Agent reported itself."""

    document: str
    lost: int
    """Calls of the agent's own for the run's end that came to nothing."""
    delivered: int
    """Calls of the daemon's for the same document that the service took."""


@dataclass(frozen=True, slots=True)
class Account:
    """The end of the demo."""

    rows: Sequence[Row]
    refused: int
    received: int
    ends: Sequence[tuple[str, int]]
    """What became of the results received: those ends that occurred."""
    agents_runs: Sequence[AgentsRun]
    questions: int
    """DescribeAssociation: what the daemon asked before it wrote."""
    left: int
    """Reports that are pending, in flight, parked or dead."""
    lost: int
    """Files of which nobody can say what became."""
    missing: Sequence[str]
    """What is wrong; empty when everything arrived."""
    seconds: float

    @property
    def calls(self) -> int:
        """UpdateAssociationStatus calls that the service saw."""
        return sum(row.calls for row in self.rows)

    @property
    def saved(self) -> int:
        """Results that needed no call."""
        return sum(row.saved for row in self.rows)

    @property
    def again(self) -> int:
        """Calls repeated because of a fault."""
        return sum(row.again for row in self.rows)


def account(runner: Runner, service: Emulator, state: Snapshot, seconds: float) -> Account:
    """Draw it up. ``state`` is what ``status --json`` says once the daemon has ended."""
    counters = state.counters
    return Account(
        rows=[_row(document, runner, service) for document in runner.results],
        refused=counters[Count.REFUSED],
        received=counters[Count.RECEIVED],
        ends=[(name, counters[end]) for end, name in ENDS.items() if counters[end]],
        agents_runs=[_agents_run(document, service) for document in runner.agents],
        questions=sum(entry.operation == Operation.DESCRIBE for entry in service.ledger),
        left=_left(state.outbox),
        lost=runner.files - counters[Count.REFUSED] - _ended(state) - _undelivered(state.outbox),
        missing=list(_missing(runner, service, state)),
        seconds=seconds,
    )


def _row(document: str, runner: Runner, service: Emulator) -> Row:
    results = runner.results[document]
    calls = [entry for entry in service.ledger if _is_call(entry) and entry.document == document]
    # A report keeps its date when its call is repeated.
    sent = len({entry.date for entry in calls})
    held = service.status_of(NODE, document)
    return Row(
        document=document,
        results=results,
        saved=results - sent,
        again=len(calls) - sent,
        calls=len(calls),
        held="nothing" if held is None else held.status,
    )


def _agents_run(document: str, service: Emulator) -> AgentsRun:
    """The service's ledger tells whose call was lost, and whose arrived."""
    calls = [
        entry for entry in service.ledger if entry.operation == Operation.UPDATE and entry.document == document
    ]
    own = [
        entry for entry in calls if entry.access_key_id == ssm_agent.ACCESS_KEY_ID and entry.status != "Pending"
    ]
    ours = [entry for entry in calls if entry.access_key_id == ACCESS_KEY_ID]
    return AgentsRun(
        document,
        lost=sum(not entry.applied for entry in own),
        delivered=sum(entry.applied for entry in ours),
    )


def _missing(runner: Runner, service: Emulator, state: Snapshot) -> Iterator[str]:
    for document, newest in runner.newest.items():
        held = service.status_of(NODE, document)
        if held is None or (held.status, held.message) != (newest.status, newest.message):
            yield f"{document}: the newest result is {newest}, the service holds {held}"
    for run in (_agents_run(document, service) for document in runner.agents):
        if not (run.lost and run.delivered):
            yield f"{run.document}: the SSM Agent's own report was to be lost and ours to arrive: {run}"
    counters, results = state.counters, sum(runner.results.values())
    if counters[Count.RECEIVED] != results:
        yield f"{results} results were written, the daemon received {counters[Count.RECEIVED]}"
    if counters[Count.REFUSED] != runner.files - results:
        yield f"{runner.files - results} files were no results, the daemon refused {counters[Count.REFUSED]}"
    if counters[Count.RECEIVED] != _ended(state) + _undelivered(state.outbox):
        yield f"of {counters[Count.RECEIVED]} results received, {_ended(state)} have ended: {dict(counters)}"
    if _left(state.outbox):
        yield f"{_left(state.outbox)} reports are left in the outbox: {state.outbox}"


def _ended(state: Snapshot) -> int:
    return sum(state.counters[end] for end in ENDS)


def _undelivered(outbox: OutboxView) -> int:
    return outbox.pending + outbox.in_flight + outbox.parked


def _left(outbox: OutboxView) -> int:
    return _undelivered(outbox) + outbox.dead


def _is_call(entry: Entry) -> bool:
    """A call of the daemon's."""
    return entry.operation == Operation.UPDATE and entry.access_key_id != ssm_agent.ACCESS_KEY_ID
