"""The outbox on SQLite, as the event loop sees it: each method is one operation of a group commit.

Rules (numbers as in ARCHITECTURE.md):
  1. `observe` returns after the commit: only then may a source acknowledge.

A claim need not survive a power loss: what is pending at start is taken as possibly sent anyhow.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from ssm_status_reporter.domain.association import Association
from ssm_status_reporter.domain.entry import Claim, Count
from ssm_status_reporter.domain.holds import Change
from ssm_status_reporter.domain.observation import Finding
from ssm_status_reporter.domain.outcome import Answer, Outcome
from ssm_status_reporter.domain.reconciliation import Reconciliation
from ssm_status_reporter.domain.report import Comparison, Report
from ssm_status_reporter.domain.result import Result
from ssm_status_reporter.domain.sighting import Sighting
from ssm_status_reporter.outbox.claims import Claims
from ssm_status_reporter.outbox.commit import Committer
from ssm_status_reporter.outbox.database import Durability
from ssm_status_reporter.outbox.operations import Operations, Settlement
from ssm_status_reporter.outbox.tables import FACT_COMPARISON, Tables

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Observation:
    findings: Sequence[Finding]
    is_for_the_reporter: bool
    """Whether there is news that no claim stood by for."""


class SqliteOutbox:
    """The daemon's outbox. All methods belong to the event loop; the work is done by the committer's thread."""

    def __init__(self, committer: Committer, operations: Operations) -> None:
        self._committer = committer
        self.operations = operations
        """What the committer does for us, and what that goes by."""
        self.on_news: Callable[[], None] = _nobody
        """Called when something may be due that no claim stood by for."""
        self._facts: Mapping[str, str] = {}
        self._refused = 0
        """Inputs that were refused while others were being counted."""
        self._is_counting = False
        committer.let_adopt(self._adopt, self._adopted)

    # Sources hand in.

    async def observe(self, results: Sequence[Result]) -> None:
        """Return once every result is on disk; wakes the reporter if any is news that no claim stood by for."""
        operation = self.operations.observe
        self._found(results, await self._committer.submit(lambda tables: self._noted(operation(tables, results))))

    def count_refused(self, inputs: int) -> None:
        """Count inputs that are no results. Nobody waits for it: what cannot be written yet is one sum, not a queue."""
        self._refused += inputs
        if not self._is_counting:
            self._count_waiting()

    def _count_waiting(self) -> None:
        inputs, self._refused = self._refused, 0
        self._is_counting = True
        counting = self._committer.submit(
            lambda tables: tables.count(((Count.REFUSED, inputs),)), Durability.PROCESS_DEATH
        )
        counting.add_done_callback(self._counted)

    def _counted(self, _: object) -> None:
        self._is_counting = False
        if self._refused:
            self._count_waiting()

    async def known(self) -> Mapping[bytes, Sighting]:
        """Every remembered sighting of a file that stays where it is, by its name."""
        seen = await self._committer.submit(lambda tables: tables.sightings(), Durability.PROCESS_DEATH)
        return {sighting.name: sighting for sighting in seen}

    async def observe_kept(self, sighted: Sequence[tuple[Result, Sighting]]) -> None:
        """As `observe`, with the sightings in the same commit."""
        operation = self.operations.observe_kept
        observation = await self._committer.submit(lambda tables: self._noted(operation(tables, sighted)))
        self._found([result for result, _ in sighted], observation)

    async def forget(self, names: Collection[bytes]) -> None:
        """Files that are gone."""
        await self._committer.submit(
            lambda tables: self.operations.forget(tables, names), Durability.PROCESS_DEATH
        )

    def _noted(self, findings: Sequence[Finding]) -> _Observation:
        """In the committer's thread, where it is known whether a claim comes with the batch."""
        return _Observation(findings, Finding.NEWS in findings and not self._committer.ends_standing)

    def _found(self, results: Sequence[Result], observation: _Observation) -> None:
        if observation.is_for_the_reporter:
            self.on_news()
        said = log.bind()  # once, not for each of them
        for result, finding in zip(results, observation.findings, strict=True):
            said.debug(
                "received",
                document=result.association.document,
                instance_id=result.association.instance_id,
                status=result.report.status,
                source=result.source,
                finding=finding.value,
            )

    # The reporter takes out and settles.

    async def claim(self, slots: int, shut_nodes: frozenset[str], probed_nodes: Sequence[str]) -> Claims:
        """Take up to ``slots`` due reports: none of a node that is shut, but one of each that is to be probed."""
        return await self._committer.submit(
            lambda tables: self.operations.claim(tables, slots, shut_nodes, probed_nodes), Durability.PROCESS_DEATH
        )

    def stand_by(self, slots: int) -> asyncio.Future[Claims]:
        """As `claim`, of every node, in the commit of what is observed next; cancelled by `withdraw` before that."""
        return self._committer.stand_by(lambda tables: self.operations.claim(tables, slots, frozenset(), ()))

    def withdraw(self) -> None:
        """Nothing is taken by what stands by, unless its commit is under way."""
        self._committer.withdraw()

    async def claim_probe(self) -> Claims:
        """Take one due report, the one that was the probe longest ago; a question while no report is due."""
        return await self._committer.submit(self.operations.claim_probe, Durability.PROCESS_DEATH)

    async def claim_questions(self, slots: int, shut_until_ms: Mapping[str, int]) -> Claims:
        """Take up to ``slots`` entries at rest that are to be compared with the service: none of a node that is shut.

        Those are put off until then (steady), when one of them may be the probe.
        """
        return await self._committer.submit(
            lambda tables: self.operations.claim_questions(tables, slots, shut_until_ms), Durability.PROCESS_DEATH
        )

    async def answer(self, claim: Claim, answer: Answer) -> Settlement:
        """Settle a question; the settlement may go on with the call."""
        return await self._committer.submit(lambda tables: self.operations.answer(tables, claim, answer))

    async def settle(self, claim: Claim, outcome: Outcome) -> Settlement:
        """Settle a call."""
        return await self._committer.submit(lambda tables: self.operations.settle(tables, claim, outcome))

    async def learn(self, claim: Claim, held: Report) -> bool:
        """Note what the service compares, if its StatusUnchanged to the claim shows it (rule 7).

        Whether that decides from now on: the configuration may have been changed since the claim.
        """
        if not await self._committer.submit(lambda tables: self.operations.learn(tables, claim, held)):
            return False
        self._keep(FACT_COMPARISON, Comparison.STATUS)
        policy = self.operations.policy
        if policy.learning:
            self.operations.policy = replace(policy, comparison=Comparison.STATUS, learning=False)
        return policy.learning

    async def show_holds(self, changes: Sequence[Change]) -> None:
        """Bring up to date what ``status`` shows, and what a node's hold keeps back."""
        operation = self.operations.show_holds
        await self._committer.submit(lambda tables: operation(tables, changes), Durability.PROCESS_DEATH)

    async def make_due(self, associations: Collection[Association]) -> None:
        """Let their reports be claimed now: what they wait for may have been mended."""
        operation = self.operations.make_due
        await self._committer.submit(lambda tables: operation(tables, associations), Durability.PROCESS_DEATH)

    @property
    def reconciles(self) -> bool:
        """Whether the service is asked what it holds of entries at rest."""
        return self.operations.reconciliation.is_on

    # Starting, and a changed configuration.

    async def recover(self) -> int:
        """Settle what an earlier process left; returns how many reports are to be delivered."""
        return await self._committer.submit(self.operations.recover)

    async def replan(self, reconciliation: Reconciliation) -> None:
        """Reconcile by a changed configuration from now on; what was planned further ahead comes earlier."""
        self.operations.reconciliation = reconciliation
        await self._committer.submit(self.operations.replan)

    async def totals(self) -> Mapping[str, int]:
        """How many entries are in each state."""
        return await self._committer.submit(lambda tables: tables.totals(), Durability.PROCESS_DEATH)

    async def put_fact(self, name: str, value: str) -> None:
        """Remember what ``status`` is to show, in whatever file is the outbox's."""
        self._keep(name, value)
        await self._committer.submit(lambda tables: tables.put_fact(name, value))

    async def fact(self, name: str) -> str | None:
        """What is remembered under that name, from now on in whatever file is the outbox's."""
        value = await self._committer.submit(lambda tables: tables.fact(name), Durability.PROCESS_DEATH)
        if value is not None:
            self._keep(name, value)
        return value

    def _keep(self, name: str, value: str) -> None:
        self._facts = {**self._facts, name: value}  # another one: the committer's thread may be going through it

    async def close(self) -> None:
        """Commit what was submitted, then close the file."""
        if self._refused:
            self._count_waiting()
        await self._committer.close()

    def _adopt(self, tables: Tables) -> None:
        """Another file is the outbox's now: what another process left in it is settled as at a start."""
        self.operations.recover(tables)
        for name, value in self._facts.items():
            tables.put_fact(name, value)

    def _adopted(self) -> None:
        self.on_news()


def _nobody() -> None:
    """Nobody is to be woken yet."""
