"""The real outbox in a real file, driven through everything that may happen to it, in any order.

A model of the service stands at the other end: what each call applies, and what each lost reply hides. What holds
after every step is an invariant; what holds once all faults have stopped is looked at when a run ends.
"""

import asyncio
import shutil
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from domain_support import (
    ENDS,
    FAILURES,
    HOUR,
    MINUTE,
    NODE,
    OTHER_NODE,
    POLICY,
    PROBLEM,
    SECOND,
    ManualClock,
    contents,
    outbox_at,
    quietly,
)
from ssm_status_reporter.domain.association import Association
from ssm_status_reporter.domain.entry import Claim, Count, Step
from ssm_status_reporter.domain.holds import Hold, Node, Opening
from ssm_status_reporter.domain.outcome import (
    Answer,
    Delivered,
    Held,
    HeldNothing,
    NotToBeHad,
    Outcome,
    Scope,
    Unavailable,
    Unchanged,
)
from ssm_status_reporter.domain.reconciliation import Reconciliation
from ssm_status_reporter.domain.report import Comparison, Report
from ssm_status_reporter.domain.result import Edge, Result, Served, Writer
from ssm_status_reporter.outbox import letters
from ssm_status_reporter.outbox.claims import Claims
from ssm_status_reporter.outbox.database import Durability
from ssm_status_reporter.outbox.operations import Settlement
from values import replace

T = TypeVar("T")
pytestmark = pytest.mark.usefixtures("quiet")

ASSOCIATIONS: Final = (
    Association(NODE, "Deploy-Web"),
    Association(OTHER_NODE, "Deploy-Web"),
)
STATUSES: Final = ("Pending", "Success", "Failed")
AGES_MS: Final = (0, 0, 0, 1, 90 * SECOND)
PAUSES_MS: Final = (1, 2 * SECOND, 2 * MINUTE, 17 * MINUTE, 2 * HOUR)
AHEADS_MS: Final = (SECOND, 4 * MINUTE, HOUR)
CLOCK_STEPS_MS: Final = (-48 * HOUR, -HOUR, -SECOND, SECOND, HOUR, 48 * HOUR)
RECONCILIATION: Final = Reconciliation(6 * HOUR, on_start=False)
STEPS_TO_REST_MAX: Final = 200
SECONDS_MAX: Final = 120.0

associations = st.sampled_from(ASSOCIATIONS)
failures = st.sampled_from(sorted(FAILURES))
chances = st.sampled_from((0.0, 0.5, 0.99))


@dataclass(frozen=True)
class Seen:
    """A result before the clock has made a date of its age."""

    association: Association
    status: str
    message: str
    age_ms: int
    writer: Writer
    edge: Edge
    served: Served = Served.SUPPOSED

    def result(self, wall_ms: int) -> Result:
        """The result, seen now."""
        report = Report(self.status, self.message, None, wall_ms - self.age_ms)
        return Result(self.association, report, "test", self.writer, self.edge, self.served)


def sightings(ages_ms: tuple[int, ...], served: tuple[Served, ...]) -> st.SearchStrategy[list[Seen]]:
    """What one commit may bring."""
    each = st.builds(
        Seen,
        associations,
        st.sampled_from(STATUSES),
        st.sampled_from(("one", "another")),
        st.sampled_from(ages_ms),
        st.sampled_from(Writer),
        st.sampled_from(Edge),
        st.sampled_from(served),
    )
    return st.lists(each, min_size=1, max_size=2)


@pytest.fixture
def quiet() -> Iterator[None]:
    """The outbox says what it finds, thousands of times."""
    with quietly():
        yield


class Ending(Enum):
    """How far a result gets at once."""

    OPEN = auto()
    TAKEN = auto()
    LOST = auto()
    FAILED = auto()


class OutboxMachine(RuleBasedStateMachine):
    """What one daemon's outbox goes through. What a clock that is set would excuse is not in here."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = TemporaryDirectory(prefix="outbox-machine-")
        self.lives = 0
        self.path = Path(self.directory.name) / "outbox-0.db"
        self.loop = asyncio.new_event_loop()
        self.clock = ManualClock()
        self.chance = 0.5
        self.flights: dict[Association, Claim] = {}
        self.service: dict[Association, Report | None] = dict.fromkeys(ASSOCIATIONS)
        self.service_compares = Comparison.STATUS_AND_MESSAGE
        self.newest: dict[Association, Report] = {}
        self.excused: set[Association] = set()
        self.is_undisturbed = True

    @initialize(compares=st.sampled_from(Comparison), asks_first=st.booleans())
    def start(self, compares: Comparison, *, asks_first: bool) -> None:
        self.service_compares = compares
        self.policy = replace(POLICY, asks_first=asks_first, give_up_after_ms=HOUR)
        self.open()

    def open(self) -> None:
        """A new process on what is there."""

        async def opening() -> None:
            self.committer, self.outbox = outbox_at(
                self.path, self.clock, lambda: self.chance, self.policy, RECONCILIATION
            )
            await self.outbox.recover()

        self.run(opening())
        self.look()

    def run(self, operation: Awaitable[T]) -> T:
        """What the event loop would do."""

        async def awaited() -> T:
            async with asyncio.timeout(SECONDS_MAX):
                return await operation

        return self.loop.run_until_complete(awaited())

    def look(self) -> None:
        """Read the file."""
        self.contents = self.run(self.committer.submit(contents, Durability.PROCESS_DEATH))

    def teardown(self) -> None:
        try:
            self.come_to_rest()
        finally:
            self.run(self.outbox.close())
            self.loop.close()
            self.directory.cleanup()

    # What happens.

    @rule(seen=sightings(AGES_MS, (Served.SUPPOSED,)))
    def observe(self, seen: list[Seen]) -> None:
        self.hand_in(seen)

    @rule(
        status=st.sampled_from(STATUSES), ending=st.sampled_from((*Ending, *Ending, Ending.LOST)), failure=failures
    )
    def take_a_result_all_the_way(self, status: str, ending: Ending, failure: str) -> None:
        """What mostly happens, in one step, so that runs get further than single steps would bring them."""
        self.hand_in([Seen(ASSOCIATIONS[0], status, "one", 0, Writer.SOLE, Edge.LEADING)])
        self.look()
        if self.waiting():
            self.claim(in_time=True)
        claim = self.flights.get(ASSOCIATIONS[0])
        while claim is not None and claim.step is Step.ASK and ending is not Ending.OPEN:
            self.end(claim)
            claim = self.flights.get(ASSOCIATIONS[0])
        match ending:
            case _ if claim is None:
                return
            case Ending.TAKEN:
                self.end(claim)
            case Ending.LOST:
                self.lose(claim)
            case Ending.FAILED:
                self.let_fail(claim, failure)

    def hand_in(self, seen: list[Seen]) -> None:
        """Hand in, and remember what is the newest of each association by the rule of dates."""
        batch = [each.result(self.clock.now().wall_ms) for each in seen]
        self.run(self.outbox.observe(batch))
        for each in batch:
            newest = self.newest.get(each.association)
            if newest is None or each.report.observed_at_ms >= newest.observed_at_ms:
                self.newest[each.association] = each.report
                self.excused.discard(each.association)

    @rule(ms=st.sampled_from(PAUSES_MS))
    def wait(self, ms: int) -> None:
        self.clock.advance(ms)

    def waiting(self) -> list[int]:
        """When what waits is due."""
        dues = (entry.due_at_ms for entry in self.contents.entries.values())
        return [due_ms for due_ms in dues if due_ms is not None]

    @precondition(lambda self: self.waiting())
    @rule(in_time=st.booleans())
    def claim(self, *, in_time: bool) -> None:
        if in_time:
            self.clock.advance_to(max(self.waiting()))
        self.take(self.run(self.outbox.claim(len(ASSOCIATIONS), frozenset(), ())))

    @precondition(lambda self: self.waiting())
    @rule()
    def claim_probe(self) -> None:
        self.clock.advance_to(min(self.waiting()))
        self.take(self.run(self.outbox.claim_probe()))

    @precondition(lambda self: self.waiting())
    @rule(is_probed=st.booleans())
    def claim_while_a_node_is_shut(self, *, is_probed: bool) -> None:
        self.clock.advance_to(max(self.waiting()))
        taken = self.run(self.outbox.claim(2, frozenset({NODE}), [NODE] if is_probed else []))
        assert sum(claim.association.instance_id == NODE for claim in taken.claims) <= is_probed
        self.take(taken)

    @rule()
    def open_the_node(self) -> None:
        shut = Hold(Scope.NODE, Node(NODE), PROBLEM, self.clock.now().wall_ms, 1, self.clock.now().steady_ms)
        self.run(self.outbox.show_holds((Opening(shut),)))

    @rule()
    def reconcile(self) -> None:
        self.clock.advance(RECONCILIATION.interval_ms)
        self.take_questions()

    def take_questions(self) -> None:
        """Compare what is at rest."""
        taken = self.run(self.outbox.claim_questions(len(ASSOCIATIONS), {}))
        for claim in taken.claims:
            assert self.contents.entries[claim.association].pending is None, "a question about a pending report"
        self.fly(taken)

    def take(self, taken: Claims) -> None:
        """Nothing goes out before its time."""
        for claim in taken.claims:
            due_ms = self.contents.entries[claim.association].due_at_ms
            assert due_ms is not None
            assert due_ms <= self.clock.now().steady_ms, "claimed before it was due"
        self.fly(taken)

    def fly(self, taken: Claims) -> None:
        """One call slot an association."""
        for claim in taken.claims:
            assert claim.association not in self.flights, "two claims of one association"
            self.flights[claim.association] = claim

    @precondition(lambda self: self.flights)
    @rule(data=st.data())
    def succeed(self, data: st.DataObject) -> None:
        self.end(self.some_claim(data))

    def some_claim(self, data: st.DataObject) -> Claim:
        """One of those that are out."""
        return self.flights[data.draw(st.sampled_from(sorted(self.flights)))]

    def end(self, claim: Claim) -> None:
        """The service answers as it should."""
        if claim.step is Step.ASK:
            self.end_question(claim, self.truth(claim))
        else:
            self.end_call(claim, self.applied(claim))

    def truth(self, claim: Claim) -> Answer:
        """What the service holds."""
        held = self.service[claim.association]
        return HeldNothing() if held is None else Held(held)

    def applied(self, claim: Claim) -> Outcome:
        """What the service makes of a call."""
        held = self.service[claim.association]
        if held is not None and held.same_as(claim.report, self.service_compares):
            return Unchanged("id")
        self.check_order(claim.report, held)
        self.service[claim.association] = claim.report
        return Delivered("id")

    def check_order(self, report: Report, held: Report | None) -> None:
        """Older never overwrites newer."""
        assert held is None or held.observed_at_ms <= report.observed_at_ms, "older overwrote newer"

    @precondition(lambda self: self.flights)
    @rule(data=st.data(), failure=failures, chance=chances)
    def fail(self, data: st.DataObject, failure: str, chance: float) -> None:
        self.chance = chance
        self.let_fail(self.some_claim(data), failure)

    def let_fail(self, claim: Claim, failure: str) -> None:
        """The service does not take it."""
        if claim.step is Step.ASK:
            self.is_undisturbed = False
            self.end_question(claim, NotToBeHad(PROBLEM) if failure == "clock" else FAILURES[failure])
        else:
            self.is_undisturbed &= not isinstance(FAILURES[failure], Unavailable)
            self.end_call(claim, FAILURES[failure])

    @precondition(lambda self: self.flying(Step.SEND))
    @rule(data=st.data(), chance=chances)
    def lose_the_reply(self, data: st.DataObject, chance: float) -> None:
        self.chance = chance
        self.lose(data.draw(st.sampled_from(self.flying(Step.SEND))))

    def lose(self, claim: Claim) -> None:
        """The service takes it, and its reply never comes."""
        self.is_undisturbed = False
        self.applied(claim)
        self.end_call(claim, FAILURES["lost reply"])

    def flying(self, step: Step) -> list[Claim]:
        """The claims that are out for that."""
        return [claim for claim in self.flights.values() if claim.step is step]

    def end_question(self, claim: Claim, answer: Answer) -> None:
        """The slot may go on with the call itself."""
        self.land(claim, self.run(self.outbox.answer(claim, answer)))

    def end_call(self, claim: Claim, outcome: Outcome) -> None:
        """As the reporter does, with its question after a StatusUnchanged that may be evidence."""
        if isinstance(outcome, Unchanged):
            self.check_unchanged()
            held = self.service[claim.association]
            if claim.confirm_unchanged and held is not None:
                self.run(self.outbox.learn(claim, held))
        self.land(claim, self.run(self.outbox.settle(claim, outcome)))

    def check_unchanged(self) -> None:
        """StatusUnchanged is an acknowledgement, but never provoked."""
        if self.service_compares is Comparison.STATUS_AND_MESSAGE:
            assert not self.is_undisturbed, "a call was made for what the service was known to hold"

    def land(self, claim: Claim, settlement: Settlement) -> None:
        """The claim is over; perhaps the next one begins."""
        del self.flights[claim.association]
        if settlement.then is not None:
            self.flights[claim.association] = settlement.then

    @rule(association=associations)
    def make_the_service_forget(self, association: Association) -> None:
        entry = self.contents.entries.get(association)
        if entry is not None and entry.pending is None and entry.flight is None and not entry.unsure:
            self.service[association] = None
            self.is_undisturbed = False
            self.excused.add(association)

    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        """What a SIGKILL leaves is what the files hold; the calls that were out may have been applied or not."""
        self.is_undisturbed = False
        for claim in self.flying(Step.SEND):
            if data.draw(st.booleans()):
                self.applied(claim)
        self.flights.clear()
        self.lives += 1
        left, self.path = self.path, Path(self.directory.name) / f"outbox-{self.lives}.db"
        for ending in ("", "-wal"):
            part = left.with_name(left.name + ending)
            if part.exists():
                shutil.copyfile(part, self.path.with_name(self.path.name + ending))
        self.run(self.outbox.close())
        self.clock.restart()
        self.open()

    @precondition(lambda self: self.contents.counters.get(Count.DEAD))
    @rule(data=st.data())
    def retry_dead_letters(self, data: st.DataObject) -> None:
        letters.retry(self.path, self.some_letters(data), self.clock.now(), self.outbox.operations.policy)

    @precondition(lambda self: self.contents.counters.get(Count.DEAD))
    @rule(data=st.data())
    def discard_dead_letters(self, data: st.DataObject) -> None:
        dropped = letters.discard(self.path, self.some_letters(data))
        self.excused.update(letter.association for letter in dropped)

    def some_letters(self, data: st.DataObject) -> list[int]:
        """Ids, a wrong one among them."""
        ids = [letter.id for letter in letters.letters(self.path)]
        return data.draw(st.lists(st.sampled_from([*ids, 10**6]), unique=True, max_size=3))

    # What holds at any time.

    @invariant()
    def every_result_has_one_end_or_waits(self) -> None:
        """The counters add up: nothing is dropped silently, nothing ends twice (rule 11)."""
        self.look()
        ended = sum(self.contents.counters.get(end, 0) for end in ENDS)
        entries = self.contents.entries.values()
        waiting = sum(entry.pending is not None for entry in entries)
        superseded = sum(
            entry.flight is not None and entry.flight.step is Step.SEND and entry.flight.version != entry.version
            for entry in entries
        )
        assert self.contents.counters.get(Count.RECEIVED, 0) == ended + waiting + superseded
        assert all(value >= 0 for value in self.contents.counters.values())

    @invariant()
    def the_columns_say_what_the_entry_says(self) -> None:
        """What queries look at is what the domain decided."""
        for association, entry in self.contents.entries.items():
            assert self.contents.columns[association] == (entry.state, entry.flight is not None, entry.due_at_ms)
            assert (association in self.flights) == (entry.flight is not None)

    @invariant()
    def no_deadline_is_out_of_reach(self) -> None:
        """No report waits longer than its own longest wait, whatever clock wrote its deadline (rule 14)."""
        longest_ms = max(self.policy.deadline_ms_max, 2 * self.policy.window_ms)
        for entry in self.contents.entries.values():
            if entry.due_at_ms is not None:
                assert entry.due_at_ms <= self.clock.now().steady_ms + longest_ms

    # How it ends.

    def come_to_rest(self) -> None:
        """All faults are over: everything is delivered, then compared once more, and then it is quiet."""
        self.chance = 0.0
        self.open_the_node()
        self.work_off()
        self.clock.advance(RECONCILIATION.interval_ms)
        self.take_questions()
        self.work_off()
        assert not self.run(self.outbox.claim(3, frozenset(), ())).claims
        self.every_result_has_one_end_or_waits()
        self.check_delivered()

    def work_off(self) -> None:
        """Deliver until nothing is pending."""
        for _ in range(STEPS_TO_REST_MAX):
            self.land_all()
            self.look()
            taken = self.run(self.outbox.claim(3, frozenset(), ()))
            self.take(taken)
            if not taken.claims:
                if taken.next_due_ms is None:
                    return
                self.clock.advance_to(taken.next_due_ms)
        raise AssertionError("it never comes to rest")

    def land_all(self) -> None:
        """The service answers everything."""
        while self.flights:
            self.end(next(iter(self.flights.values())))

    def check_delivered(self) -> None:
        """The service holds the newest of each association, except what it refused or a person dropped."""
        for association, newest in self.newest.items():
            entry = self.contents.entries.get(association)
            if association in self.excused or entry is None or entry.dead is not None:
                continue
            held = self.service[association]
            assert held is not None, f"{association}: {newest} never arrived"
            assert held.same_as(newest, self.service_compares), f"{association}: {newest}, not {held}"


class TroubledClockMachine(OutboxMachine):
    """The same under a clock that is set, with results from the future, and with results that may be none of ours.

    Which of two reports is the newer one is then anybody's guess: what they end in must still add up.
    """

    @rule(seen=sightings((*AGES_MS, *(-ms for ms in AHEADS_MS)), tuple(Served)))
    def observe(self, seen: list[Seen]) -> None:
        self.hand_in(seen)

    @rule(ms=st.sampled_from(CLOCK_STEPS_MS))
    def set_the_clock(self, ms: int) -> None:
        self.clock.set_wall(self.clock.now().wall_ms + ms)

    def check_order(self, report: Report, held: Report | None) -> None:
        """Dates prove nothing here."""

    def check_unchanged(self) -> None:
        """Nor does what was known before."""

    def check_delivered(self) -> None:
        """That it comes to rest at all is what is asked here."""


# A run is a few hundred transactions on a real file: fewer, longer runs find more than many short ones, and both
# machines together stay within half a minute. How many runs, and that a step has no deadline, is conftest.py's.
RUNS: Final = settings(stateful_step_count=50)

TestOutbox = OutboxMachine.TestCase
TestOutbox.settings = RUNS
TestTroubledClock = TroubledClockMachine.TestCase
TestTroubledClock.settings = RUNS
