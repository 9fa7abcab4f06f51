"""The reporter: takes due reports out of the outbox as the traffic lets them, and has them delivered.

Rules (numbers as in ARCHITECTURE.md):
  9. A claim is the association's one call slot.
 10. While a hold shuts everything, one probe is out at a time; a shut node has its own probe, a question if no
     report of it is due.
 12. Reconciliation takes only the slots that no report needs.

While no call is out and nothing is shut, a claim stands by in the outbox: news goes out without a commit of its own.
With anything else to go by than that, the loop claims for itself; whatever wakes it withdraws the claim first.

A failure of any task ends `run`.
"""

import asyncio
from typing import Final

from ssm_status_reporter.delivery import Delivery
from ssm_status_reporter.domain.announcement import Follower
from ssm_status_reporter.domain.entry import Claim
from ssm_status_reporter.domain.holds import HoldBoard, Open, Probe, Shut
from ssm_status_reporter.domain.limits import TOLD_AFTER_SECONDS
from ssm_status_reporter.domain.outcome import Scope
from ssm_status_reporter.domain.traffic import Pace, Traffic
from ssm_status_reporter.outbox.claims import Claims
from ssm_status_reporter.outbox.sqlite import SqliteOutbox
from ssm_status_reporter.ports import Chance, Clock, StatusService

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
        self._outbox = outbox
        self._clock = clock
        self._traffic = Traffic(pace, clock.now().steady_ms)
        self._delivery = Delivery(outbox, service, clock, chance, self._traffic, follower, self.wake)
        self._woken = False
        self._bell = asyncio.Event()
        self._stopping = False
        self._turns = 0
        self.turned = asyncio.Event()
        """Set when something may have happened: at each turn, and after a start. Whoever waits for it clears it."""

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
        """Something changed that may have mended the scope: probe it at once."""
        if self._traffic.hurry(scope, self._clock.now()):
            self.wake()

    def repace(self, pace: Pace) -> None:
        """Go on under a changed configuration."""
        self._traffic.repace(pace)
        self.wake()

    @property
    def holds(self) -> HoldBoard:
        """What is shut."""
        return self._traffic.board

    @property
    def is_woken(self) -> bool:
        """Whether the loop was told to look and has not looked yet."""
        return self._woken

    @property
    def calls_out(self) -> int:
        """Claims being worked on."""
        return self._traffic.calls_out

    @property
    def last_delivered_ms(self) -> int | None:
        """When the service last acknowledged a report, steady."""
        return self._delivery.last_delivered_ms

    @property
    def progress(self) -> int:
        """Grows with each turn of the loop and each answer: a stuck reporter shows as no growth while it works."""
        return self._turns + self._delivery.answers

    async def run(self) -> None:
        """Deliver until `stop`."""
        async with asyncio.TaskGroup() as calls:
            while not self._stopping:
                self._woken = False
                self.turned.set()
                self._turns += 1
                await self._rest_until(calls, await self._dispatch(calls))

    # At rest.

    async def _rest_until(self, calls: asyncio.TaskGroup, steady_ms: int | None) -> None:
        """Sleep until woken, or until then; what stood by takes meanwhile is started."""
        timer = None
        if steady_ms is not None and not self._woken:
            timer = asyncio.ensure_future(self._clock.sleep_until(steady_ms))
            timer.add_done_callback(self._ring)
        try:
            while not self._woken and (timer is None or not timer.done()):
                taken = await self._stand_by()
                if taken.claims:
                    self._start(calls, taken)
                    asyncio.get_running_loop().call_later(TOLD_AFTER_SECONDS, self.turned.set)
                if taken.next_due_ms is not None and (steady_ms is None or taken.next_due_ms < steady_ms):
                    return
        finally:
            if timer is not None:
                timer.remove_done_callback(self._ring)
                timer.cancel()

    async def _stand_by(self) -> Claims:
        """Wait for the bell. Returns what was taken in the commit that rang it, if nothing was in its way."""
        self._bell.clear()
        if not self._traffic.is_quiet:
            await self._bell.wait()
            return _NOTHING
        standing = self._outbox.stand_by(self._traffic.slots)
        standing.add_done_callback(self._ring)
        try:
            await self._bell.wait()
        finally:
            standing.remove_done_callback(self._ring)
            self._outbox.withdraw()
        if not standing.done():
            await asyncio.wait({standing})  # its commit is under way; one that fails lets go of it
        return _NOTHING if standing.cancelled() else standing.result()

    def _ring(self, _: object) -> None:
        self._bell.set()

    # At work.

    async def _dispatch(self, calls: asyncio.TaskGroup) -> int | None:
        """Start what may go out now; returns when to look again, steady, or None: when woken."""
        if hurried := self._traffic.take_hurried():
            await self._outbox.make_due(hurried)
        match self._traffic.admission(self._clock.now()):
            case Shut(until_ms):
                return until_ms
            case Probe():
                return await self._dispatch_probe(calls)
            case Open():
                return await self._dispatch_due(calls)

    async def _dispatch_probe(self, calls: asyncio.TaskGroup) -> int | None:
        if self._traffic.calls_out:
            return None
        if self._traffic.next_token_ms is not None:
            return self._traffic.next_token_ms
        taken = await self._outbox.claim_probe()
        self._start(calls, taken)
        return None if taken.claims else taken.next_due_ms

    async def _dispatch_due(self, calls: asyncio.TaskGroup) -> int | None:
        traffic = self._traffic
        slots = traffic.slots
        if not slots:
            return traffic.next_token_ms if traffic.free_slots > 0 else None
        now_ms = self._clock.now().steady_ms
        upcoming = traffic.later_probes_ms(now_ms)
        taken = await self._outbox.claim(slots, traffic.shut_nodes(), traffic.nodes_to_probe(now_ms))
        self._start(calls, taken)
        if len(taken.claims) == slots:
            later_ms = traffic.next_token_ms if traffic.free_slots > 0 else None
        else:
            later_ms = taken.next_due_ms
        question_ms = None if taken.claims else await self._dispatch_question(calls)
        return min((ms for ms in (*upcoming, later_ms, question_ms) if ms is not None), default=None)

    async def _dispatch_question(self, calls: asyncio.TaskGroup) -> int | None:
        """Compare one entry at rest with the service, within the share of the rate that is for it."""
        if not self._outbox.reconciles:
            return None
        now_ms = self._clock.now().steady_ms
        wait_until_ms = self._traffic.next_question_ms(now_ms)
        if wait_until_ms is not None:
            return wait_until_ms
        taken = await self._outbox.claim_questions(1, self._traffic.no_questions_until_ms(now_ms))
        for claim in taken.claims:
            self._traffic.begin_question(claim, now_ms)
            calls.create_task(self._deliver(claim))
        return taken.next_due_ms

    def _start(self, calls: asyncio.TaskGroup, taken: Claims) -> None:
        now_ms = self._clock.now().steady_ms
        for claim in taken.claims:
            self._traffic.begin(claim, now_ms)
            calls.create_task(self._deliver(claim))

    async def _deliver(self, claim: Claim) -> None:
        try:
            await self._delivery.work(claim)
        finally:
            self._traffic.end(claim)
            self.wake()
