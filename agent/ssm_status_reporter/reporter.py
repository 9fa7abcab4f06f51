"""The reporter: takes due reports out of the outbox, calls the service, and settles what it answers.

Rules (numbers as in ARCHITECTURE.md):
  9. A claim is the association's one call slot; at most ``concurrency`` calls are out at a time.
 10. While a hold shuts everything, one probe is out at a time; a shut node has its own probe, a question if no
     report of it is due.
     When everything opens again, the rate restarts low.
 12. A call takes a token of the rate, which gives way while the service throttles. Reconciliation takes its
     share of the rate and only the slots that no report needs.

While no call is out and nothing is shut, a claim stands by in the outbox: news goes out without a commit of its own.
With anything else to go by than that, the loop claims for itself; whatever wakes it withdraws the claim first.

What came of each call is announced to the follower after its settlement.

Nothing here decides about a report or a hold: the domain does. A failure of any task ends `run`.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

from ssm_status_reporter.domain.announcement import Follower, announced
from ssm_status_reporter.domain.association import Association
from ssm_status_reporter.domain.backoff import Backoff
from ssm_status_reporter.domain.entry import Claim, Step
from ssm_status_reporter.domain.holds import EVERYTHING, Change, HoldBoard, Open, Opening, Probe, Shut
from ssm_status_reporter.domain.limits import RECONCILE_RATE_SHARE
from ssm_status_reporter.domain.outcome import (
    Answer,
    Delivered,
    Held,
    HeldNothing,
    NotToBeHad,
    Outcome,
    Refused,
    Scope,
    Throttled,
    Unavailable,
    Unchanged,
    Unreachable,
    Withheld,
)
from ssm_status_reporter.domain.rate import Rate
from ssm_status_reporter.journal import (
    say_answer,
    say_call,
    say_change,
    say_learnt,
    say_not_to_be_had,
    say_throttled,
)
from ssm_status_reporter.outbox.claims import Claims
from ssm_status_reporter.outbox.sqlite import Settlement, SqliteOutbox
from ssm_status_reporter.ports import Chance, Clock, StatusService


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast and how many at a time; from the configuration."""

    concurrency: int
    rate_per_second: float
    burst: int
    backoff: Backoff


_NOTHING: Final = Claims((), None)


class Reporter:
    """The delivery loop. `wake` may be called at any time; it carries no data."""

    def __init__(
        self,
        outbox: SqliteOutbox,
        service: StatusService,
        clock: Clock,
        chance: Chance,
        pace: Pace,
        follower: Follower | None = None,
    ) -> None:
        self._follower = follower
        self._outbox = outbox
        self._service = service
        self._clock = clock
        self._chance = chance
        self._pace = pace
        self._board = HoldBoard(pace.backoff)
        now_ms = clock.now().steady_ms
        self._rate = Rate.full(pace.rate_per_second, pace.burst, now_ms)
        self._questions = Rate.full(pace.rate_per_second * RECONCILE_RATE_SHARE, 1, now_ms)
        self._out: set[Claim] = set()
        self._woken = False
        self._bell = asyncio.Event()
        self._hurried: set[Association] = set()
        self._overtaken: set[tuple[Scope, Association]] = set()
        self._stopping = False
        self._denied_said = False
        self.turned = asyncio.Event()
        """Set at each turn of the loop: something may have happened. Whoever waits for it clears it."""
        self.last_delivered_ms: int | None = None
        """When the service last acknowledged a report, steady."""
        self.progress = 0
        """Grows with each turn of the loop and each answer: a stuck reporter shows as no growth while it works."""

    def wake(self) -> None:
        """Look again: something may be due, or may no more."""
        self._outbox.withdraw()
        self._woken = True
        self._bell.set()

    def stop(self) -> None:
        """Take nothing new; `run` returns when the calls that are out are settled."""
        self._stopping = True
        self.wake()

    def hurry(self, scope: Scope) -> None:
        """Something changed that may have mended the scope: probe it at once.

        A call that is out may have gone before the change: what it fails of, is probed once more.
        """
        self._overtaken.update((scope, claim.association) for claim in self._out)
        self._probe_at_once(scope)

    def _probe_at_once(self, scope: Scope) -> None:
        if self._board.hurry(scope, self._clock.now()):
            subjects = (hold.subject for hold in self._board if hold.scope is scope)
            self._hurried.update(subject for subject in subjects if isinstance(subject, Association))
            self.wake()

    def repace(self, pace: Pace) -> None:
        """Go on under a changed configuration."""
        self._pace = pace
        self._board.backoff = pace.backoff
        self._rate = self._rate.relimited(pace.rate_per_second, pace.burst)
        self._questions = self._questions.relimited(pace.rate_per_second * RECONCILE_RATE_SHARE, 1)
        self.wake()

    @property
    def holds(self) -> HoldBoard:
        """What is shut."""
        return self._board

    @property
    def is_woken(self) -> bool:
        """Whether the loop was told to look and has not looked yet."""
        return self._woken

    @property
    def calls_out(self) -> int:
        """Claims being worked on."""
        return len(self._out)

    async def run(self) -> None:
        """Deliver until `stop`."""
        async with asyncio.TaskGroup() as calls:
            while not self._stopping:
                self._woken = False
                self.turned.set()
                self.progress += 1
                await self._rest_until(calls, await self._dispatch(calls))

    async def _rest_until(self, calls: asyncio.TaskGroup, steady_ms: int | None) -> None:
        """Sleep until woken, or until then; what stood by takes meanwhile is started."""
        timer = None if steady_ms is None else asyncio.ensure_future(self._clock.sleep_until(steady_ms))
        if timer is not None:
            timer.add_done_callback(self._ring)
        try:
            while not self._woken and (timer is None or not timer.done()):
                taken = await self._stand_by()
                for claim in taken.claims:
                    self._start(calls, claim)
                if taken.next_due_ms is not None and (steady_ms is None or taken.next_due_ms < steady_ms):
                    return
        finally:
            if timer is not None:
                timer.remove_done_callback(self._ring)
                timer.cancel()

    async def _stand_by(self) -> Claims:
        """Wait for the bell. Returns what was taken in the commit that rang it, if nothing was in its way."""
        self._bell.clear()
        if self._out or self._board:
            await self._bell.wait()
            return _NOTHING
        standing = self._outbox.stand_by(min(self._pace.concurrency, self._rate.available))
        standing.add_done_callback(self._ring)
        try:
            await self._bell.wait()
        finally:
            standing.remove_done_callback(self._ring)
            self._outbox.withdraw()
        return _NOTHING if standing.cancelled() else await standing

    def _ring(self, _: object) -> None:
        self._bell.set()

    async def _dispatch(self, calls: asyncio.TaskGroup) -> int | None:
        """Start what may go out now; returns when to look again, steady, or None: when woken."""
        if self._hurried:
            hurried, self._hurried = self._hurried, set()
            await self._outbox.make_due(hurried)
        now = self._clock.now()
        self._rate = self._rate.at(now.steady_ms)
        match self._board.admission(now):
            case Shut(until_ms):
                return until_ms
            case Probe():
                return await self._dispatch_probe(calls)
            case Open():
                return await self._dispatch_due(calls)

    async def _dispatch_probe(self, calls: asyncio.TaskGroup) -> int | None:
        if self._out:
            return None
        if self._rate.wait_ms:
            return self._rate.at_ms + self._rate.wait_ms
        taken = await self._outbox.claim_probe()
        for claim in taken.claims:
            self._start(calls, claim)
        return None if taken.claims else taken.next_due_ms

    async def _dispatch_due(self, calls: asyncio.TaskGroup) -> int | None:
        free = self._pace.concurrency - len(self._out)
        if free <= 0:
            return None
        slots = min(free, self._rate.available)
        if slots <= 0:
            return self._rate.at_ms + self._rate.wait_ms
        now = self._clock.now()
        nodes = {node.instance_id: hold for node, hold in self._board.shut_nodes()}
        being_probed = {claim.association.instance_id for claim in self._out}
        probed = [
            node
            for node, hold in nodes.items()
            if hold.next_probe_ms <= now.steady_ms and node not in being_probed
        ]
        taken = await self._outbox.claim(slots, frozenset(nodes), probed)
        for claim in taken.claims:
            self._start(calls, claim)
        upcoming = [hold.next_probe_ms for node, hold in nodes.items() if hold.next_probe_ms > now.steady_ms]
        if taken.next_due_ms is not None and len(taken.claims) < slots:
            upcoming.append(taken.next_due_ms)
        if not taken.claims:
            question_ms = await self._dispatch_question(calls)
            if question_ms is not None:
                upcoming.append(question_ms)
        elif len(taken.claims) == slots and len(self._out) < self._pace.concurrency:
            upcoming.append(self._rate.at_ms + self._rate.wait_ms)
        return min(upcoming, default=None)

    async def _dispatch_question(self, calls: asyncio.TaskGroup) -> int | None:
        """Compare one entry at rest with the service, within the share of the rate that is for it."""
        if not self._outbox.reconciliation.is_on:
            return None
        self._questions = self._questions.at(self._clock.now().steady_ms)
        if self._questions.wait_ms:
            return self._questions.at_ms + self._questions.wait_ms
        taken = await self._outbox.claim_questions(1, self._shut_until_ms())
        for claim in taken.claims:
            self._questions = self._questions.taken(1)
            self._start(calls, claim)
        return taken.next_due_ms

    def _shut_until_ms(self) -> dict[str, int]:
        """The nodes of which no question may go out now, and until when (steady): their probe is out, or not due."""
        now_ms = self._clock.now().steady_ms
        being_probed = {claim.association.instance_id for claim in self._out}
        return {
            node.instance_id: max(hold.next_probe_ms, now_ms + self._pace.backoff.initial_ms)
            for node, hold in self._board.shut_nodes()
            if hold.next_probe_ms > now_ms or node.instance_id in being_probed
        }

    def _start(self, calls: asyncio.TaskGroup, claim: Claim) -> None:
        self._out.add(claim)
        # What stood by may go out long after the last turn: tokens that came meanwhile beyond the burst are none.
        self._rate = self._rate.at(self._clock.now().steady_ms).taken(1)
        calls.create_task(self._serve(claim))

    async def _serve(self, claim: Claim) -> None:
        """Work on a claim until its slot is free again."""
        step: Claim | None = claim
        try:
            while step is not None:
                settlement = await (self._ask(step) if step.step is Step.ASK else self._send(step))
                self.progress += 1
                step = settlement.then
                if step is not None:
                    self._rate = self._rate.taken(1)
        finally:
            self._out.discard(claim)
            if self._overtaken:
                self._overtaken = {each for each in self._overtaken if each[1] != claim.association}
            self.wake()

    async def _ask(self, claim: Claim) -> Settlement:
        answer = await self._service.describe(claim.association)
        match answer:
            case Held() | HeldNothing() | NotToBeHad() | Refused():
                settlement = await self._outbox.answer(claim, answer)
                changes = await self._take_note(claim, answer, settlement.then)
            case _:
                # Before its report can be due again: what it shuts is to hold back that report as well.
                changes = await self._take_note(claim, answer)
                if not isinstance(answer, Unavailable):
                    # A server error is counted even behind a hold: where only the question fails, the call must get
                    # its turn.
                    answer = self._board.for_the_report(claim.association, answer)
                settlement = await self._outbox.answer(claim, answer)
        self._say_denied_once(claim, answer)
        now_ms = self._clock.now().steady_ms
        say_answer(claim, answer, settlement, now_ms)
        self._announce(claim, answer, settlement, changes)
        return settlement

    def _say_denied_once(self, claim: Claim, answer: Answer) -> None:
        """Once, not once an association."""
        if isinstance(answer, Held | HeldNothing):
            self._denied_said = False
        elif isinstance(answer, NotToBeHad) and not self._denied_said:
            self._denied_said = True
            say_not_to_be_had(claim, answer.problem)

    async def _send(self, claim: Claim) -> Settlement:
        outcome = await self._service.update(claim.association, claim.report)
        changes = await self._take_note(claim, outcome)
        match outcome:
            case Delivered():
                self.last_delivered_ms = self._clock.now().steady_ms
            case Unchanged():
                self.last_delivered_ms = self._clock.now().steady_ms
                if claim.confirm_unchanged:
                    await self._learn(claim)
            case _:
                outcome = self._board.for_the_report(claim.association, outcome)
        settlement = await self._outbox.settle(claim, outcome)
        now_ms = self._clock.now().steady_ms
        say_call(claim, outcome, settlement.entry, settlement.dead_letter_id, now_ms)
        self._announce(claim, outcome, settlement, changes)
        return settlement

    def _announce(
        self, claim: Claim, outcome: Outcome | Answer, settlement: Settlement, changes: tuple[Change, ...]
    ) -> None:
        if self._follower is not None:
            announcement = announced(claim, outcome, settlement.after, changes, self._clock.now().wall_ms)
            if announcement is not None:
                self._follower(announcement)

    async def _learn(self, claim: Claim) -> None:
        """StatusUnchanged although the message differed: ask what is held, and learn from it (rule 7)."""
        answer = await self._service.describe(claim.association)
        self._rate = self._rate.taken(1)
        if isinstance(answer, Held) and await self._outbox.learn(claim, answer.report):
            say_learnt(claim)

    async def _take_note(
        self, claim: Claim, outcome: Outcome | Answer, then: Claim | None = None
    ) -> tuple[Change, ...]:
        """What the answer means for everything else: the rate, the holds, the credentials. What it did to the holds."""
        now = self._clock.now()
        if isinstance(outcome, Throttled):
            before = self._rate.per_second
            self._rate = self._rate.throttled(now.steady_ms)
            if self._rate.per_second < before:
                say_throttled(self._rate.per_second)
        elif not isinstance(outcome, Unreachable | Unavailable):
            self._rate = self._rate.accepted()
        next_step = None if then is None else then.step
        changes = self._board.record(claim.association, outcome, now, self._chance(), next_step)
        if changes:
            await self._outbox.show_holds(changes)
            for change in changes:
                say_change(change, now.steady_ms)
                overtaken = (change.hold.scope, claim.association)
                if overtaken in self._overtaken and not isinstance(change, Opening):
                    self._overtaken.discard(overtaken)
                    self._probe_at_once(change.hold.scope)
                if isinstance(change, Opening) and change.hold.subject == EVERYTHING:
                    self._rate = self._rate.ramped(now.steady_ms)
            self.wake()
        if isinstance(outcome, Withheld) and outcome.scope is Scope.CREDENTIALS:
            await self._service.reload_credentials()
        return changes
