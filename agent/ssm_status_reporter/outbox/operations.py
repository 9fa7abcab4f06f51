"""The operations: what one of the outbox does with the tables, by what the domain decides.

Rules (numbers as in ARCHITECTURE.md):
  2. An operation reads the entry, lets the domain decide, and writes the next one, within one transaction.
 11. Ends are counted in the transaction that causes them.
 12. Dead letters are bounded; the oldest go first, and it is said.

They are done in the committer's thread, and may be done again, whole: they change nothing but the tables. What they
go by is replaced from the event loop, one immutable value at a time.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog
from msgspec import structs

from ssm_status_reporter.domain.answer import answered, learnt
from ssm_status_reporter.domain.association import Association
from ssm_status_reporter.domain.entry import Claim, Count, Entry, Policy, Settled
from ssm_status_reporter.domain.holds import EVERYTHING, Change, Hold, Node, Opening
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
from ssm_status_reporter.outbox.tables import FACT_COMPARISON, HoldRow, Tables
from ssm_status_reporter.ports import Chance, Clock

log = structlog.get_logger()

_HELD_NOW: Final = frozenset({Count.DELIVERED, Count.ALREADY_HELD})
"""Ends of which another daemon may not know: what it was told before may lead it to overwrite them."""


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


class Operations:
    """Each method is one operation; `SqliteOutbox` says what it is for."""

    def __init__(
        self, clock: Clock, chance: Chance, policy: Policy, reconciliation: Reconciliation, dead_letters_max: int
    ) -> None:
        self._clock = clock
        self._chance = chance
        self.policy = policy
        self.reconciliation = reconciliation
        self.dead_letters_max = dead_letters_max

    def observe(self, tables: Tables, results: Sequence[Result]) -> list[Finding]:
        """What each result was found to be."""
        now = self._clock.now()
        findings = []
        for result in results:
            before = tables.entry(result.association)
            after = observed(before, result, now, self.policy)
            if after.entry is not before:
                tables.store(after.entry, self._next_reconcile_ms(now.steady_ms))
            tables.count(after.counts)
            findings.append(after.finding)
        return findings

    def observe_kept(self, tables: Tables, sighted: Sequence[tuple[Result, Sighting]]) -> list[Finding]:
        """As `observe`, and the files' sightings are remembered."""
        for _, sighting in sighted:
            tables.put_sighting(sighting)
        return self.observe(tables, [result for result, _ in sighted])

    def forget(self, tables: Tables, names: Collection[bytes]) -> None:
        """Sightings of files that are gone."""
        for name in names:
            tables.remove_sighting(name)

    def claim(self, tables: Tables, slots: int, shut_nodes: frozenset[str], probed_nodes: Sequence[str]) -> Claims:
        """Due reports, up to ``slots``."""
        return take_due(tables, self._clock.now(), self.policy, slots, shut_nodes, probed_nodes)

    def claim_probe(self, tables: Tables) -> Claims:
        """One report, or one question."""
        taken = take_probe(tables, self._clock.now(), self.policy)
        if taken.claims or not self.reconciliation.is_on:
            return taken
        questions = self.claim_questions(tables, 1, {})
        upcoming = [ms for ms in (taken.next_due_ms, questions.next_due_ms) if ms is not None]
        return Claims(questions.claims, min(upcoming, default=None))

    def claim_questions(self, tables: Tables, slots: int, shut_until_ms: Mapping[str, int]) -> Claims:
        """Entries at rest, up to ``slots``."""
        now = self._clock.now()
        return take_questions(tables, now, slots, shut_until_ms, partial(self._next_reconcile_ms, now.steady_ms))

    def _next_reconcile_ms(self, now_ms: int) -> int | None:
        return self.reconciliation.next_ms(now_ms, self._chance())

    def answer(self, tables: Tables, claim: Claim, answer: Answer) -> Settlement:
        """A question is settled."""
        now = self._clock.now()
        entry = tables.entry(claim.association)
        settlement = self._settled(
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

    def settle(self, tables: Tables, claim: Claim, outcome: Outcome) -> Settlement:
        """A call is settled."""
        now = self._clock.now()
        before = tables.entry(claim.association)
        return self._settled(
            tables, claim, before, settled(before, claim, outcome, now, self._chance(), self.policy)
        )

    def _settled(self, tables: Tables, claim: Claim, before: Entry, result: Settled) -> Settlement:
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

    def show_holds(self, tables: Tables, changes: Sequence[Change]) -> None:
        """What ``status`` shows of them, and what a node's hold keeps back, is brought up to date."""
        for change in changes:
            row = _shown(change.hold)
            if isinstance(change, Opening):
                tables.remove_hold(row)
                if isinstance(change.hold.subject, Node):
                    tables.release(change.hold.subject.instance_id)
            else:
                tables.put_hold(row)

    def make_due(self, tables: Tables, associations: Collection[Association]) -> None:
        """Whatever they wait for."""
        now_ms = self._clock.now().steady_ms
        for association in associations:
            entry = tables.entry(association)
            if entry.retry_at_ms > now_ms:
                tables.store(structs.replace(entry, retry_at_ms=now_ms))

    def learn(self, tables: Tables, claim: Claim, held: Report) -> bool:
        """Whether the answer to the claim shows what the service compares."""
        if not learnt(claim, tables.entry(claim.association), held):
            return False
        tables.put_fact(FACT_COMPARISON, Comparison.STATUS)
        return True

    def recover(self, tables: Tables) -> int:
        """What another process left is settled; how many reports are to be delivered."""
        now = self._clock.now()
        waiting = 0
        probes_ms = {
            Association(hold.instance_id, hold.document): hold.next_probe_ms
            for hold in tables.holds()
            if hold.instance_id is not None and hold.document is not None
        }
        tables.remove_holds()
        for entry in tables.unsettled():
            freed = _freed(entry, probes_ms.get(entry.association), now.steady_ms)
            result = recovered(freed, now, self.policy)
            tables.store(result.entry)
            tables.count(result.counts)
            waiting += result.entry.pending is not None
        self._plan_reconciliation(tables, now.steady_ms)
        return waiting

    def replan(self, tables: Tables) -> None:
        """What was planned by another reconciliation comes earlier."""
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
            self.replan(tables)


def _freed(entry: Entry, probe_ms: int | None, now_ms: int) -> Entry:
    """Of its own hold, if it waits for that one's probe: a new process neither shows the hold nor hurries it."""
    return structs.replace(entry, retry_at_ms=now_ms) if entry.retry_at_ms == probe_ms else entry


def _shown(hold: Hold) -> HoldRow:
    """The hold as ``status`` shows it."""
    instance_id = None if hold.subject == EVERYTHING else getattr(hold.subject, "instance_id", None)
    document = getattr(hold.subject, "document", None)
    problem = hold.problem
    reason = f"{problem.code}: {problem.message}" + (f" ({problem.hint})" if problem.hint else "")
    return HoldRow(hold.scope, instance_id, document, reason, hold.since_ms, hold.next_probe_ms)


def _may_pass(answer: Answer) -> bool:
    """Whether it is worth asking again before the next reconciliation: nothing was answered about this association."""
    if isinstance(answer, Withheld):
        return answer.scope is not Scope.PERMISSION
    return isinstance(answer, Busy | Throttled | Unreachable | Unavailable)
