"""Crashes: SIGKILL at any moment loses nothing, and repeats at most the calls that were in flight."""

import asyncio
import random
import resource
import signal
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from acceptance_support import NODE, Daemon, Manager, Site, assert_balanced, calls, faults, held, waiting
from ssm_status_reporter.emulator.faults import FaultPlan, Rule
from ssm_status_reporter.emulator.server import Emulator

KILLS = 12
CONCURRENCY = 4
DOCUMENTS = [f"Doc-{number}" for number in range(12)]
SLOW = FaultPlan(rules=(Rule(latency="5ms"),))
"""Long enough for a kill to meet calls in flight."""


async def write_results(site: Site, chance: random.Random, finished: asyncio.Event) -> None:
    """Hand in hundreds of results, until told otherwise, some under names of their own and some over the last."""
    for number in count(1):
        document = chance.choice(DOCUMENTS)
        overwritten = f"{document}.json" if document < "Doc-5" else None
        site.drop(document, chance.choice(["Success", "Failed"]), str(number), name=overwritten)
        await asyncio.sleep(chance.random() * 0.01)  # its own pace, whatever the daemon does
        if finished.is_set() and number > 300:
            break


@pytest.mark.parametrize("reconcile", [True, False], ids=["asking the service", "without asking"])
async def test_sigkill_at_any_moment_loses_nothing_and_repeats_only_what_was_in_flight(
    tmp_path: Path, *, reconcile: bool
) -> None:
    """After a dozen crashes among hundreds of results each association holds its newest, and the counters add up."""
    chance = random.Random(20_261_122 + reconcile)  # noqa: S311 - moments and statuses, no secret
    changes = {
        "delivery": {"concurrency": CONCURRENCY},
        "debounce": {"window": "20ms"},
        "reconcile": {"interval": "6h" if reconcile else "0s", "on_start": reconcile},
    }
    async with Emulator(SLOW) as emulator:
        site = Site(tmp_path, emulator.url, changes)
        finished = asyncio.Event()
        writer = asyncio.create_task(write_results(site, chance, finished))
        for kill in range(KILLS):
            async with site.daemon(ready=False) as daemon:
                if kill % 4:  # else anywhere, its start included
                    await daemon.line("started")
                await asyncio.sleep(chance.random() * 0.4)
                await daemon.kill()
        finished.set()
        await writer
        async with site.daemon() as daemon:
            await daemon.state(lambda _: not site.unfinished(), "everything is committed")
            state = await daemon.quiet()
            assert await daemon.stop() == 0
        assert {document: held(emulator, document) for document in DOCUMENTS} == site.written
        assert_balanced(state)
        assert waiting(state) == 0
        assert list((site.spool / ".taken").iterdir()) == []
        applied = [(each.document, each.message) for each in calls(emulator) if each.applied]
        repeated = len(calls(emulator)) - len(set(applied))
        assert repeated <= KILLS * CONCURRENCY, "only what was in flight goes out again"
        for document in DOCUMENTS:
            numbers = [int(message or 0) for each, message in applied if each == document]
            assert numbers == sorted(numbers), "nothing older over something newer"


async def test_a_call_whose_reply_the_crash_lost_is_asked_about_and_not_repeated(tmp_path: Path) -> None:
    """Killed between the service's commit and its reply, the daemon learns at its start that all is done."""
    plan = FaultPlan(rules=(Rule(operation="UpdateAssociationStatus", latency="300ms"),))
    daemons: list[Daemon] = []
    numbers = count(1)

    def new_id() -> str:
        number = next(numbers)
        if number == 2:  # the update, after the question: it has arrived, and the service takes its 300 ms
            daemons[0].signal(signal.SIGKILL)
        return f"request-{number}"

    async with Emulator(plan, new_id=new_id) as emulator:
        site = Site(tmp_path, emulator.url, {"reconcile": {"interval": "6h", "on_start": True}})
        async with site.daemon() as daemon:
            daemons.append(daemon)
            site.drop("Doc", "Success", "done")
            await daemon.ended()
        await emulator.wait_for(lambda ledger: any(each.applied for each in ledger))
        async with site.daemon() as daemon:
            state = await daemon.quiet(1)
        assert Counter(each.answer for each in calls(emulator)) == {"ok": 1}
        assert state["counters"]["already_held"] == 1
        assert_balanced(state)


async def test_a_crash_within_the_debounce_window_forgets_nothing(tmp_path: Path) -> None:
    """A change that was waiting for the end of its window when the daemon died goes out at the next start."""
    async with Emulator() as emulator:
        site = Site(tmp_path, emulator.url, {"debounce": {"window": "1h"}})
        async with site.daemon() as daemon:
            site.drop("Doc", "Pending", "first")
            await daemon.quiet(1)
            site.drop("Doc", "Success", "second")
            await daemon.state(lambda state: state["outbox"]["pending"] == 1, "the second is stored")
            await daemon.kill()
        assert held(emulator, "Doc") == ("Pending", "first")
        # No deadline lies further ahead than the window that is in force: an hour is not waited out here.
        site.configure({"debounce": {"window": "1s"}})
        async with site.daemon() as daemon:
            state = await daemon.quiet(2)
        assert held(emulator, "Doc") == ("Success", "second")
        assert_balanced(state)


async def test_a_backoff_outlives_a_crash(tmp_path: Path) -> None:
    """A daemon that is started again and again does not call a failing service more often for that."""
    # A hint of an hour: of a backoff of an hour full jitter may make seconds.
    async with Emulator(faults({"code": "InternalServerError", "retry_after": "1h", "times": 0})) as emulator:
        site = Site(tmp_path, emulator.url)
        async with site.daemon() as daemon:
            site.drop("Doc", "Success", "done")
            await daemon.line("not delivered: it will be retried")
            await daemon.kill()
        before = site.association("Doc")["next_attempt_at"]
        for number in range(3):
            async with site.daemon() as daemon:
                # Two associations that fail are not yet an endpoint's hold, nor are they one's own.
                site.drop(f"Other-{number}", "Success", "done")
                await daemon.line("not delivered: it will be retried", document=f"Other-{number}")
                await daemon.kill()
        assert len(calls(emulator, "Doc")) == 1
        assert site.association("Doc")["next_attempt_at"] == before


async def test_a_full_disk_stops_acknowledging_loses_nothing_and_recovers_by_itself(tmp_path: Path) -> None:
    """While the outbox cannot be written files stay claimed, the watchdog is told all the same, then all arrives."""
    async with Emulator() as emulator, Manager(tmp_path / "notify") as manager:
        site = Site(tmp_path, emulator.url)
        # Half of it is longer than the pause between two attempts at a transaction.
        watched: dict[str, Any] = {**manager.environment, "WATCHDOG_USEC": "2400000"}
        async with site.daemon(watched) as daemon:
            site.drop("Before", "Success", "done")
            await daemon.quiet(1)
            # No file may grow or be written: what a full disk is, for this process alone.
            limits = resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (0, limits[1]))
            for document in DOCUMENTS:
                site.drop(document, "Success", "full")
            await daemon.line("outbox cannot be written: nothing is acknowledged until it can, nothing is lost")
            fed = manager.count("WATCHDOG")
            for times in range(1, 4):
                # Woken as dead-letters does it, the reporter waits for the outbox, which is not its own standstill.
                site.outbox.with_name("outbox.db.wake").write_bytes(b"")
                await manager.until(lambda times=times: manager.count("WATCHDOG") >= fed + times, "the watchdog")  # type: ignore[misc]
            await daemon.until(lambda: not list(site.spool.glob("*.json")), "all are claimed")
            kept = len(list((site.spool / ".taken").iterdir()))
            assert kept == len(DOCUMENTS), "not acknowledged: the files are still there"
            resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, limits)
            await daemon.line("outbox can be written again")
            state = await daemon.quiet(len(DOCUMENTS) + 1)
            assert len(daemon.logged("outbox can be written again")) == 1
        assert {document: held(emulator, document) for document in site.written} == site.written
        assert_balanced(state)


async def test_a_broken_outbox_is_set_aside_and_reconciliation_fills_the_new_one(tmp_path: Path) -> None:
    """With a database that is no database the daemon says so, keeps the file, and goes on."""
    async with Emulator() as emulator:
        site = Site(tmp_path, emulator.url, {"reconcile": {"interval": "6h", "on_start": True}})
        site.drop("Doc", "Success", "done", observed_at="2026-01-01T00:00:00Z")
        async with site.daemon() as daemon:
            await daemon.quiet(1)
            await daemon.stop()
        site.outbox.write_bytes(b"this was a disk once" * 1000)
        site.drop("Doc", "Success", "done", observed_at="2026-01-01T00:00:00Z")
        async with site.daemon() as daemon:
            said = await daemon.line("outbox is broken: set aside, going on with a new one")
            await daemon.quiet(1)
        aside = Path(said["set_aside"])
        assert aside.name.startswith("outbox.db.corrupt-")
        assert aside.read_bytes().startswith(b"this was a disk once")  # noqa: ASYNC240 (a small local file)
        assert len(calls(emulator)) == 1, "the service was asked, and holds it"
        assert emulator.status_of(NODE, "Doc") is not None
