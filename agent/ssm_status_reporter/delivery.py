"""Delivery: the work on one claim, from its first call until its slot is free again.

Rules (numbers as in ARCHITECTURE.md):
  9. A claim is a question or an update; a settled question may go on with the update, in the same slot.
 10. What an answer shuts is noted before its report is settled, and so before it can be due again.
 11. What came of each call is said once, and announced to the follower, after its settlement.

Nothing here decides about a report or a hold: the domain does.
"""

from collections.abc import Callable

from ssm_status_reporter.domain.announcement import Follower, announced
from ssm_status_reporter.domain.entry import Claim, Step
from ssm_status_reporter.domain.holds import Change
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
    Withheld,
)
from ssm_status_reporter.domain.traffic import Traffic
from ssm_status_reporter.journal import (
    say_answer,
    say_call,
    say_change,
    say_learnt,
    say_not_to_be_had,
    say_throttled,
)
from ssm_status_reporter.outbox.operations import Settlement
from ssm_status_reporter.outbox.sqlite import SqliteOutbox
from ssm_status_reporter.ports import Chance, Clock, StatusService


class Delivery:
    """Works on any number of claims at a time. ``on_change`` is called when an answer shut or opened something."""

    def __init__(
        self,
        outbox: SqliteOutbox,
        service: StatusService,
        clock: Clock,
        chance: Chance,
        traffic: Traffic,
        follower: Follower | None,
        on_change: Callable[[], None],
    ) -> None:
        self._outbox = outbox
        self._service = service
        self._clock = clock
        self._chance = chance
        self._traffic = traffic
        self._follower = follower
        self._on_change = on_change
        self._denied_said = False
        self.answers = 0
        """Answers settled."""
        self.last_delivered_ms: int | None = None
        """When the service last acknowledged a report, steady."""

    async def work(self, claim: Claim) -> None:
        """Return when the slot is free; the claim has begun in the traffic, and is ended there by the caller."""
        step: Claim | None = claim
        while step is not None:
            settlement = await (self._ask(step) if step.step is Step.ASK else self._send(step))
            self.answers += 1
            step = settlement.then
            if step is not None:
                self._traffic.go_on(self._clock.now().steady_ms)

    async def _ask(self, claim: Claim) -> Settlement:
        answer = await self._service.describe(claim.association)
        match answer:
            case Held() | HeldNothing() | NotToBeHad() | Refused():
                settlement = await self._outbox.answer(claim, answer)
                changes = await self._take_note(claim, answer, settlement.then)
            case _:
                changes = await self._take_note(claim, answer)
                if not isinstance(answer, Unavailable):
                    # A server error is counted even behind a hold: where only the question fails, the call must get
                    # its turn.
                    answer = self._traffic.board.for_the_report(claim.association, answer)
                settlement = await self._outbox.answer(claim, answer)
        self._say_denied_once(claim, answer)
        say_answer(claim, answer, settlement, self._clock.now().steady_ms)
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
                outcome = self._traffic.board.for_the_report(claim.association, outcome)
        settlement = await self._outbox.settle(claim, outcome)
        say_call(claim, outcome, settlement.entry, settlement.dead_letter_id, self._clock.now().steady_ms)
        self._announce(claim, outcome, settlement, changes)
        return settlement

    async def _learn(self, claim: Claim) -> None:
        """StatusUnchanged although the message differed: ask what is held, and learn from it (rule 7)."""
        answer = await self._service.describe(claim.association)
        self._traffic.go_on(self._clock.now().steady_ms)
        if isinstance(answer, Held) and await self._outbox.learn(claim, answer.report):
            say_learnt(claim)

    async def _take_note(
        self, claim: Claim, outcome: Outcome | Answer, then: Claim | None = None
    ) -> tuple[Change, ...]:
        """What the answer means for everything else: the rate, the holds, the credentials. What it did to the holds."""
        now = self._clock.now()
        before = self._traffic.calls_per_second
        changes = self._traffic.note(claim, outcome, now, self._chance(), then)
        if isinstance(outcome, Throttled) and self._traffic.calls_per_second < before:
            say_throttled(self._traffic.calls_per_second)
        if changes:
            await self._outbox.show_holds(changes)
            for change in changes:
                say_change(change, now.steady_ms)
            self._on_change()
        if isinstance(outcome, Withheld) and outcome.scope is Scope.CREDENTIALS:
            await self._service.reload_credentials()
        return changes

    def _announce(
        self, claim: Claim, outcome: Outcome | Answer, settlement: Settlement, changes: tuple[Change, ...]
    ) -> None:
        if self._follower is not None:
            announcement = announced(claim, outcome, settlement.after, changes, self._clock.now().wall_ms)
            if announcement is not None:
                self._follower(announcement)
