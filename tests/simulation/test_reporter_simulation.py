"""The reporter in virtual time: who waits for whom, how often what is called, and what a restart remembers."""

import asyncio
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest

from domain_support import (
    FAILURES,
    HOUR,
    MINUTE,
    NO_REQUEST,
    NODE,
    OTHER_NODE,
    POLICY,
    PROBLEM,
    SECOND,
    START_MS,
    ManualClock,
    SlowCommitter,
    SwiftCommitter,
    WatchedCommitter,
    contents,
    outbox_at,
    quietly,
    report,
    result,
)
from simulation_support import (
    FAST,
    LATENCY_MS,
    PACE,
    STOP_SECONDS_MAX,
    Call,
    ScriptedService,
    Simulation,
    simulation,
)
from ssm_status_reporter.domain.association import Association
from ssm_status_reporter.domain.entry import Count, Policy, State, Via
from ssm_status_reporter.domain.holds import EVERYTHING
from ssm_status_reporter.domain.outcome import (
    Effect,
    Failure,
    NotToBeHad,
    Outcome,
    Refused,
    Scope,
    Throttled,
    Unavailable,
    Unreachable,
    Unserved,
    Withheld,
)
from ssm_status_reporter.domain.reconciliation import Reconciliation
from ssm_status_reporter.domain.report import Comparison
from ssm_status_reporter.outbox.database import Durability
from ssm_status_reporter.outbox.letters import letters
from ssm_status_reporter.outbox.tables import FACT_COMPARISON
from ssm_status_reporter.reporter import Reporter
from values import replace

pytestmark = pytest.mark.usefixtures("quiet")

DOCUMENTS = [Association(NODE, f"Document-{number:02}") for number in range(20)]
SICK, *OTHERS = DOCUMENTS
ELSEWHERE = [Association(OTHER_NODE, f"Document-{number:02}") for number in range(5)]
ASKING = replace(POLICY, asks_first=True)


@pytest.fixture
def quiet() -> Iterator[None]:
    """What the journal says is tested elsewhere."""
    with quietly():
        yield


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


def delivered(sim: Simulation, associations: list[Association], status: str) -> bool:
    """Whether the service holds that for all of them."""
    return all(each in sim.service.holds and sim.service.holds[each].status == status for each in associations)


# One association in trouble.


@pytest.mark.parametrize(
    "trouble",
    [
        Unavailable(PROBLEM, Effect.NONE),
        Unserved(PROBLEM),
        Withheld(Scope.PERMISSION, PROBLEM),
        Throttled(PROBLEM, 30_000),
    ],
)
async def test_one_association_in_trouble_never_delays_another(path: Path, trouble: Outcome) -> None:
    """While one report is retried for an hour, every other one goes out at once (rule 9)."""
    async with simulation(path) as sim:
        sim.service.script = lambda call: trouble if call.association == SICK and call.is_update else None
        await sim.observe("Failed", SICK)
        for minute in range(1, 61):
            await sim.run_until(minute * MINUTE)
            status = ("Success", "Failed")[minute % 2]
            await sim.observe(status, *OTHERS[:3])
            await sim.run_for(SECOND)
            assert delivered(sim, OTHERS[:3], status)
        assert (await sim.entry(SICK)).pending is not None


async def test_a_call_that_hangs_takes_one_slot_and_no_more(path: Path) -> None:
    """A reply that does not come for ten seconds holds up its own association alone."""
    async with simulation(path) as sim:
        sim.service.latency_ms = lambda call: 10 * SECOND if call.association == SICK else LATENCY_MS
        await sim.observe("Failed", SICK)
        await sim.observe("Failed", *OTHERS)
        await sim.run_for(2 * SECOND)
        assert delivered(sim, OTHERS, "Failed")
        assert SICK not in sim.service.holds


async def test_server_errors_on_one_document_do_not_hold_the_endpoint(path: Path) -> None:
    """A document that the service always fails on is its own trouble (rule 10)."""
    async with simulation(path) as sim:
        sim.service.script = lambda call: Unavailable(PROBLEM, Effect.NONE) if call.association == SICK else None
        await sim.observe("Failed", SICK)
        await sim.run_for(HOUR)
        assert list(sim.reporter.holds) == []
        assert len(sim.service.updates) > 10
        await sim.observe("Failed", OTHERS[0])
        await sim.run_for(SECOND)
        assert delivered(sim, OTHERS[:1], "Failed")


@pytest.mark.parametrize("answers_questions", [False, True])
@pytest.mark.parametrize("name", sorted(FAILURES.keys() - {"refused", "busy"}))
async def test_no_trouble_that_lasts_makes_a_hot_loop(path: Path, name: str, *, answers_questions: bool) -> None:
    """An hour of the same answer, to updates alone or to all: the calls follow the backoff, and all of it heals."""
    answer = FAILURES[name]

    def failing(call: Call) -> Failure | None:
        return answer if call.at_ms < HOUR and (call.is_update or not answers_questions) else None

    async with simulation(path, policy=ASKING) as sim:
        sim.service.script = failing
        associations = [*DOCUMENTS[:3], *ELSEWHERE[:1]]
        await sim.observe("Failed", *associations)
        await sim.run_until(HOUR)
        assert max(len(sim.service.calls_for(each)) for each in associations) <= 100
        await sim.run_for(15 * MINUTE)
        assert delivered(sim, associations, "Failed")
        assert list(sim.reporter.holds) == []


# How much at a time.


async def test_no_more_calls_are_out_than_configured(path: Path) -> None:
    """`delivery.concurrency` is kept while a backlog is worked off."""
    async with simulation(path, pace=replace(FAST, concurrency=3)) as sim:
        await sim.observe("Failed", *DOCUMENTS)
        await sim.run_for(10 * SECOND)
        assert delivered(sim, DOCUMENTS, "Failed")
        assert sim.service.most_out == 3


async def test_a_backlog_goes_out_at_the_configured_rate(path: Path) -> None:
    """`delivery.rate` and `delivery.burst` are kept."""
    async with simulation(path, pace=replace(PACE, rate_per_second=2.0, burst=4, concurrency=16)) as sim:
        await sim.observe("Failed", *DOCUMENTS)
        await sim.run_for(20 * SECOND)
        times = [call.at_ms for call in sim.service.calls]
        assert sum(at_ms < 100 for at_ms in times) == 4
        assert times[-1] >= (len(DOCUMENTS) - 4) / 2 * SECOND
        assert delivered(sim, DOCUMENTS, "Failed")


async def test_an_association_that_never_rests_is_called_once_a_window(path: Path) -> None:
    """A status that changes ten times a second makes one call in two seconds, and the newest wins (rule 4)."""
    async with simulation(path) as sim:
        for tenth in range(100):
            await sim.run_until(tenth * 100)
            await sim.observe(("Success", "Failed")[tenth % 2], SICK, message=str(tenth))
        await sim.run_for(10 * SECOND)
        times = [call.at_ms for call in sim.service.calls]
        assert times == [0, *range(2 * SECOND, 11 * SECOND, 2 * SECOND)]
        assert sim.service.holds[SICK].message == "99"


async def test_throttling_halves_the_rate_and_calls_that_go_well_bring_it_back(path: Path) -> None:
    """A service that asks for less gets less, at once, and the configured rate again later (rule 12)."""
    busy = [Association(NODE, f"Document-{number:03}") for number in range(400)]
    throttle = Throttled(PROBLEM)
    async with simulation(path, pace=replace(PACE, rate_per_second=10.0, burst=1, concurrency=16)) as sim:
        sim.service.script = lambda call: throttle if 10 * SECOND <= call.at_ms < 11 * SECOND else None
        await sim.observe("Failed", *busy)
        await sim.run_until(50 * SECOND)
        per_second = Counter(call.at_ms // SECOND for call in sim.service.calls)
        assert [per_second[second] for second in range(2, 10)] == [10] * 8
        assert 4 <= per_second[11] <= 7
        assert per_second[11] <= per_second[12] < per_second[15]
        assert sum(per_second[second] for second in range(25, 30)) in range(48, 51)
        assert delivered(sim, busy, "Failed")


# Holds.


async def test_a_dead_endpoint_is_probed_by_one_call_at_a_time_and_charged_to_nobody(path: Path) -> None:
    """An outage of an hour costs a few dozen calls, whatever waits; every report is unharmed (rule 10)."""
    async with simulation(path, pace=PACE) as sim:
        sim.service.script = lambda _: Unreachable(PROBLEM)
        await sim.observe("Failed", *DOCUMENTS)
        await sim.run_for(5 * SECOND)
        assert [hold.scope for hold in sim.reporter.holds] == [Scope.ENDPOINT]
        sim.service.most_out = 0
        before = len(sim.service.calls)
        await sim.run_until(HOUR)
        assert sim.service.most_out == 1
        assert 15 <= len(sim.service.calls) - before <= 60
        entries = [await sim.entry(each) for each in DOCUMENTS]
        assert all(entry.pending is not None and entry.pending.attempts == 0 for entry in entries)
        assert {entry.state for entry in entries} == {State.PENDING}


async def test_a_question_that_always_fails_does_not_keep_the_endpoint_shut(path: Path) -> None:
    """With DescribeAssociation broken for good, the updates go out once the service takes them again (rule 10)."""
    async with simulation(path, policy=replace(POLICY, asks_first=True)) as sim:
        broken = True
        sim.service.script = lambda call: (
            Unavailable(PROBLEM, Effect.POSSIBLE) if broken or not call.is_update else None
        )
        await sim.observe("Failed", *DOCUMENTS)
        await sim.run_for(MINUTE)
        assert [hold.scope for hold in sim.reporter.holds] == [Scope.ENDPOINT]
        broken = False
        await sim.run_for(HOUR)
        assert delivered(sim, DOCUMENTS, "Failed")
        assert list(sim.reporter.holds) == []


async def test_timeouts_during_an_outage_are_charged_to_nobody_either(path: Path) -> None:
    """Once the endpoint is held, a call that times out is the outage's."""
    async with simulation(path, pace=PACE) as sim:
        sim.service.script = lambda _: Unavailable(PROBLEM, Effect.POSSIBLE)
        await sim.observe("Failed", *DOCUMENTS)
        await sim.run_until(HOUR)
        attempts = [(await sim.entry(each)).pending for each in DOCUMENTS]
        assert sum(each.attempts for each in attempts if each is not None) < 10
        assert 15 <= len(sim.service.calls) <= 80


async def test_the_first_success_opens_and_the_backlog_ramps_up(path: Path) -> None:
    """A service that is back is not run over by what waited for it (rule 10)."""
    busy = [Association(NODE, f"Document-{number:03}") for number in range(100)]
    async with simulation(path, pace=PACE) as sim:
        sim.service.script = lambda call: Unreachable(PROBLEM) if call.at_ms < HOUR else None
        await sim.observe("Failed", *busy)
        await sim.run_until(HOUR)
        while list(sim.reporter.holds):
            await sim.run_for(SECOND)
        opened_ms = sim.service.calls[-1].at_ms
        await sim.run_for(5 * MINUTE)
        times = [call.at_ms - opened_ms for call in sim.service.calls if call.at_ms > opened_ms]
        assert sum(at_ms < 2 * SECOND for at_ms in times) <= 3
        per_second = Counter(at_ms // (10 * SECOND) for at_ms in times)
        assert per_second[0] < per_second[1] < per_second[2]
        assert max(per_second.values()) <= 10 * PACE.rate_per_second + 1
        assert delivered(sim, busy, "Failed")


async def test_probes_take_turns(path: Path) -> None:
    """A report that always fails for its own sake does not keep the scope shut for the others (rule 10)."""
    async with simulation(path, pace=PACE) as sim:
        sim.service.script = lambda _: Unavailable(PROBLEM, Effect.NONE)
        await sim.observe("Failed", *DOCUMENTS)
        await sim.run_until(5 * MINUTE)
        assert [hold.scope for hold in sim.reporter.holds] == [Scope.ENDPOINT]
        sick = sim.service.calls[-1].association
        sim.service.script = lambda call: Unavailable(PROBLEM, Effect.NONE) if call.association == sick else None
        await sim.run_until(30 * MINUTE)
        assert delivered(sim, [each for each in DOCUMENTS if each != sick], "Failed")


async def test_probes_take_turns_under_a_clock_that_was_put_back(path: Path) -> None:
    """What an earlier process probed, by a clock that ran ahead, has its turn as well (rules 10 and 14)."""
    clock = ManualClock()
    async with simulation(path, pace=PACE, clock=clock) as sim:
        sim.service.script = lambda _: Unreachable(PROBLEM)
        await sim.observe("Failed", *DOCUMENTS)
        await sim.run_for(HOUR)
    clock.set_wall(clock.now().wall_ms - 365 * 24 * HOUR)
    clock.restart()
    async with simulation(path, pace=PACE, clock=clock) as sim:
        sim.service.script = lambda _: Unreachable(PROBLEM)
        await sim.run_for(5 * MINUTE)
        sick = sim.service.calls[-1].association
        sim.service.script = lambda call: Unavailable(PROBLEM, Effect.NONE) if call.association == sick else None
        await sim.run_for(HOUR)
        assert delivered(sim, [each for each in DOCUMENTS if each != sick], "Failed")


async def test_a_denied_probe_gives_way_to_a_permitted_report(path: Path) -> None:
    """With everything held for a permission that some documents never get, the others have their turn (rule 10)."""
    denied, (permitted, *_) = DOCUMENTS[:5], DOCUMENTS[5:]
    async with simulation(path) as sim:
        sim.service.script = lambda call: (
            Withheld(Scope.PERMISSION, PROBLEM) if call.association in denied else None
        )
        await sim.observe("Failed", *denied)
        await sim.run_for(MINUTE)
        assert sim.reporter.holds.find(Scope.PERMISSION, EVERYTHING) is not None
        await sim.observe("Failed", permitted)
        await sim.run_for(6 * MINUTE)
        assert delivered(sim, [permitted], "Failed")
        await sim.observe("Success", permitted)
        await sim.run_for(SECOND)
        assert delivered(sim, [permitted], "Success"), "the denied ones delay it no more"


async def test_a_probe_that_takes_long_stays_the_only_one(path: Path) -> None:
    """A probe that hangs is not joined by others, however much happens meanwhile (rule 10)."""
    async with simulation(path, pace=PACE) as sim:
        sim.service.script = lambda _: Unreachable(PROBLEM)
        await sim.observe("Failed", *DOCUMENTS)
        await sim.run_for(5 * SECOND)
        sim.service.latency_ms = lambda _: 30 * SECOND
        await sim.run_for(MINUTE)
        sim.service.most_out = 0
        for _ in range(100):
            await sim.observe("Success", *DOCUMENTS)
            await sim.observe("Failed", *DOCUMENTS)
            await sim.run_for(3 * SECOND)
        assert sim.service.most_out == 1


async def test_expired_credentials_are_loaded_afresh_and_probed_when_somebody_mended_them(path: Path) -> None:
    """Each credentials failure drops the keys in use; a new credentials file is tried at once."""
    async with simulation(path) as sim:
        sim.service.script = lambda _: Withheld(Scope.CREDENTIALS, PROBLEM)
        await sim.observe("Failed", *DOCUMENTS)
        await sim.run_until(30 * MINUTE)
        assert sim.service.credentials_reloaded == len(sim.service.calls)
        assert len(sim.service.calls) < 50
        sim.service.script = lambda _: None
        sim.reporter.hurry(Scope.CREDENTIALS)
        await sim.run_for(2 * SECOND)
        assert list(sim.reporter.holds) == []


async def test_without_credentials_no_call_is_counted(path: Path) -> None:
    """`calls` counts what went out."""
    async with simulation(path) as sim:
        sim.service.script = lambda _: Withheld(Scope.CREDENTIALS, NO_REQUEST)
        await sim.observe("Failed", *DOCUMENTS)
        await sim.run_until(MINUTE)
        assert await sim.counter(Count.CALLS) == 0


@pytest.mark.parametrize("answers_questions", [False, True])
async def test_an_invalid_node_is_held_alone(path: Path, *, answers_questions: bool) -> None:
    """A gateway's other nodes are reported for while one is not registered, and its probes grow rare (rule 10)."""
    invalid = Withheld(Scope.NODE, PROBLEM)

    def refusing(call: Call) -> Withheld | None:
        is_refused = call.association.instance_id == NODE and call.at_ms < HOUR
        return invalid if is_refused and (call.is_update or not answers_questions) else None

    async with simulation(path) as sim:
        sim.service.script = refusing
        await sim.observe("Failed", *DOCUMENTS, *ELSEWHERE)
        await sim.run_for(2 * SECOND)
        assert delivered(sim, ELSEWHERE, "Failed")
        before = len(sim.service.updates)
        await sim.run_until(HOUR)
        assert len(sim.service.updates) - before <= 60
        assert len(sim.service.questions) <= len(sim.service.calls) / 2 + len((*DOCUMENTS, *ELSEWHERE))
        assert {(await sim.entry(each)).state for each in DOCUMENTS} == {State.PENDING}
        await sim.run_for(10 * MINUTE)
        assert delivered(sim, DOCUMENTS, "Failed")
        assert list(sim.reporter.holds) == []


async def test_a_node_that_opens_leaves_nothing_held_back(path: Path) -> None:
    """However soon the outbox's thread is: what was kept back while the node was shut goes out when it opens."""
    async with simulation(path, committing=SwiftCommitter) as sim:
        sim.service.script = lambda call: Withheld(Scope.NODE, PROBLEM) if call.at_ms < HOUR else None
        await sim.observe("Failed", *DOCUMENTS)
        await sim.run_until(2 * HOUR)
        assert delivered(sim, DOCUMENTS, "Failed")


@pytest.mark.parametrize("scope", [Scope.NODE, Scope.CREDENTIALS, Scope.CLOCK, Scope.PERMISSION])
async def test_what_shut_a_scope_goes_out_again_as_a_probe_only(path: Path, scope: Scope) -> None:
    """However soon the outbox's thread is: the report that is due again at once waits for its hold (rule 10)."""
    async with simulation(path, committing=SwiftCommitter) as sim:
        sim.service.script = lambda _: Withheld(scope, PROBLEM)
        await sim.observe("Failed", SICK)
        await sim.run_until(2 * LATENCY_MS)
        (hold,) = sim.reporter.holds
        assert hold.next_probe_ms > START_MS + 2 * LATENCY_MS
        assert len(sim.service.calls) == 1


async def test_a_question_that_shut_the_endpoint_is_asked_again_as_a_probe_only(path: Path) -> None:
    """However long its commit takes and however soon it is due again: it waits for the hold (rule 10)."""
    async with simulation(
        path, policy=ASKING, committing=SlowCommitter, hold_jitter=lambda: 0.9, retry_jitter=lambda: 0.0
    ) as sim:
        latency_ms = dict(zip(DOCUMENTS[:3], (50, 60, 70), strict=True))
        sim.service.latency_ms = lambda call: latency_ms[call.association]

        def failing(_: Call) -> Unavailable:
            sim.reporter.wake()
            return Unavailable(PROBLEM, Effect.NONE)

        sim.service.script = failing
        await sim.observe("Failed", *DOCUMENTS[:3])
        await sim.run_until(100)
        (hold,) = sim.reporter.holds
        assert hold.since_ms == START_MS + 70
        assert len(sim.service.calls_for(DOCUMENTS[2])) == 1


@pytest.mark.parametrize("scope", [Scope.NODE, Scope.CREDENTIALS, Scope.CLOCK, Scope.PERMISSION])
async def test_a_hold_whose_last_report_is_refused_is_over(path: Path, scope: Scope) -> None:
    """The question before the update was answered, and nothing waits any more: `status` shows no hold for ever."""
    async with simulation(path, policy=ASKING) as sim:
        sim.service.script = lambda call: (
            Withheld(scope, PROBLEM) if call.at_ms < MINUTE else Refused(PROBLEM) if call.is_update else None
        )
        await sim.observe("Failed", SICK)
        await sim.run_until(HOUR)
        assert (await sim.entry(SICK)).state is State.DEAD
        assert list(sim.reporter.holds) == []


async def test_a_refused_question_does_not_open_the_endpoint_for_its_update(path: Path) -> None:
    """An endpoint that answers questions and fails updates is one outage, whatever it answers to the questions."""
    async with simulation(path, policy=ASKING, pace=PACE) as sim:
        sim.service.script = lambda call: Unavailable(PROBLEM, Effect.NONE) if call.is_update else Refused(PROBLEM)
        await sim.observe("Failed", *DOCUMENTS)
        await sim.run_for(5 * SECOND)
        (hold,) = sim.reporter.holds
        await sim.run_until(HOUR)
        assert [each.since_ms for each in sim.reporter.holds] == [hold.since_ms]
        assert len(sim.service.updates) <= 80


@pytest.mark.parametrize("policy", [POLICY, ASKING])
async def test_denied_documents_beside_an_invalid_node_make_no_hot_loop(path: Path, policy: Policy) -> None:
    """What opens the permission for all does not leave it one denial from being shut again (rule 10)."""
    async with simulation(path, policy=policy) as sim:
        sim.service.script = lambda call: (
            Withheld(Scope.NODE, PROBLEM)
            if call.association.instance_id == OTHER_NODE
            else Withheld(Scope.PERMISSION, PROBLEM)
            if call.is_update
            else None
        )
        associations = [*DOCUMENTS[:3], ELSEWHERE[0]]
        await sim.observe("Failed", *associations)
        await sim.run_until(HOUR)
        assert max(len(sim.service.calls_for(each)) for each in associations) <= 100


async def test_a_result_that_is_no_news_leaves_the_reporter_at_rest(path: Path) -> None:
    """It costs no turn of the reporter's, although questions are asked at times."""
    async with simulation(path, plan=Reconciliation(6 * HOUR, on_start=False)) as sim:
        await sim.observe("Success", SICK)
        await sim.run_for(MINUTE)
        turns = sim.reporter.progress
        await sim.observe("Success", SICK)
        await sim.rest()
        assert sim.reporter.progress == turns


async def test_shut_nodes_with_nothing_to_report_do_not_keep_another_from_its_probe(path: Path) -> None:
    """Every shut node that has a report waiting is probed, however many others are shut."""
    nodes = [Association(f"i-{number:017x}", "Deploy-Web") for number in range(10)]
    plan = Reconciliation(HOUR, on_start=False)
    async with simulation(path, plan=plan, pace=replace(FAST, concurrency=2)) as sim:
        await sim.observe("Success", *nodes)
        await sim.run_for(SECOND)
        sim.service.script = lambda _: Withheld(Scope.NODE, PROBLEM)
        await sim.run_until(2 * HOUR)
        assert len(list(sim.reporter.holds.shut_nodes())) == len(nodes)
        sim.service.script = lambda _: None
        await sim.observe("Failed", nodes[-1])
        await sim.run_for(10 * MINUTE)
        assert delivered(sim, nodes[-1:], "Failed")


async def test_a_denied_report_that_another_writer_made_needless_leaves_no_hold(path: Path) -> None:
    """The service holds that status by now: no update follows that could end the hold, and none is needed."""
    async with simulation(path) as sim:
        sim.service.script = lambda call: Withheld(Scope.PERMISSION, PROBLEM) if call.is_update else None
        await sim.observe("Failed", SICK)
        await sim.run_for(SECOND)
        assert [hold.scope for hold in sim.reporter.holds] == [Scope.PERMISSION]
        sent = sim.service.updates[-1].report
        assert sent is not None
        sim.service.holds[SICK] = sent
        await sim.run_for(HOUR)
        assert (await sim.entry(SICK)).state is State.ACKNOWLEDGED
        assert list(sim.reporter.holds) == []


async def test_a_denied_document_is_held_first_and_everything_after_several(path: Path) -> None:
    """One denied document delays nobody; when several are denied in a row, all wait for one probe (rule 10)."""
    async with simulation(path) as sim:
        sim.service.script = lambda call: Withheld(Scope.PERMISSION, PROBLEM) if call.association == SICK else None
        await sim.observe("Failed", SICK)
        await sim.run_for(SECOND)
        await sim.observe("Failed", OTHERS[0])
        await sim.run_for(SECOND)
        assert delivered(sim, OTHERS[:1], "Failed")
        sim.service.script = lambda _: Withheld(Scope.PERMISSION, PROBLEM)
        await sim.observe("Success", *OTHERS)
        await sim.run_for(2 * SECOND)
        before = len(sim.service.calls)
        await sim.run_for(HOUR)
        assert len(sim.service.calls) - before <= 60
        sim.service.script = lambda _: None
        await sim.run_for(10 * MINUTE)
        assert delivered(sim, OTHERS, "Success")
        assert delivered(sim, [SICK], "Failed")


async def test_a_denied_document_is_probed_by_a_new_daemon(path: Path) -> None:
    """After a restart no report waits for a hold that nobody sees: it is found again at once, or is over (rule 10)."""
    clock = ManualClock()

    def denied(_: Call) -> Outcome:
        return Withheld(Scope.PERMISSION, PROBLEM)

    async with simulation(path, clock=clock, hold_jitter=lambda: 0.99) as sim:
        sim.service.script = denied
        await sim.observe("Failed", SICK)
        await sim.run_for(10 * MINUTE)
        hold = sim.reporter.holds.find(Scope.PERMISSION, SICK)
        assert hold is not None
        assert hold.next_probe_ms > clock.now().steady_ms + MINUTE
    clock.restart()
    async with simulation(path, clock=clock) as sim:
        sim.service.script = denied
        await sim.run_for(SECOND)
        assert sim.reporter.holds.find(Scope.PERMISSION, SICK) is not None
        assert [call.association for call in sim.service.calls] == [SICK]
    clock.restart()
    async with simulation(path, clock=clock) as sim:
        await sim.run_for(SECOND)
        assert delivered(sim, [SICK], "Failed")


async def test_a_new_daemon_keeps_the_time_that_the_service_named_for_a_denied_document(path: Path) -> None:
    """A hold that outlives a Retry-After hint is probed no sooner after a restart (rule 9)."""
    clock = ManualClock()
    async with simulation(path, clock=clock) as sim:
        answers: Iterator[Outcome] = iter([Withheld(Scope.PERMISSION, PROBLEM), Throttled(PROBLEM, 10 * MINUTE)])
        sim.service.script = lambda _: next(answers)
        await sim.observe("Failed", SICK)
        await sim.run_for(MINUTE)
        assert sim.reporter.holds.find(Scope.PERMISSION, SICK) is not None
        assert len(sim.service.calls) == 2
    clock.restart()
    async with simulation(path, clock=clock) as sim:
        await sim.run_for(5 * MINUTE)
        assert sim.service.calls == []


async def test_a_denied_question_never_holds_updates(path: Path) -> None:
    """Without the right to DescribeAssociation everything is delivered all the same (rule 10)."""
    async with simulation(path, policy=ASKING) as sim:
        sim.service.script = lambda call: None if call.is_update else NotToBeHad(PROBLEM)
        await sim.observe("Failed", *DOCUMENTS)
        await sim.run_for(5 * SECOND)
        assert delivered(sim, DOCUMENTS, "Failed")
        assert list(sim.reporter.holds) == []


# Retries.


async def test_what_is_not_served_is_parked_and_dead_after_its_time(path: Path) -> None:
    """Every quarter of an hour for a day, then a dead letter (error table)."""
    async with simulation(path) as sim:
        sim.service.script = lambda _: Unserved(PROBLEM)
        await sim.observe("Failed", SICK)
        await sim.run_until(24 * HOUR - MINUTE)
        assert (await sim.entry(SICK)).state is State.PARKED
        assert 80 <= len(sim.service.calls) <= 97
        await sim.run_for(2 * MINUTE)
        assert (await sim.entry(SICK)).state is State.DEAD
        calls = len(sim.service.calls)
        await sim.run_for(24 * HOUR)
        assert len(sim.service.calls) == calls
        assert [letter.association for letter in letters(path)] == [SICK]


async def test_a_refused_report_is_dead_at_once(path: Path) -> None:
    """What will never be taken is not tried twice."""
    async with simulation(path) as sim:
        sim.service.script = lambda _: Refused(PROBLEM)
        await sim.observe("Failed", SICK)
        await sim.run_for(HOUR)
        assert len(sim.service.calls) == 1
        assert (await sim.entry(SICK)).state is State.DEAD


async def test_a_retry_after_hint_is_kept(path: Path) -> None:
    """A service that names a time is not called before it (rule 9)."""
    async with simulation(path) as sim:
        sim.service.script = lambda call: Throttled(PROBLEM, 90 * SECOND) if call.at_ms < SECOND else None
        await sim.observe("Failed", SICK)
        await sim.run_until(3 * MINUTE)
        first, second = sim.service.calls_for(SICK)[:2]
        assert second.at_ms - first.at_ms >= 90 * SECOND
        assert delivered(sim, [SICK], "Failed")


async def test_the_next_attempt_survives_a_restart(path: Path) -> None:
    """A daemon that is restarted every second does not make a call every second (rule 9)."""
    clock = ManualClock()
    async with simulation(path, clock=clock) as sim:
        sim.service.script = lambda _: Throttled(PROBLEM, 10 * MINUTE)
        await sim.observe("Failed", SICK)
        await sim.run_for(SECOND)
        due_ms = (await sim.entry(SICK)).due_at_ms
        assert due_ms is not None
        assert len(sim.service.calls) == 1
    for _ in range(3):
        clock.advance(SECOND)
        clock.restart()
        async with simulation(path, clock=clock) as sim:
            await sim.run_for(SECOND)
            assert sim.service.calls == []
    async with simulation(path, clock=clock) as sim:
        await sim.run_until(due_ms - START_MS - 1)
        assert sim.service.calls == []
        await sim.run_for(SECOND)
        assert delivered(sim, [SICK], "Failed")


async def test_a_lost_reply_is_asked_about_and_makes_no_second_call(path: Path) -> None:
    """The service took the report and its reply was lost: the question finds it, StatusUnchanged is not provoked."""
    async with simulation(path) as sim:

        def script(call: Call) -> Outcome | None:
            if call.report is None or len(sim.service.updates) > 1:
                return None
            sim.service.holds[call.association] = call.report
            return Unavailable(PROBLEM, Effect.POSSIBLE)

        sim.service.script = script
        await sim.observe("Failed", SICK)
        await sim.run_for(MINUTE)
        assert len(sim.service.updates) == 1
        assert len(sim.service.questions) == 1
        assert await sim.counter(Count.ALREADY_HELD) == 1


# What the service teaches.


async def test_a_service_that_compares_the_status_alone_is_found_out(path: Path) -> None:
    """After one StatusUnchanged to a new message, a change of message makes no call (rule 7)."""
    clock = ManualClock()
    async with simulation(path, clock=clock) as sim:
        sim.service.compares = Comparison.STATUS
        await sim.observe("Failed", SICK, message="one")
        await sim.run_for(10 * SECOND)
        await sim.observe("Failed", SICK, message="two")
        await sim.run_for(10 * SECOND)
        assert (len(sim.service.updates), len(sim.service.questions)) == (2, 1)
        assert await sim.outbox.fact(FACT_COMPARISON) == Comparison.STATUS
        await sim.observe("Failed", SICK, message="three")
        await sim.run_for(10 * SECOND)
        assert len(sim.service.calls) == 3
        await sim.observe("Success", SICK, message="three")
        await sim.run_for(10 * SECOND)
        assert delivered(sim, [SICK], "Success")


async def test_a_service_that_compares_messages_teaches_nothing(path: Path) -> None:
    """A new message is delivered, every time."""
    async with simulation(path) as sim:
        for number in range(5):
            await sim.observe("Failed", SICK, message=str(number))
            await sim.run_for(10 * SECOND)
        assert len(sim.service.calls) == 5
        assert await sim.outbox.fact(FACT_COMPARISON) is None


# Reconciliation.


async def at_rest(path: Path, clock: ManualClock) -> dict[Association, object]:
    """Everything delivered, and the daemon stopped."""
    async with simulation(path, clock=clock) as sim:
        await sim.observe("Success", *DOCUMENTS)
        await sim.run_for(10 * SECOND)
        assert delivered(sim, DOCUMENTS, "Success")
        held = dict(sim.service.holds)
    clock.advance(MINUTE)
    clock.restart()
    return dict(held)


async def test_reconciliation_stays_within_its_share_of_the_rate(path: Path) -> None:
    """At start every association is compared, at no more than a quarter of the rate, with jitter (rule 6)."""
    clock = ManualClock()
    await at_rest(path, clock)
    plan = Reconciliation(0, on_start=True)
    async with simulation(path, clock=clock, plan=plan, pace=replace(PACE, rate_per_second=4.0)) as sim:
        sim.service.holds = {each: report("Success", at_ms=0) for each in DOCUMENTS}
        start_ms = clock.now().steady_ms - START_MS
        await sim.run_for(2 * MINUTE)
        assert {call.association for call in sim.service.questions} == set(DOCUMENTS)
        assert len(sim.service.questions) == len(DOCUMENTS)
        times = [call.at_ms - start_ms for call in sim.service.questions]
        assert all(sum(at_ms <= other < at_ms + SECOND for other in times) <= 2 for at_ms in times)
        assert times[-1] >= (len(DOCUMENTS) - 1) * SECOND
        assert sim.service.updates == []


async def test_reconciliation_sends_what_was_lost_and_adopts_what_is_newer(path: Path) -> None:
    """The service is the truth, and gets again what it has lost (rule 6)."""
    clock = ManualClock()
    await at_rest(path, clock)
    lost, older, newer, *same = DOCUMENTS
    async with simulation(path, clock=clock, plan=Reconciliation(0, on_start=True)) as sim:
        sim.service.holds = {
            older: report("Pending", at_ms=-HOUR),
            newer: report("Failed", at_ms=MINUTE),
            **{each: report("Success") for each in same},
        }
        await sim.run_for(10 * MINUTE)
        assert {call.association for call in sim.service.updates} == {lost, older}
        assert delivered(sim, [lost, older, *same], "Success")
        adopted = (await sim.entry(newer)).acknowledged
        assert adopted is not None
        assert (adopted.report.status, adopted.via) == ("Failed", Via.ADOPTED)
        assert await sim.counter(Count.DELIVERED) == len(DOCUMENTS)


async def test_reports_go_before_questions(path: Path) -> None:
    """Reconciliation takes only the slots that no report needs."""
    clock = ManualClock()
    await at_rest(path, clock)
    plan = Reconciliation(0, on_start=True)
    async with simulation(path, clock=clock, plan=plan, pace=replace(PACE, burst=1)) as sim:
        await sim.observe("Failed", *DOCUMENTS)
        await sim.run_for(3 * SECOND)
        assert len(sim.service.updates) > len(DOCUMENTS) / 2
        assert sim.service.questions == []


async def test_a_question_that_got_no_answer_is_asked_again_soon(path: Path) -> None:
    """A node that boots before its network compares with the service once the network is there, not six hours later."""
    clock = ManualClock()
    await at_rest(path, clock)
    async with simulation(path, clock=clock, plan=Reconciliation(6 * HOUR, on_start=True)) as sim:
        began_ms = clock.now().steady_ms - START_MS
        sim.service.script = lambda call: Unreachable(PROBLEM) if call.at_ms < began_ms + MINUTE else None
        await sim.run_for(HOUR)
        answered = {call.association for call in sim.service.questions if call.at_ms >= began_ms + MINUTE}
        assert answered == set(DOCUMENTS)
        assert delivered(sim, DOCUMENTS, "Success")


async def test_a_hold_is_probed_although_no_report_waits(path: Path) -> None:
    """`status` does not show a dead endpoint for hours after it came back, only because no run has ended since."""
    clock = ManualClock()
    await at_rest(path, clock)
    async with simulation(path, clock=clock, plan=Reconciliation(6 * HOUR, on_start=True)) as sim:
        sim.service.holds = {each: report("Success") for each in DOCUMENTS}
        sim.service.script = lambda _: Unreachable(PROBLEM)
        await sim.run_for(MINUTE)
        assert [hold.scope for hold in sim.reporter.holds] == [Scope.ENDPOINT]
        sim.service.script = lambda _: None
        await sim.run_for(10 * MINUTE)
        assert list(sim.reporter.holds) == []


async def test_a_shut_node_is_asked_by_one_probe_at_a_time_and_compared_when_it_is_back(path: Path) -> None:
    """A gateway does not ask for every document of a node that is gone, nor forget to when it is back (rule 10)."""
    clock = ManualClock()
    await at_rest(path, clock)
    async with simulation(path, clock=clock, plan=Reconciliation(6 * HOUR, on_start=True)) as sim:
        sim.service.holds = {each: report("Success") for each in DOCUMENTS}
        sim.service.script = lambda _: Withheld(Scope.NODE, PROBLEM)
        await sim.run_for(HOUR)
        assert 10 <= len(sim.service.questions) <= 60
        assert [hold.scope for hold in sim.reporter.holds] == [Scope.NODE]
        before = len(sim.service.questions)
        sim.service.script = lambda _: None
        await sim.run_for(15 * MINUTE)
        assert list(sim.reporter.holds) == []
        assert {call.association for call in sim.service.questions[before:]} == set(DOCUMENTS)
        assert sim.service.updates == []


# The claim that stands by while nothing is out.


async def test_news_of_an_idle_daemon_is_claimed_in_its_own_commit(path: Path) -> None:
    """From the observation to the call there is one commit, and the reporter takes no turn."""
    async with simulation(path) as sim:
        await sim.observe("Success", SICK)
        await sim.run_for(HOUR)
        commits, turns = sim.committer.progress, sim.reporter.progress
        sim.service.latency_ms = lambda _: SECOND
        await sim.observe("Failed", SICK)
        await sim.rest()
        assert len(sim.service.calls_for(SICK)) == 2
        assert (sim.committer.progress - commits, sim.reporter.progress - turns) == (1, 0)


async def test_news_within_its_window_goes_out_at_its_end(path: Path) -> None:
    """What the claim that stood by could not take yet is not forgotten."""
    async with simulation(path, policy=replace(POLICY, window_ms=MINUTE)) as sim:
        await sim.observe("Success", SICK)
        await sim.run_for(SECOND)
        await sim.observe("Failed", SICK)
        await sim.run_until(HOUR)
        assert [call.at_ms for call in sim.service.calls_for(SICK)] == [0, MINUTE]


async def test_an_unchanged_result_costs_its_commit_and_nothing_else(path: Path) -> None:
    """The claim that stood by found nothing, and stands by again."""
    async with simulation(path) as sim:
        await sim.observe("Success", SICK)
        await sim.run_for(HOUR)
        commits, turns = sim.committer.progress, sim.reporter.progress
        for _ in range(3):
            await sim.observe("Success", SICK)
            await sim.rest()
        assert (sim.committer.progress - commits, sim.reporter.progress - turns) == (3, 0)
        await sim.observe("Failed", SICK)
        await sim.rest()
        assert (sim.committer.progress - commits, sim.reporter.progress - turns) == (4, 0)
        assert len(sim.service.calls_for(SICK)) == 2


@pytest.mark.parametrize("tokens", [1, 3])
async def test_news_takes_no_more_than_the_rate_and_the_slots_allow(path: Path, tokens: int) -> None:
    """The claim that stands by is bound as any other (rules 9 and 12)."""
    async with simulation(path, pace=replace(FAST, rate_per_second=1, burst=tokens, concurrency=2)) as sim:
        sim.service.latency_ms = lambda _: 10 * SECOND
        await sim.rest()
        await sim.observe("Failed", *DOCUMENTS)
        await sim.rest()
        assert sim.reporter.calls_out == min(tokens, 2)
        await sim.run_until(HOUR)
        assert delivered(sim, DOCUMENTS, "Failed")
        assert sim.service.most_out == 2


async def test_news_of_a_quiet_node_takes_its_token_of_the_time_it_goes_out(path: Path) -> None:
    """No tokens come for the time before it, when the bucket was full (rule 12)."""
    async with simulation(path, pace=replace(FAST, rate_per_second=1, burst=1)) as sim:
        await sim.run_for(HOUR)
        await sim.observe("Failed", *DOCUMENTS[:3])
        await sim.run_for(HOUR)
        assert len(sim.service.calls) == 3
        assert all(later.at_ms - earlier.at_ms >= SECOND for earlier, later in pairwise(sim.service.calls)), (
            "one call a second, from the first one on"
        )


async def test_news_takes_only_the_slots_that_are_left(path: Path) -> None:
    """Nothing stands by while a call is out (rule 9)."""
    async with simulation(path, pace=replace(FAST, concurrency=2)) as sim:
        sim.service.latency_ms = lambda _: 10 * SECOND
        await sim.observe("Failed", SICK)
        await sim.rest()
        await sim.observe("Failed", *OTHERS)
        await sim.run_until(HOUR)
        assert delivered(sim, DOCUMENTS, "Failed")
        assert sim.service.most_out == 2


@pytest.mark.parametrize("scope", [Scope.NODE, Scope.CREDENTIALS, Scope.CLOCK])
async def test_news_waits_behind_a_hold_like_everything_else(path: Path, scope: Scope) -> None:
    """Nothing stands by while something is shut (rule 10)."""
    async with simulation(path) as sim:
        sim.service.script = lambda _: Withheld(scope, PROBLEM)
        await sim.observe("Failed", SICK)
        await sim.run_until(2 * LATENCY_MS)
        assert len(sim.service.calls) == 1
        await sim.observe("Failed", *OTHERS)
        await sim.rest()
        assert len(sim.service.calls) == 1


async def test_news_that_comes_with_a_throttled_answer_waits_for_the_rate(path: Path) -> None:
    """Nothing stands by while a call is out: its outcome may take tokens back (rule 12)."""
    async with simulation(path, pace=PACE) as sim:
        under_way = threading.Event()
        news: list[asyncio.Task[None]] = []

        async def come() -> None:
            observing = asyncio.ensure_future(sim.observe("Failed", OTHERS[0]))
            await asyncio.sleep(0)
            under_way.set()
            await observing

        def throttled(call: Call) -> Outcome | None:
            if call.association != SICK or news:
                return None
            # Nothing is committed until both the settlement and the news are there: they share a commit.
            sim.committer.submit(lambda _: under_way.wait(STOP_SECONDS_MAX), Durability.PROCESS_DEATH)
            news.append(asyncio.ensure_future(come()))
            return Throttled(PROBLEM, MINUTE)

        sim.service.script = throttled
        await sim.observe("Failed", SICK)
        await sim.run_until(10 * SECOND)
        (call,) = sim.service.calls_for(OTHERS[0])
        assert call.at_ms > LATENCY_MS


async def test_news_that_comes_with_a_reload_goes_out_by_the_new_pace(path: Path) -> None:
    """What wakes the loop withdraws the claim before it changes what it would go by."""
    async with simulation(path, committing=SwiftCommitter) as sim:
        await sim.rest()
        sim.reporter.repace(replace(FAST, concurrency=1))
        await sim.observe("Failed", *DOCUMENTS)
        await sim.run_until(10 * SECOND)
        assert delivered(sim, DOCUMENTS, "Failed")
        assert sim.service.most_out == 1


async def test_news_that_comes_with_a_stop_stays(path: Path) -> None:
    """It is delivered after the next start."""
    async with simulation(path, committing=SwiftCommitter) as sim:
        await sim.rest()
        sim.reporter.stop()
        await sim.observe("Failed", SICK)
    assert sim.service.calls == []


async def test_news_whose_claim_was_under_way_at_the_stop_is_delivered(path: Path) -> None:
    """Nobody is left with a report that is claimed and that nobody works on."""
    async with simulation(path, committing=SwiftCommitter) as sim:
        await sim.rest()
        observing = asyncio.ensure_future(sim.observe("Failed", SICK))
        await asyncio.sleep(0)
        sim.reporter.stop()
        await observing
    assert [call.association for call in sim.service.calls] == [SICK]


class _FailingCommitter(WatchedCommitter):
    """A committer that a disk lets through only when it is mended."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.mended = threading.Event()
        self.mended.set()

    def _commit(self, batch: list[Any]) -> bool:
        if not self.mended.is_set():
            raise sqlite3.OperationalError("disk I/O error")
        return super()._commit(batch)


async def test_a_stop_waits_for_no_commit_that_a_claim_stood_by_for(path: Path) -> None:
    """On a full disk an idle daemon stops as quickly as ever."""
    async with simulation(path, committing=_FailingCommitter) as sim:
        await sim.rest()
        committer = cast("_FailingCommitter", sim.committer)
        committer.mended.clear()
        observing = asyncio.ensure_future(sim.observe("Failed", SICK))
        await asyncio.sleep(0)
        sim.reporter.stop()
        async with asyncio.timeout(STOP_SECONDS_MAX):
            await sim.running
        assert not observing.done()
        committer.mended.set()
        await observing
    assert sim.service.calls == []


async def test_a_reporter_that_was_cancelled_takes_nothing_more(path: Path) -> None:
    """What is committed after a stop that took too long is no claim that nobody works on."""
    clock = ManualClock()
    committer, outbox = outbox_at(path, clock, lambda: 0.5)
    running = asyncio.create_task(Reporter(outbox, ScriptedService(clock), clock, lambda: 0.5, FAST).run())
    await committer.rest()
    running.cancel()
    await asyncio.wait({running})
    await outbox.observe([result("Failed", association=SICK)])
    found = await committer.submit(contents)
    assert found.entries[SICK].state is State.PENDING
    await outbox.close()


# Stopping.


async def test_stopping_takes_nothing_new_and_settles_what_is_out(path: Path) -> None:
    """At SIGTERM the calls in flight are finished, and nothing else is begun."""
    async with simulation(path, pace=replace(FAST, concurrency=2)) as sim:
        sim.service.latency_ms = lambda _: 5 * SECOND
        await sim.observe("Failed", *DOCUMENTS)
        await sim.rest()
        assert sim.reporter.calls_out == 2
    assert len(sim.service.calls) == 2
    assert len(sim.service.holds) == 2
