"""The outbox on SQLite: each method is one operation of a group commit, and decides by the domain.

Rules (numbers as in ARCHITECTURE.md):
  1. `observe` returns after the commit: only then may a source acknowledge.
  2. An operation reads the entry, lets the domain decide, and writes the next one, within one transaction.
 11. Ends are counted in the transaction that causes them.
 12. Dead letters are bounded; the oldest go first, and it is said.

A claim need not survive a power loss: what is pending at start is taken as possibly sent anyhow.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import structlog
from msgspec import structs

from ssm_status_reporter.domain.answer import answered, learnt
from ssm_status_reporter.domain.association import Association
from ssm_status_reporter.domain.entry import Claim, Count, Entry, Policy, Settled
from ssm_status_reporter.domain.holds import EVERYTHING, Hold, Node, Opening
from ssm_status_reporter.domain.holds import Change as HoldChange
from ssm_status_reporter.domain.limits import RECONCILE_START_MS_MAX
from ssm_status_reporter.domain.observation import Finding, observed
from ssm_status_reporter.domain.outcome import (
    Answer,
    Busy,
    Outcome,
    Scope,
    Throttled,
    Unavailable,
    Unreachable,
    Withheld,
)
from ssm_status_reporter.domain.reconciliation import Reconciliation
from ssm_status_reporter.domain.report import Comparison, Report
from ssm_status_reporter.domain.result import Result, Writer
from ssm_status_reporter.domain.settlement import recovered, settled
from ssm_status_reporter.domain.sighting import Sighting
from ssm_status_reporter.outbox.claims import Claims, take_due, take_probe, take_questions
from ssm_status_reporter.outbox.commit import Committer
from ssm_status_reporter.outbox.database import Durability
from ssm_status_reporter.outbox.tables import FACT_COMPARISON, HoldRow, Tables
from ssm_status_reporter.ports import Chance, Clock

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Settlement:
    """What became of a claim, and the dead letter's id if there is one."""

    after: Settled
    dead_letter_id: int | None = None

    @property
    def entry(self) -> Entry:
        """The entry now."""
        return self.after.entry

    @property
    def then(self) -> Claim | None:
        """What the slot goes on with."""
        return self.after.then


@dataclass(frozen=True, slots=True)
class _Observation:
    findings: Sequence[Finding]
    is_for_the_reporter: bool
    """Whether there is news that no claim stood by for."""


class SqliteOutbox:
    """The daemon's outbox. All methods belong to the event loop; the work is done by the committer's thread."""

    def __init__(
        self,
        committer: Committer,
        clock: Clock,
        chance: Chance,
        policy: Policy,
        reconciliation: Reconciliation,
        dead_letters_max: int,
    ) -> None:
        self._committer = committer
        self._clock = clock
        self._chance = chance
        self.on_news: Callable[[], None] = _nobody
        """Called when something may be due that no claim stood by for."""
        self.policy = policy
        self.reconciliation = reconciliation
        self.dead_letters_max = dead_letters_max
        self._facts: Mapping[str, str] = {}
        self._refused = 0
        """Inputs that were refused while others were being counted."""
        self._is_counting = False
        committer.let_adopt(self._adopt, self._adopted)

    # Sources hand in.

    async def observe(self, results: Sequence[Result]) -> None:
        """Return once every result is on disk; wakes the reporter if any is news that no claim stood by for."""
        self._found(results, await self._committer.submit(lambda tables: self._observe(tables, results)))

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
        observation = await self._committer.submit(lambda tables: self._observe_kept(tables, sighted))
        self._found([result for result, _ in sighted], observation)

    async def forget(self, names: Collection[bytes]) -> None:
        """Files that are gone."""
        await self._committer.submit(lambda tables: _forget(tables, names), Durability.PROCESS_DEATH)

    def _found(self, results: Sequence[Result], observation: _Observation) -> None:
        if observation.is_for_the_reporter:
            self.on_news()
        for result, finding in zip(results, observation.findings, strict=True):
            log.debug(
                "received",
                document=result.association.document,
                instance_id=result.association.instance_id,
                status=result.report.status,
                source=result.source,
                finding=finding.value,
            )

    def _observe_kept(self, tables: Tables, sighted: Sequence[tuple[Result, Sighting]]) -> _Observation:
        for _, sighting in sighted:
            tables.put_sighting(sighting)
        return self._observe(tables, [result for result, _ in sighted])

    def _observe(self, tables: Tables, results: Sequence[Result]) -> _Observation:
        now = self._clock.now()
        findings = []
        for result in results:
            before = tables.entry(result.association)
            after = observed(before, result, now, self.policy)
            if after.entry is not before:
                tables.store(after.entry, self._next_reconcile_ms(now.steady_ms))
            tables.count(after.counts)
            findings.append(after.finding)
        return _Observation(findings, Finding.NEWS in findings and not self._committer.ends_standing)

    # The reporter takes out and settles.

    async def claim(self, slots: int, shut_nodes: frozenset[str], probed_nodes: Sequence[str]) -> Claims:
        """Take up to ``slots`` due reports: none of a node that is shut, but one of each that is to be probed."""
        return await self._committer.submit(
            lambda tables: self._claim(tables, slots, shut_nodes, probed_nodes), Durability.PROCESS_DEATH
        )

    def stand_by(self, slots: int) -> asyncio.Future[Claims]:
        """As `claim`, of every node, in the commit of what is observed next; cancelled by `withdraw` before that."""
        return self._committer.stand_by(lambda tables: self._claim(tables, slots, frozenset(), ()))

    def withdraw(self) -> None:
        """Nothing is taken by what stands by, unless its commit is under way."""
        self._committer.withdraw()

    async def claim_probe(self) -> Claims:
        """Take one due report, the one that was the probe longest ago; a question while no report is due."""
        return await self._committer.submit(self._claim_probe, Durability.PROCESS_DEATH)

    async def claim_questions(self, slots: int, shut_until_ms: Mapping[str, int]) -> Claims:
        """Take up to ``slots`` entries at rest that are to be compared with the service: none of a node that is shut.

        Those are put off until then (steady), when one of them may be the probe.
        """
        return await self._committer.submit(
            lambda tables: self._claim_questions(tables, slots, shut_until_ms), Durability.PROCESS_DEATH
        )

    async def answer(self, claim: Claim, answer: Answer) -> Settlement:
        """Settle a question; the settlement may go on with the call."""
        return await self._committer.submit(lambda tables: self._answer(tables, claim, answer))

    async def settle(self, claim: Claim, outcome: Outcome) -> Settlement:
        """Settle a call."""
        return await self._committer.submit(lambda tables: self._settle_call(tables, claim, outcome))

    async def learn(self, claim: Claim, held: Report) -> bool:
        """Note what the service compares, if its StatusUnchanged to the claim shows it (rule 7).

        Whether that decides from now on: the configuration may have been changed since the claim.
        """
        if not await self._committer.submit(lambda tables: self._learn(tables, claim, held)):
            return False
        self._keep(FACT_COMPARISON, Comparison.STATUS)
        if not self.policy.learning:
            return False
        self.policy = replace(self.policy, comparison=Comparison.STATUS, learning=False)
        return True

    async def show_holds(self, changes: Sequence[HoldChange]) -> None:
        """Bring up to date what ``status`` shows, and what a node's hold keeps back."""
        await self._committer.submit(lambda tables: _show_holds(tables, changes), Durability.PROCESS_DEATH)

    async def make_due(self, associations: Collection[Association]) -> None:
        """Let their reports be claimed now: what they wait for may have been mended."""
        await self._committer.submit(lambda tables: self._make_due(tables, associations), Durability.PROCESS_DEATH)

    # Starting.

    async def recover(self) -> int:
        """Settle what an earlier process left; returns how many reports are to be delivered."""
        return await self._committer.submit(self._recover)

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

    # Operations.

    def _claim(
        self, tables: Tables, slots: int, shut_nodes: frozenset[str], probed_nodes: Sequence[str]
    ) -> Claims:
        return take_due(tables, self._clock.now(), self.policy, slots, shut_nodes, probed_nodes)

    def _claim_probe(self, tables: Tables) -> Claims:
        taken = take_probe(tables, self._clock.now(), self.policy)
        if taken.claims or not self.reconciliation.is_on:
            return taken
        questions = self._claim_questions(tables, 1, {})
        upcoming = [ms for ms in (taken.next_due_ms, questions.next_due_ms) if ms is not None]
        return Claims(questions.claims, min(upcoming, default=None))

    def _claim_questions(self, tables: Tables, slots: int, shut_until_ms: Mapping[str, int]) -> Claims:
        now = self._clock.now()
        return take_questions(tables, now, slots, shut_until_ms, partial(self._next_reconcile_ms, now.steady_ms))

    def _next_reconcile_ms(self, now_ms: int) -> int | None:
        return self.reconciliation.next_ms(now_ms, self._chance())

    def _answer(self, tables: Tables, claim: Claim, answer: Answer) -> Settlement:
        now = self._clock.now()
        entry = tables.entry(claim.association)
        settlement = self._settle(
            tables, claim, entry, answered(entry, claim, answer, now, self._chance(), self.policy)
        )
        soon_ms = self.policy.backoff.max_ms
        if (
            settlement.entry.pending is None
            and _may_pass(answer)
            and not 0 < self.reconciliation.interval_ms < soon_ms
        ):
            tables.reconcile_again(claim.association, now.steady_ms + soon_ms)
        return settlement

    def _settle_call(self, tables: Tables, claim: Claim, outcome: Outcome) -> Settlement:
        now = self._clock.now()
        before = tables.entry(claim.association)
        return self._settle(
            tables, claim, before, settled(before, claim, outcome, now, self._chance(), self.policy)
        )

    def _settle(self, tables: Tables, claim: Claim, before: Entry, result: Settled) -> Settlement:
        now_ms = self._clock.now().steady_ms
        tables.store(result.entry, self._next_reconcile_ms(now_ms))
        tables.count(result.counts)
        shared = before.pending is not None and before.pending.writer is Writer.SHARED
        if shared and any(count in _HELD_NOW and change > 0 for count, change in result.counts):
            tables.reconcile_again(claim.association, now_ms + self.policy.look_again_ms)
        letter_id = None
        if result.buried is not None:
            letter_id = tables.dead_letters.add(
                claim.association, result.buried.report, result.buried.problem, self._clock.now().wall_ms
            )
            if dropped := tables.dead_letters.drop_oldest(self.dead_letters_max):
                log.warning(
                    "dead letters dropped: there are too many",
                    dropped=dropped,
                    kept=self.dead_letters_max,
                    hint="look at `dead-letters list`; outbox.max_dead_letters sets how many are kept",
                )
        return Settlement(result, letter_id)

    def _make_due(self, tables: Tables, associations: Collection[Association]) -> None:
        now_ms = self._clock.now().steady_ms
        for association in associations:
            entry = tables.entry(association)
            if entry.retry_at_ms > now_ms:
                tables.store(structs.replace(entry, retry_at_ms=now_ms))

    def _learn(self, tables: Tables, claim: Claim, held: Report) -> bool:
        if not learnt(claim, tables.entry(claim.association), held):
            return False
        tables.put_fact(FACT_COMPARISON, Comparison.STATUS)
        return True

    def _recover(self, tables: Tables) -> int:
        now = self._clock.now()
        waiting = 0
        tables.remove_holds()
        for entry in tables.unsettled():
            result = recovered(entry, now, self.policy)
            tables.store(result.entry)
            tables.count(result.counts)
            waiting += result.entry.pending is not None
        self._plan_reconciliation(tables, now.steady_ms)
        return waiting

    def _adopt(self, tables: Tables) -> None:
        """Another file is the outbox's now: what another process left in it is settled as at a start."""
        self._recover(tables)
        for name, value in self._facts.items():
            tables.put_fact(name, value)

    def _adopted(self) -> None:
        self.on_news()

    async def replan(self, reconciliation: Reconciliation) -> None:
        """Reconcile by a changed configuration from now on; what was planned further ahead comes earlier."""
        self.reconciliation = reconciliation
        await self._committer.submit(self._replan)

    def _replan(self, tables: Tables) -> None:
        interval_ms = self.reconciliation.interval_ms
        if interval_ms == 0:
            tables.reconcile_all(None)
        else:
            tables.reconcile_by(self._clock.now().steady_ms + interval_ms)

    def _plan_reconciliation(self, tables: Tables, now_ms: int) -> None:
        plan = self.reconciliation
        if plan.on_start:
            tables.reconcile_all(now_ms + round(self._chance() * RECONCILE_START_MS_MAX))
        else:
            self._replan(tables)


def shown(hold: Hold) -> HoldRow:
    """The hold as ``status`` shows it."""
    instance_id = None if hold.subject == EVERYTHING else getattr(hold.subject, "instance_id", None)
    document = getattr(hold.subject, "document", None)
    problem = hold.problem
    reason = f"{problem.code}: {problem.message}" + (f" ({problem.hint})" if problem.hint else "")
    return HoldRow(hold.scope, instance_id, document, reason, hold.since_ms, hold.next_probe_ms)


def _show_holds(tables: Tables, changes: Sequence[HoldChange]) -> None:
    for change in changes:
        row = shown(change.hold)
        if isinstance(change, Opening):
            tables.remove_hold(row)
            if isinstance(change.hold.subject, Node):
                tables.release(change.hold.subject.instance_id)
        else:
            tables.put_hold(row)


def _may_pass(answer: Answer) -> bool:
    """Whether it is worth asking again before the next reconciliation: nothing was answered about this association."""
    if isinstance(answer, Withheld):
        return answer.scope is not Scope.PERMISSION
    return isinstance(answer, Busy | Throttled | Unreachable | Unavailable)


def _forget(tables: Tables, names: Collection[bytes]) -> None:
    for name in names:
        tables.remove_sighting(name)


_HELD_NOW: Final = frozenset({Count.DELIVERED, Count.ALREADY_HELD})
"""Ends of which another daemon may not know: what it was told before may lead it to overwrite them."""


def _nobody() -> None:
    """Nobody is to be woken yet."""
