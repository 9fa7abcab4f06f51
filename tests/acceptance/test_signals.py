"""Starting, stopping, reloading and being watched: what the service manager and the administrator see."""

import asyncio
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Final

import pytest

from acceptance_support import (
    SECONDS_MAX,
    UPDATE,
    Daemon,
    Manager,
    Site,
    assert_balanced,
    calls,
    faults,
    held,
    with_bounds,
)
from ssm_status_reporter.emulator.faults import FaultPlan, Rule
from ssm_status_reporter.emulator.server import Emulator

UNAVAILABLE: Final = 69
BAD_CONFIGURATION: Final = 78
STOP_SECONDS_MAX: Final = 100.0
"""Ten times what a stop takes while calls hang, and a third of what the calls would take."""
UNHURRIED: Final = with_bounds(
    {"sources.spool_session.SPOOL_STOP_SECONDS_MAX": SECONDS_MAX, "daemon.CANCEL_AGAIN_SECONDS": 2 * SECONDS_MAX}
)
"""However long the disk takes, what is being committed at a stop is waited for."""
SILENCE_SECONDS: Final = 1.0
"""How long is listened to for what is not to come: five times its interval."""
WATCHDOG: Final = {"WATCHDOG_USEC": "400000"}
FED_SECONDS: Final = 0.2
WAITED_FOR: Final = "the broker has not answered yet: it is waited for, and everything else goes on"
STOPS: Final = [signal.SIGTERM, signal.SIGINT]
SLOW_CALLS: Final = FaultPlan(rules=(Rule(operation=UPDATE, latency="500ms"),))


# Stopping.


@pytest.mark.parametrize("number", STOPS)
async def test_a_signal_lets_the_call_that_is_out_finish(tmp_path: Path, number: signal.Signals) -> None:
    """Stopped in mid-call, the daemon waits for the answer, counts it, takes nothing new, and exits with 0."""
    daemons: list[Daemon] = []

    def new_id() -> str:  # the request has arrived, the answer takes its time from now on
        daemons[0].signal(number)
        return "request-1"

    async with Emulator(SLOW_CALLS, new_id=new_id) as emulator:
        site = Site(tmp_path, emulator.url)
        async with site.daemon() as daemon:
            daemons.append(daemon)
            site.drop("Doc", "Success", "done")
            assert await daemon.ended() == 0
        assert [line["event"] for line in daemon.lines][-2:] == ["delivered", "stopped"]
        site.drop("Late", "Success", "done")
        assert len(list(site.spool.glob("*.json"))) == 1, "what comes later waits for the next start"
        state = site.state()
        assert state["daemon"]["running"] is False
        assert state["associations"][0]["state"] == "acknowledged"
        assert len(calls(emulator)) == 1
        assert_balanced(state)


async def test_a_service_that_hangs_does_not_keep_it_from_stopping(tmp_path: Path) -> None:
    """With every call hanging either signal ends it within about 10 s, exit 0, and the next start delivers."""

    async def stopped(number: signal.Signals) -> None:
        async with Emulator(faults({"kind": "hang", "times": 0})) as emulator:
            root = tmp_path / number.name
            root.mkdir()
            site = Site(root, emulator.url, {"delivery": {"timeout": "5m"}})
            async with site.daemon() as daemon:
                for document in range(10):
                    site.drop(f"Doc-{document}", "Success", "done")
                await daemon.state(lambda state: state["outbox"]["in_flight"] == 4, "four calls are out")
                since = time.monotonic()
                daemon.signal(number)
                assert await daemon.ended() == 0
                assert time.monotonic() - since < STOP_SECONDS_MAX
            emulator.faults = FaultPlan()
            async with site.daemon() as daemon:
                state = await daemon.quiet(10)
            assert {document: held(emulator, document) for document in site.written} == site.written
            assert_balanced(state)

    await asyncio.gather(*(stopped(number) for number in STOPS))


async def test_a_thread_that_blocks_does_not_keep_it_from_stopping(tmp_path: Path) -> None:
    """What nothing can cancel, such as a look-up of a name or a file system that hangs, is left behind: exit 0."""
    password = tmp_path / "password"
    os.mkfifo(password)  # nobody ever writes to it: opening it blocks
    mqtt = {"enabled": True, "username": "reporter", "password_file": str(password)}
    async with Emulator() as emulator:
        site = Site(tmp_path, emulator.url, {"sources": {"mqtt": mqtt}})
        async with site.daemon() as daemon:
            await daemon.line(WAITED_FOR)
            site.drop("Doc", "Success", "done")
            await daemon.quiet(1)
            assert await daemon.stop() == 0
        assert [line["event"] for line in daemon.lines][-1] == "stopped"


async def test_stopped_while_results_pour_in_nothing_is_lost(tmp_path: Path) -> None:
    """A stop among hundreds of results leaves each one delivered, stored, claimed or where its runner put it."""
    async with Emulator() as emulator:
        site = Site(tmp_path, emulator.url)
        for round_number in range(3):
            async with site.daemon() as daemon:
                for number in range(150):
                    site.drop(f"Doc-{number}", "Success", f"{round_number}")
                assert await daemon.stop() == 0
        async with site.daemon() as daemon:
            await daemon.state(
                lambda _: all(held(emulator, document) == site.written[document] for document in site.written),
                "each has its newest",
            )
            state = await daemon.quiet()
        assert state["counters"]["received"] >= 450
        assert_balanced(state)


async def test_a_clean_stop_counts_no_result_twice(tmp_path: Path) -> None:
    """After SIGTERM no committed result lies in .taken/: the next start does not meet it again."""
    async with Emulator() as emulator:
        site = Site(tmp_path, emulator.url)
        for round_number in range(3):
            async with site.daemon(prefix=UNHURRIED) as daemon:
                for number in range(150):
                    site.drop(f"Doc-{number}", "Success", f"{round_number}")
                assert await daemon.stop() == 0
        async with site.daemon() as daemon:
            await daemon.state(lambda _: not site.unfinished(), "everything is committed")
            state = await daemon.quiet()
        assert state["counters"]["received"] == 450


# Starting.


async def test_a_second_daemon_on_the_same_outbox_is_refused(tmp_path: Path) -> None:
    """It says which process has it, exits with 69, and the first goes on undisturbed."""
    async with Emulator() as emulator:
        site = Site(tmp_path, emulator.url)
        async with site.daemon() as daemon:
            second = await site.run("run")
            assert (second.code, second.output) == (UNAVAILABLE, "")
            assert f"process {daemon.pid}" in second.errors
            assert str(site.outbox) in second.errors
            assert len(second.errors.splitlines()) == 1
            site.drop("Doc", "Success", "done")
            await daemon.quiet(1)
            await daemon.kill()
        async with site.daemon() as daemon:  # a lock of the dead keeps nobody out
            assert await daemon.stop() == 0


async def test_a_bad_configuration_is_78_with_every_error(tmp_path: Path) -> None:
    """The daemon refuses it before anything is made, each error with its key; so does a file that does not exist."""
    site = Site(tmp_path, "http://127.0.0.1:9")
    site.configure({"debounce": {"window": "2 seconds"}, "delivery": {"speed": 1}})
    ended = await site.run("run")
    assert ended.code == BAD_CONFIGURATION
    assert "debounce.window" in ended.errors
    assert "delivery.speed" in ended.errors
    site.config.unlink()
    assert (await site.run("run")).code == BAD_CONFIGURATION
    assert list(site.outbox.parent.iterdir()) == []


async def test_without_an_identity_it_says_what_to_configure(tmp_path: Path) -> None:
    """Neither configured, registered nor on EC2: exit 69, naming the two keys."""
    site = Site(tmp_path, "http://127.0.0.1:9")
    site.configure({"node": {"instance_id": "auto", "region": "auto"}})
    ended = await site.run("run")
    assert ended.code == UNAVAILABLE
    for text in ("node.instance_id", "node.region", "registration"):
        assert text in ended.errors
    assert "Traceback" not in ended.errors


async def test_a_hybrid_node_takes_its_identity_from_the_registration(tmp_path: Path) -> None:
    """With auto and the SSM Agent's registration there the calls go out for that node."""
    async with Emulator() as emulator:
        site = Site(tmp_path, emulator.url, {"node": {"instance_id": "auto", "region": "auto"}})
        (tmp_path / "no-agent").mkdir()
        registration = {"ManagedInstanceID": "mi-0123456789abcdef0", "Region": "eu-west-3"}
        (tmp_path / "no-agent" / "registration").write_text(json.dumps(registration), "utf-8")
        async with site.daemon() as daemon:
            site.drop("Doc", "Success", "done")
            state = await daemon.quiet(1)
        assert state["node"] == {"instance_id": "mi-0123456789abcdef0", "region": "eu-west-3"}
        assert calls(emulator)[0].instance_id == "mi-0123456789abcdef0"


async def test_an_outbox_that_cannot_be_made_is_69_and_says_why(tmp_path: Path) -> None:
    """A state directory that is a file: one line that names it, no stack trace."""
    site = Site(tmp_path, "http://127.0.0.1:9")
    shutil.rmtree(site.outbox.parent)
    site.outbox.parent.write_text("a file", "utf-8")
    ended = await site.run("run")
    assert ended.code == UNAVAILABLE
    assert str(site.outbox.parent) in ended.errors
    assert "Traceback" not in ended.errors


async def test_what_the_machine_refuses_where_nobody_counts_on_it_is_said_with_its_place(tmp_path: Path) -> None:
    """Without descriptors for an event loop: exit 69, what was refused, and where in the program."""
    site = Site(tmp_path, "http://127.0.0.1:9")
    async with site.daemon(ready=False, prefix=("prlimit", "--nofile=5")) as daemon:
        assert await daemon.ended() == UNAVAILABLE
        said = "\n".join(daemon.noise)
        daemon.noise.clear()
    assert "Too many open files" in said
    assert "socketpair" in said


async def test_an_outbox_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    """A schema that this version does not know is not written to: exit 69 and what to do."""
    import sqlite3  # noqa: PLC0415 - for this one

    site = Site(tmp_path, "http://127.0.0.1:9")
    connection = sqlite3.connect(site.outbox)
    connection.execute("PRAGMA user_version=4711")
    connection.close()
    ended = await site.run("run")
    assert ended.code == UNAVAILABLE
    assert "later version" in ended.errors
    assert "Traceback" not in ended.errors


# Reloading.


async def test_a_reload_takes_effect_and_names_what_needs_a_restart(tmp_path: Path) -> None:
    """SIGHUP: a longer window holds the second change back, the level changes, other keys are named until a restart."""
    async with Emulator() as emulator, Manager(tmp_path / "notify") as manager:
        site = Site(tmp_path, emulator.url)
        async with site.daemon(manager.environment) as daemon:
            site.drop("Doc", "Pending", "first")
            await daemon.quiet(1)
            site.configure(
                {
                    "debounce": {"window": "1h"},
                    "delivery": {"timeout": "2s"},
                    "outbox": {"max_dead_letters": 7},
                    "log": {"level": "info"},
                }
            )
            daemon.signal(signal.SIGHUP)
            said = await daemon.line("reloaded")
            assert set(said["changed"]) == {
                "debounce.window",
                "delivery.timeout",
                "outbox.max_dead_letters",
                "log.level",
            }
            assert said["needs_restart"] == ["delivery.timeout"]
            await manager.until(lambda: manager.count("READY", "1") == 2, "ready again")
            reloading = next(told for told in manager.told if "RELOADING" in told)
            assert reloading["RELOADING"] == "1"
            assert 0 < int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
            seen = len(daemon.lines)
            site.drop("Doc", "Success", "second")
            await emulator.wait_for(lambda ledger: len(ledger) == 2)  # the old window was over
            site.drop("Doc", "Failed", "third")
            site.drop("Other", "Success", "sentinel")
            await daemon.line("delivered", document="Other")
            assert held(emulator, "Doc") == ("Success", "second"), "the third waits out the new window"
            assert {line["level"] for line in daemon.lines[seen:]} == {"info"}
            # Who reloads again is told again.
            daemon.signal(signal.SIGHUP)
            said = await daemon.line("reloaded", times=2)
            assert (said["changed"], said["needs_restart"]) == (["delivery.timeout"], ["delivery.timeout"])
            # Back again: what was held back by the window goes out, and nothing needs a restart any more.
            site.configure({"debounce": {"window": "0s"}})
            daemon.signal(signal.SIGHUP)
            said = await daemon.line("reloaded", times=3)
            assert "delivery.timeout" not in said["changed"]
            assert said["needs_restart"] == []
            site.drop("Doc", "Failed", "fourth")
            await emulator.wait_for(lambda ledger: any(each.message == "fourth" for each in ledger))


async def test_a_bad_reload_keeps_the_old_configuration_and_names_the_errors(tmp_path: Path) -> None:
    """SIGHUP with a bad file or none at all changes nothing; every error is in the log, and it is ready again."""
    async with Emulator() as emulator, Manager(tmp_path / "notify") as manager:
        site = Site(tmp_path, emulator.url)
        async with site.daemon(manager.environment) as daemon:
            site.configure({"debounce": {"window": "soon"}, "surprise": True, "log": {"level": "error"}})
            daemon.signal(signal.SIGHUP)
            event = "not reloaded: the configuration is bad, the old one stays in force"
            said = await daemon.line(event)
            assert any("debounce.window" in error for error in said["errors"])
            assert any("surprise" in error for error in said["errors"])
            await manager.until(lambda: manager.count("READY", "1") == 2, "ready again")
            site.config.unlink()
            daemon.signal(signal.SIGHUP)
            await daemon.line(event, times=2)
            await manager.until(lambda: manager.count("READY", "1") == 3, "ready again")
            site.drop("Doc", "Success", "done")
            await daemon.line("delivered")  # which an error level would not show
            site.configure()
            daemon.signal(signal.SIGHUP)
            said = await daemon.line("reloaded")
            assert said["changed"] == []


async def test_a_reload_probes_what_is_held_at_once(tmp_path: Path) -> None:
    """Whoever mended the permission need not wait for the backoff: SIGHUP lets the held report out."""
    async with Emulator(faults({"code": "AccessDeniedException", "times": 0})) as emulator:
        site = Site(tmp_path, emulator.url, {"delivery": {"backoff": {"initial": "1h", "max": "1h"}}})
        async with site.daemon() as daemon:
            for number in range(4):
                site.drop(f"Doc-{number}", "Success", "done")
            await daemon.state(
                lambda state: any(hold["document"] is None for hold in state["holds"]), "held for everything"
            )
            emulator.faults = FaultPlan()
            daemon.signal(signal.SIGHUP)
            state = await daemon.quiet(4)
        assert state["holds"] == []


# Being watched.


async def test_ready_is_told_only_when_the_outbox_is_open_and_the_sources_watch(tmp_path: Path) -> None:
    """READY=1 comes after the log said that the directory is watched; a result dropped then is delivered."""
    async with Emulator() as emulator, Manager(tmp_path / "notify") as manager:
        site = Site(tmp_path, emulator.url)
        async with site.daemon(manager.environment, ready=False) as daemon:
            await manager.until(lambda: manager.count("READY", "1") == 1, "ready")
            assert site.state()["daemon"]["pid"] == daemon.pid, "the outbox is open"
            site.drop("Doc", "Success", "done")
            await daemon.quiet(1)
            events = [line["event"] for line in daemon.lines]
            assert events.index("watching the results directory") < events.index("ready")
            await manager.until(lambda: manager.count("STATUS") >= 1, "a status line")
            assert await daemon.stop() == 0
            await manager.until(lambda: manager.count("STOPPING", "1") == 1, "stopping")
        assert manager.count("WATCHDOG") == 0, "nobody asked for it"


async def test_a_source_that_cannot_watch_yet_says_why_and_does_not_keep_it_from_ready(tmp_path: Path) -> None:
    """Without a results directory: a warning with what to do, READY=1, and results when the directory appears."""
    async with Emulator() as emulator, Manager(tmp_path / "notify") as manager:
        site = Site(tmp_path, emulator.url)
        site.spool.rmdir()
        async with site.daemon(manager.environment) as daemon:
            await manager.until(lambda: manager.count("READY", "1") == 1, "ready")
            (said,) = daemon.logged("the results directory cannot be used")
            assert said["path"] == str(site.spool)
            assert "create it" in said["hint"]
            site.spool.mkdir()
            site.drop("Doc", "Success", "done")
            await daemon.quiet(1)


async def test_the_watchdog_is_fed_unless_the_daemon_stands_still(tmp_path: Path) -> None:
    """WATCHDOG=1 comes twice an interval, idle or not; a stopped process sends none, a resumed one goes on."""
    async with Emulator() as emulator, Manager(tmp_path / "notify") as manager:
        site = Site(tmp_path, emulator.url)
        since = time.monotonic()
        async with site.daemon(manager.environment | WATCHDOG) as daemon:
            await manager.until(lambda: manager.count("WATCHDOG", "1") >= 10, "fed")
            assert time.monotonic() - since >= 10 * FED_SECONDS, "not more often, on no machine"
            await manager.until(lambda: manager.shortest_pause("WATCHDOG") < 1.5 * FED_SECONDS, "nor more rarely")
            daemon.signal(signal.SIGSTOP)
            # What it sent before it stopped is in the socket by the time the process is reported stopped.
            _, status = await asyncio.to_thread(os.waitpid, daemon.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status)
            await manager.has_read_everything()
            fed = manager.count("WATCHDOG")
            await asyncio.sleep(SILENCE_SECONDS)
            assert manager.count("WATCHDOG") == fed
            daemon.signal(signal.SIGCONT)
            await manager.until(lambda: manager.count("WATCHDOG") >= fed + 2, "fed again")
            site.drop("Doc", "Success", "done")
            await daemon.quiet(1)


async def test_a_watchdog_meant_for_another_process_is_not_fed(tmp_path: Path) -> None:
    """WATCHDOG_PID names somebody else: no WATCHDOG=1."""
    async with Emulator() as emulator, Manager(tmp_path / "notify") as manager:
        site = Site(tmp_path, emulator.url)
        async with site.daemon(manager.environment | WATCHDOG | {"WATCHDOG_PID": "1"}):
            await manager.until(lambda: manager.count("READY"), "ready")
            await asyncio.sleep(SILENCE_SECONDS)
        assert manager.count("WATCHDOG") == 0


async def test_a_service_manager_that_is_not_there_is_no_reason_to_fail(tmp_path: Path) -> None:
    """With a NOTIFY_SOCKET that nobody listens at the daemon says so once and does its work."""
    async with Emulator() as emulator:
        site = Site(tmp_path, emulator.url)
        async with site.daemon({"NOTIFY_SOCKET": str(tmp_path / "nobody"), **WATCHDOG}) as daemon:
            site.drop("Doc", "Success", "done")
            await daemon.quiet(1)
            daemon.signal(signal.SIGHUP)
            await daemon.line("reloaded")
            assert await daemon.stop() == 0
        assert len([line for line in daemon.lines if line["level"] == "warning"]) == 1
