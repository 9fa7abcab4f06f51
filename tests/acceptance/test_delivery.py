"""Delivery by the installed daemon: what is news goes out once, what is not makes no call, nothing is lost."""

import asyncio
import json
import os
import random
import signal
import time
from itertools import count
from pathlib import Path

from asyncinotify import Inotify, Mask

from acceptance_support import (
    DESCRIBE,
    NODE,
    SECONDS_MAX,
    Site,
    assert_balanced,
    calls,
    held,
)
from ssm_status_reporter.emulator.server import Emulator

DOCUMENTS = [f"Doc-{number}" for number in range(20)]


async def test_unchanged_results_make_no_call_and_each_change_exactly_one(tmp_path: Path) -> None:
    """Of hundreds of results only the changes are calls; the service never has to answer StatusUnchanged."""
    chance = random.Random(7)  # noqa: S311 - a choice, no secret
    async with Emulator() as emulator:
        site = Site(tmp_path, emulator.url)
        changes = 0
        async with site.daemon() as daemon:
            sent = 0
            state = await daemon.quiet(0)
            for _ in range(25):
                # Each round ends before the next begins, so that every change is due on its own.
                for document in DOCUMENTS:
                    given = chance.choice(["Success", "Failed"]), chance.choice(["fine", "so so"])
                    changes += site.written.get(document) != given
                    site.drop(document, *given)
                    sent += 1
                state = await daemon.quiet(sent)
            assert await daemon.stop() == 0
        assert sent == 500
        assert changes > 100
        assert len(calls(emulator)) == changes, "one call for each change"
        assert {each.answer for each in calls(emulator)} == {"ok"}, "no StatusUnchanged"
        assert {document: held(emulator, document) for document in DOCUMENTS} == site.written
        counters = state["counters"]
        assert (counters["received"], counters["calls"], counters["delivered"]) == (sent, changes, changes)
        assert counters["suppressed_unchanged"] == sent - changes
        assert_balanced(state)
        assert list(site.spool.glob("*.json")) == [], "accepted files are gone"


async def test_a_burst_within_the_window_is_two_calls_and_the_newest_wins(tmp_path: Path) -> None:
    """The first change of a quiet association goes out at once; of 50 within the window only the last follows."""
    async with Emulator() as emulator:
        # However long the machine stands still, all of them come within the window.
        site = Site(tmp_path, emulator.url, {"debounce": {"window": "1h"}})
        async with site.daemon() as daemon:
            site.drop("Doc", "Pending", "0")
            await emulator.wait_for(lambda ledger: len(ledger) == 1)
            for number in range(1, 50):
                site.drop("Doc", "Pending", str(number))
            await daemon.state(lambda state: state["counters"]["received"] == 50, "all but the last are stored")
            assert len(calls(emulator)) == 1, "they wait"
            # No deadline lies further ahead than the window that is in force: an hour is not waited out here.
            site.configure({"debounce": {"window": "1s"}})
            daemon.signal(signal.SIGHUP)
            await daemon.line("reloaded")
            site.drop("Doc", "Pending", "50")
            state = await daemon.quiet(51)
        assert [each.message for each in calls(emulator)] == ["0", "50"]
        assert state["counters"]["coalesced"] == 49
        assert_balanced(state)


async def test_an_older_result_never_overwrites_a_newer_one(tmp_path: Path) -> None:
    """A result observed before the one that was delivered is counted as stale, and the service keeps the newer."""
    async with Emulator() as emulator:
        site = Site(tmp_path, emulator.url)
        async with site.daemon() as daemon:
            site.drop("Doc", "Success", "newer", observed_at="2026-01-02T00:00:00Z")
            await daemon.quiet(1)
            site.drop("Doc", "Failed", "older", observed_at="2026-01-01T00:00:00Z")
            state = await daemon.quiet(2)
        assert held(emulator, "Doc") == ("Success", "newer")
        assert state["counters"]["suppressed_stale"] == 1
        assert len(calls(emulator)) == 1


async def test_a_result_renamed_over_the_old_one_while_that_is_taken_loses_neither(tmp_path: Path) -> None:
    """Of 1,000 results renamed over one file name, each that the daemon took away from there is delivered."""
    async with Emulator() as emulator:
        site = Site(tmp_path, emulator.url)

        def taken_since() -> int:
            return sum(str(event.name) == "status.json" for event in iter(inotify.sync_get, None))

        def rename_over() -> int:
            """A thousand times, and on until the two have raced, which depends on who gets the processors."""
            taken, until = 0, time.monotonic() + SECONDS_MAX
            for number in count():
                site.drop(f"Doc-{number}", "Success", "done", name="status.json")
                taken += taken_since()
                if number >= 1000:
                    if taken > 50 or time.monotonic() > until:
                        break
                    time.sleep(0.001)  # the other one's turn
            return taken

        async with site.daemon() as daemon:
            with Inotify(sync_timeout=0) as inotify:
                inotify.add_watch(site.spool, Mask.MOVED_FROM | Mask.DELETE)
                taken = await asyncio.to_thread(rename_over)
                assert taken > 50, "the two raced"
                await daemon.state(lambda _: not site.unfinished(), "everything is committed")
                state = await daemon.quiet()
                taken += taken_since()
        delivered = sum(held(emulator, document) is not None for document in site.written)
        assert delivered >= taken, "what was taken is delivered"
        assert state["counters"]["refused"] == 0
        assert_balanced(state)


async def test_what_lies_there_at_start_is_delivered(tmp_path: Path) -> None:
    """Results written while no daemon ran, and those a crashed one had claimed, are delivered at the start."""
    async with Emulator() as emulator:
        site = Site(tmp_path, emulator.url)
        for document in DOCUMENTS:
            site.drop(document, "Success", "written while it was down")
        taken = site.spool / ".taken"
        taken.mkdir()
        site.drop("Claimed", "Failed", "claimed and not committed", name="claimed.json").rename(
            taken / "claimed.json"
        )
        async with site.daemon() as daemon:
            state = await daemon.quiet(len(DOCUMENTS) + 1)
        assert {document: held(emulator, document) for document in site.written} == site.written
        assert list(taken.iterdir()) == []
        assert_balanced(state)


async def test_a_kept_file_is_a_result_only_when_it_changes(tmp_path: Path) -> None:
    """With after_accept: keep the file stays, and neither the same content nor a restart makes another call."""
    keep = {"sources": {"results_directory": {"after_accept": "keep"}}}
    async with Emulator() as emulator:
        site = Site(tmp_path, emulator.url, keep)
        for document in DOCUMENTS[:5]:
            site.drop(document, "Success", "first", name=f"{document}.json")
        async with site.daemon() as daemon:
            await daemon.quiet(5)
            await daemon.stop()
        async with site.daemon() as daemon:
            # A sentinel behind the five: when it is delivered, they have been looked at.
            site.drop("Sentinel", "Success", "sentinel", name="zz.json")
            state = await daemon.quiet(6)
            assert state["counters"]["received"] == 6, "unchanged files are no results"
            site.drop(DOCUMENTS[0], "Failed", "second", name=f"{DOCUMENTS[0]}.json")
            await daemon.quiet(7)
            await daemon.kill()
        async with site.daemon() as daemon:
            site.drop("Sentinel", "Failed", "sentinel", name="zz.json")
            state = await daemon.quiet(8)
        assert len(calls(emulator)) == 8
        assert len(list(site.spool.glob("*.json"))) == 6
        assert_balanced(state)


async def test_what_the_service_holds_already_makes_no_call(tmp_path: Path) -> None:
    """With reconciliation on, the first report of an association is asked about, and an equal status is not sent."""
    async with Emulator() as emulator:
        site = Site(tmp_path, emulator.url, {"reconcile": {"interval": "6h", "on_start": True}})
        site.drop("Doc", "Success", "done", observed_at="2026-01-01T00:00:00Z")
        async with site.daemon() as daemon:
            await daemon.quiet(1)
            await daemon.stop()
        site.outbox.unlink()  # a new machine, as far as the daemon knows
        site.drop("Doc", "Success", "done", observed_at="2026-01-02T00:00:00Z")
        async with site.daemon() as daemon:
            state = await daemon.quiet(1)
        assert len(calls(emulator)) == 1
        assert state["counters"]["already_held"] == 1
        assert len(calls(emulator, operation=DESCRIBE)) >= 2


async def test_what_the_service_lost_is_delivered_again(tmp_path: Path) -> None:
    """A status that is gone from the service is noticed by reconciliation at the next start and put back."""
    async with Emulator() as emulator:
        site = Site(tmp_path, emulator.url, {"reconcile": {"interval": "6h", "on_start": True}})
        async with site.daemon() as daemon:
            site.drop("Doc", "Failed", "as it was")
            await daemon.quiet(1)
            await daemon.stop()
        async with Emulator() as empty:
            site.endpoint_url = empty.url
            site.configure()
            async with site.daemon() as daemon:
                await empty.wait_for(lambda ledger: any(each.applied for each in ledger))
                state = await daemon.quiet(1)
            assert held(empty, "Doc") == ("Failed", "as it was")
            assert_balanced(state)


async def test_bad_input_beside_good_is_refused_by_name_and_blocks_nothing(tmp_path: Path) -> None:
    """Good results arrive whatever lies beside them; each refused file is in rejected/ with the field at fault."""
    good = b'{"document": "Bad-Doc", "status": "Success"'
    refused = {
        "unknown-field.json": (good + b', "mesage": "x"}', "mesage"),
        "duplicate.json": (good + b', "status": "Failed"}', "status"),
        "wrong-type.json": (good + b', "message": 7}', "message"),
        "no-document.json": (b'{"status": "Success"}', "document"),
        "bad-document.json": (b'{"document": "a b", "status": "Success"}', "document"),
        "bad-status.json": (b'{"document": "Doc", "status": "Great"}', "status"),
        "bad-date.json": (good + b', "observed_at": "2026-01-01T00:00:00"}', "observed_at"),
        "other-node.json": (good + b', "instance_id": "i-00000000000000000"}', "instance_id"),
        "surrogate.json": (good + b', "message": "\\ud800"}', "message"),
        "long-info.json": (good + b', "additional_info": [1]}', "additional_info"),
        "bom.json": (b"\xef\xbb\xbf" + good + b"}", "byte order mark"),
        "latin-1.json": (good + b', "message": "\xe4"}', "UTF-8"),
        "utf-16.json": ((good + b"}").decode().encode("utf-16"), "UTF-8"),
        "huge.json": (good + b', "message": "' + b"x" * 200_000 + b'"}', "max_file_size"),
        "deep.json": (good + b', "additional_info": ' + b'{"a":' * 20_000 + b"1" + b"}" * 20_001, "larger"),
        "deep-small.json": (good + b', "additional_info": ' + b'{"a":' * 5_000 + b"1" + b"}" * 5_001, "deep"),
        "array.json": (b"[]", "object"),
        "cut.json": (good, "JSON"),
        "empty.json": (b"", "empty"),
        "nul.json": (b"\0" * 100, "JSON"),
        "digits.json": (good + b', "additional_info": {"n": ' + b"9" * 6000 + b"}}", "additional_info"),
        "two.json": (good + b"}" + good + b"}", "line 1"),
    }
    async with Emulator() as emulator:
        site = Site(tmp_path, emulator.url)
        secret = tmp_path / "secret"
        secret.write_text(json.dumps({"document": "Followed", "status": "Success"}), "utf-8")
        async with site.daemon() as daemon:
            (site.spool / "link.json").symlink_to(secret)
            (site.spool / "dangling.json").symlink_to(tmp_path / "nothing")
            (site.spool / "directory.json").mkdir()
            os.mkfifo(site.spool / "fifo.json")
            for number, (name, (payload, _)) in enumerate(refused.items()):
                site.put(name, payload)
                site.drop(f"Good-{number}", "Success", "good")
            strange = 'ß "\n\x7f -rf *.json'
            site.drop("Strange-Name", "Success", "good", name=strange)
            (site.spool / ".hidden.json").write_bytes(good + b"}")
            (site.spool / "notes.txt").write_bytes(b"no result")
            for _, reason in refused.values():
                assert reason
            state = await daemon.state(
                lambda state: (
                    state["counters"]["refused"] == len(refused) + 4
                    and state["counters"]["delivered"] == len(refused) + 1
                ),
                "all refused, all delivered",
            )
            assert await daemon.stop() == 0
        assert {document: held(emulator, document) for document in site.written} == site.written
        assert held(emulator, "Followed") is None, "a symbolic link is not followed"
        rejected = site.spool / "rejected"
        for name, (payload, reason) in refused.items():
            assert (rejected / name).read_bytes() == payload, f"{name} is unchanged"
            assert reason in (rejected / f"{name}.error").read_text("utf-8"), name
        assert sorted(path.name for path in rejected.iterdir()) == sorted(
            [*refused, *(f"{name}.error" for name in refused)]
        )
        left = {path.name for path in site.spool.iterdir()} - {".taken", "rejected"}
        assert left == {"link.json", "dangling.json", "directory.json", "fifo.json", ".hidden.json", "notes.txt"}
        assert_balanced(state)
        said = [line for line in daemon.lines if line["event"] == "result refused"]
        assert len(said) == len(refused) + 4, "each is said once"


async def test_a_gateway_reports_for_the_nodes_allowed(tmp_path: Path) -> None:
    """With node.allow a result names another node, and the call goes out for that node."""
    other = "mi-0123456789abcdef0"
    async with Emulator() as emulator:
        site = Site(tmp_path, emulator.url, {"node": {"allow": ["mi-*"]}})
        async with site.daemon() as daemon:
            site.drop("Doc", "Success", "other", instance_id=other)
            site.drop("Doc", "Failed", "own")
            await daemon.quiet(2)
        reports = {node: emulator.status_of(node, "Doc") for node in (other, NODE)}
        assert {node: report and report.message for node, report in reports.items()} == {
            other: "other",
            NODE: "own",
        }
