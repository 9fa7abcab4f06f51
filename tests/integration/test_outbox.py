"""The outbox on real files: what it survives, whom it refuses, what it costs (rules 1, 12 and 13)."""

import asyncio
import errno
import gc
import logging
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import structlog

from domain_support import (
    HOUR,
    MINUTE,
    NODE,
    OTHER_NODE,
    PROBLEM,
    START_MS,
    WEB,
    ManualClock,
    WatchedCommitter,
    contents,
    outbox_at,
    quietly,
    report,
    result,
)
from ssm_status_reporter.domain.association import Association
from ssm_status_reporter.domain.entry import Count, State
from ssm_status_reporter.domain.holds import EVERYTHING, Hold, Node, Opening, Shutting, Subject
from ssm_status_reporter.domain.limits import OUTBOX_SET_ASIDE_PER_SECOND_MAX
from ssm_status_reporter.domain.outcome import Delivered, Held, Refused, Scope
from ssm_status_reporter.domain.report import Comparison
from ssm_status_reporter.domain.result import Result, Writer
from ssm_status_reporter.domain.rfc3339 import date_text
from ssm_status_reporter.domain.sighting import Sighting
from ssm_status_reporter.domain.time import Now
from ssm_status_reporter.outbox import letters
from ssm_status_reporter.outbox.database import (
    Durability,
    OutboxError,
    OutboxTooNewError,
    is_broken,
    migrations,
    opened,
)
from ssm_status_reporter.outbox.database import Migration as Step
from ssm_status_reporter.outbox.lock import Holder, Lock, OutboxInUseError, find_holder, lock_path
from ssm_status_reporter.outbox.snapshot import snapshot
from ssm_status_reporter.outbox.sqlite import SqliteOutbox
from ssm_status_reporter.outbox.tables import FACT_COMPARISON, Tables
from values import replace

SECONDS_MAX: Final = 300.0
NOW: Final = Now(START_MS, START_MS)
GARBAGE: Final = b"this is no database, but it is long enough to look like one" * 200
SYNCHRONOUS_NORMAL: Final = 1
SYNCHRONOUS_FULL: Final = 2
HOLDER: Final = Holder(4711, START_MS)
OTHER: Final = Association(NODE, "Deploy-Worker")
TIMESTAMP: Final = "20261122T132353Z"
"""`WatchedCommitter`'s."""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What is said is looked at where it matters."""
    with quietly():
        yield


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "outbox.db"


@pytest.fixture
def garbage(path: Path) -> Path:
    """What was an outbox once."""
    path.parent.mkdir()
    path.write_bytes(GARBAGE)
    return path


def content(path: Path) -> bytes:
    """The file as it is."""
    return path.read_bytes()


@asynccontextmanager
async def outbox(path: Path) -> AsyncIterator[tuple[WatchedCommitter, SqliteOutbox]]:
    """The outbox of a daemon that runs."""
    async with asyncio.timeout(SECONDS_MAX):
        committer, its_outbox = outbox_at(path, ManualClock(), lambda: 0.5)
        try:
            await its_outbox.recover()
            yield committer, its_outbox
        finally:
            await its_outbox.close()


def documents(first: int, count: int) -> list[Result]:
    """One result for each of so many associations."""
    return [
        result("Failed", association=Association(NODE, f"Document-{number}"))
        for number in range(first, first + count)
    ]


def pending(path: Path) -> set[str]:
    """The documents of all reports that wait."""
    return {each.document for each in snapshot(path, NOW).associations if each.pending is not None}


def overwrite(path: Path, skip_pages: int = 0) -> None:
    """Write garbage over the file's pages. In another process: closing it in ours would drop SQLite's locks on it."""
    pages = max(1, path.stat().st_size // 4096 - skip_pages)
    subprocess.run(
        ["dd", "if=/dev/urandom", f"of={path}", "bs=4096", f"seek={skip_pages}", f"count={pages}", "conv=notrunc"],
        check=True,
        capture_output=True,
    )


def set_aside(path: Path) -> list[str]:
    """The broken databases that are kept."""
    return sorted(each.name for each in path.parent.glob(f"{path.name}.corrupt-*"))


@contextmanager
def directory_instead_of(path: Path, elsewhere: Path) -> Iterator[None]:
    """A directory has the file's name meanwhile."""
    path.rename(elsewhere)
    path.mkdir()
    yield
    path.rmdir()
    elsewhere.rename(path)


async def attempts(committer: WatchedCommitter, more: int) -> None:
    """Return when so many more commits were tried; they give no sign of failing but this count."""
    enough = committer.progress + more
    async with asyncio.timeout(SECONDS_MAX):
        while committer.progress < enough:  # noqa: ASYNC110 (the thread has no event for it)
            await asyncio.sleep(0.01)


async def replaced(path: Path, elsewhere: Path) -> None:
    """An outbox that was made elsewhere, and has nothing in it, takes the file's place."""
    async with outbox(elsewhere / "outbox.db"):
        pass
    (elsewhere / "outbox.db").replace(path)


@contextmanager
def heard() -> Iterator[list[Any]]:
    """What is said meanwhile, above debug."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    with structlog.testing.capture_logs() as said:
        yield said


def fill_up(filler: Path) -> None:
    """Leave no block free."""
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


# Stored before acknowledged.


async def test_what_is_observed_is_there_after_a_restart(path: Path) -> None:
    """A result that was acknowledged to its source is delivered by the next process."""
    async with outbox(path) as (_, first):
        await first.observe([result("Failed")])
    async with outbox(path) as (_, second):
        assert await second.recover() == 1
        (claim,) = (await second.claim(4, frozenset(), ())).claims
        assert claim.report == report("Failed")


async def test_what_is_acknowledged_survives_a_power_loss_and_a_claim_need_not(path: Path) -> None:
    """Only the commits that answer somebody wait for the disk (synchronous=FULL)."""
    async with outbox(path) as (committer, _):

        def synchronous(tables: Tables) -> int:
            return int(tables._execute("PRAGMA synchronous").fetchone()[0])

        assert await committer.submit(synchronous) == SYNCHRONOUS_FULL
        assert await committer.submit(synchronous, Durability.PROCESS_DEATH) == SYNCHRONOUS_NORMAL
        together = [committer.submit(synchronous, durability) for durability in reversed(Durability)]
        assert SYNCHRONOUS_FULL in await asyncio.gather(*together)


async def test_a_commit_that_is_tried_again_counts_once(path: Path) -> None:
    """What a failing disk makes the daemon repeat is not counted twice (rule 11)."""
    async with outbox(path) as (committer, running):
        errors = [sqlite3.OperationalError("disk I/O error")]

        def counting(tables: Tables) -> None:
            tables.count(((Count.REFUSED, 1),))
            if errors:
                raise errors.pop()

        await committer.submit(counting)
        running.count_refused(2)
        await running.totals()  # the commit that counts is over
        assert (await committer.submit(contents)).counters[Count.REFUSED] == 3


async def test_what_is_refused_while_nothing_can_be_written_does_not_pile_up(path: Path) -> None:
    """Nobody waits until a refusal is counted: a flood of them is a sum, and counted even by a stop (rule 12)."""
    async with outbox(path) as (committer, running):
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for _ in range(1000):
                running.count_refused(1)
            assert committer.waiting <= 1
            other.execute("ROLLBACK")
        running.count_refused(1)
    assert snapshot(path, NOW).counters[Count.REFUSED] == 1001


# A claim that stands by.


async def test_a_claim_that_stands_by_is_made_in_the_commit_that_brings_the_news(path: Path) -> None:
    """News goes out without a second commit, and the reporter is not told of it besides."""
    async with outbox(path) as (committer, running):
        told: list[str] = []
        running.on_news = lambda: told.append("news")
        standing = running.stand_by(2)
        before = committer.progress
        await running.observe(documents(0, 3))
        assert [claim.association.document for claim in (await standing).claims] == ["Document-0", "Document-1"]
        assert committer.progress == before + 1
        assert told == []
        await running.observe(documents(3, 1))
        assert told == ["news"], "nothing stands by any more"


async def test_what_needs_no_fsync_leaves_the_claim_that_stands_by_alone(path: Path) -> None:
    """Reading for the status line, and counting, do not wake the reporter: an idle daemon stays idle."""
    async with outbox(path) as (_, running):
        standing = running.stand_by(2)
        running.count_refused(1)
        await running.totals()
        assert not standing.done()


async def test_a_claim_that_was_withdrawn_takes_nothing(path: Path) -> None:
    """What is news then is left to who claims it, and the reporter is told."""
    async with outbox(path) as (_, running):
        told: list[str] = []
        running.on_news = lambda: told.append("news")
        standing = running.stand_by(2)
        running.withdraw()
        await running.observe(documents(0, 1))
        assert standing.cancelled()
        assert told == ["news"]
        (claim,) = (await running.claim(2, frozenset(), ())).claims
        assert claim.association.document == "Document-0"


async def test_what_shares_a_commit_is_told_in_its_order_after_what_stood_by(path: Path) -> None:
    """A source lets go of the older result first: a crash in between leaves the newer one to be met again."""
    async with outbox(path) as (committer, running):
        told: list[str] = []
        go_on = threading.Event()

        def tell(name: str, future: asyncio.Future[Any]) -> None:
            future.add_done_callback(lambda _: told.append(name))

        committer.submit(lambda _: go_on.wait(SECONDS_MAX), Durability.PROCESS_DEATH)
        together = [asyncio.ensure_future(running.observe([result(status)])) for status in ("Pending", "Failed")]
        tell("older", together[0])
        tell("newer", together[1])
        tell("claim", standing := running.stand_by(2))
        await asyncio.sleep(0)  # both are submitted
        go_on.set()
        await asyncio.gather(standing, *together)
        assert told == ["claim", "older", "newer"]


async def test_a_claim_withdrawn_while_its_commit_is_under_way_is_made(path: Path) -> None:
    """Nobody is left with a report that is claimed and that nobody works on."""
    async with outbox(path) as (committer, running):
        under_way, go_on = threading.Event(), threading.Event()

        def slow(_: Tables) -> None:
            under_way.set()
            assert go_on.wait(SECONDS_MAX)

        await running.observe(documents(0, 1))
        standing = running.stand_by(2)
        committing = committer.submit(slow)
        await asyncio.to_thread(under_way.wait, SECONDS_MAX)
        running.withdraw()
        assert not standing.done()
        go_on.set()
        await committing
        assert len((await standing).claims) == 1


async def test_a_defect_is_no_news_of_a_claim_that_nobody_waits_for_any_more(path: Path) -> None:
    """Who brought the commit tells of the defect; beside it there is no line about a future."""
    said: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context["message"]))
    async with outbox(path) as (committer, running):
        running.stand_by(2)
        with pytest.raises(ZeroDivisionError):
            await committer.submit(lambda _: 1 // 0)
    del committer, running
    gc.collect()
    assert said == []


async def test_a_commit_that_fails_lets_go_of_the_claim(path: Path) -> None:
    """A failing disk keeps nobody waiting who only stood by; what it brings at last is told of as news."""
    async with outbox(path) as (committer, running):
        told: list[str] = []
        running.on_news = lambda: told.append("news")
        errors = [sqlite3.OperationalError("disk I/O error")]

        def failing(_: Tables) -> None:
            if errors:
                raise errors.pop()

        under_way, go_on = threading.Event(), threading.Event()

        def waiting(_: Tables) -> None:
            under_way.set()
            assert go_on.wait(SECONDS_MAX)

        standing = running.stand_by(2)
        committer.submit(waiting, Durability.PROCESS_DEATH)
        await asyncio.to_thread(under_way.wait, SECONDS_MAX)
        committer.submit(failing)
        observing = asyncio.ensure_future(running.observe(documents(0, 1)))  # in one batch with what fails
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.wait({standing})
        assert standing.cancelled()
        assert not observing.done()
        await observing
        assert told == ["news"]
        assert len((await running.claim(2, frozenset(), ())).claims) == 1


async def test_a_defect_in_an_operation_reaches_its_caller_and_changes_nothing(path: Path) -> None:
    """A programming error ends the daemon loudly, and leaves no half of a transaction behind."""
    async with outbox(path) as (committer, running):

        def wrong(tables: Tables) -> None:
            tables.count(((Count.REFUSED, 1),))
            raise LookupError("a defect")

        with pytest.raises(LookupError, match="a defect"):
            await committer.submit(wrong)
        await running.observe([result("Failed")])
        found = await committer.submit(contents)
        assert Count.REFUSED not in found.counters
        assert set(found.entries) == {WEB}


_CHILD = """
import asyncio, sys
from pathlib import Path
from domain_support import *
async def main():
    _, outbox = outbox_at(Path(sys.argv[1]), ManualClock(), lambda: 0.5)
    number = 0
    async def observe(number):
        await outbox.observe([result("Failed", association=Association(NODE, f"Document-{number}"))])
        sys.stdout.write(f"Document-{number}\\n")
        sys.stdout.flush()
    with quietly():
        while True:
            await asyncio.gather(*(observe(number + each) for each in range(20)))
            number += 20
asyncio.run(main())
"""


@pytest.mark.parametrize("lines", [1, 100, 777])
def test_nothing_acknowledged_is_lost_by_a_sigkill(path: Path, lines: int) -> None:
    """Killed in the middle of its commits, the daemon has every result that it acknowledged (rule 1)."""
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(tests)}
    command = [sys.executable, "-c", _CHILD, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        acknowledged = [child.stdout.readline() for _ in range(lines)]
        child.send_signal(signal.SIGKILL)
        acknowledged += child.stdout.readlines()
    whole = {line.strip() for line in acknowledged if line.endswith("\n")}
    assert len(whole) >= lines
    assert whole <= pending(path)


# Broken files.


async def test_a_broken_file_is_set_aside_at_the_start(garbage: Path) -> None:
    """A daemon whose outbox is garbage starts with a new one, keeps the old one, and says so loudly (rule 13)."""
    path = garbage
    with heard() as said:
        async with outbox(path) as (_, fresh):
            await fresh.observe([result("Failed")])
    (aside,) = set_aside(path)
    assert content(path.with_name(aside)) == GARBAGE
    assert pending(path) == {WEB.document}
    (line,) = [line for line in said if line["log_level"] == "critical"]
    assert line["set_aside"].endswith(aside)
    assert line["hint"]


async def test_a_damaged_page_is_found_at_the_start(path: Path) -> None:
    """A database whose inside is damaged is not trusted because its head is sound."""
    async with outbox(path) as (_, first):
        await first.observe(documents(0, 500))
    overwrite(path, skip_pages=20)
    with pytest.raises(sqlite3.DatabaseError) as caught:
        opened(path, migrations())
    assert is_broken(caught.value)
    async with outbox(path) as (_, second):
        assert len(set_aside(path)) == 1
        await second.observe([result("Failed")])
    assert pending(path) == {WEB.document}


@pytest.mark.parametrize("garbled", [b'{"association":\xff', b'k"association":{'])
async def test_an_entry_that_the_disk_garbled_breaks_the_outbox(path: Path, garbled: bytes) -> None:
    """SQLite finds nothing wrong with it: it is not retried as if the disk were full, nor does it end the daemon."""
    async with outbox(path) as (_, first):
        await first.observe([result("Failed")])
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("UPDATE association SET entry = CAST(? AS TEXT)", (garbled,))
    with pytest.raises(OutboxError, match="is damaged"):
        snapshot(path, NOW)
    with heard() as said:
        async with outbox(path) as (_, second):
            assert len(set_aside(path)) == 1
            await second.observe([result("Failed")])
    assert [line["log_level"] for line in said] == ["critical"]
    assert pending(path) == {WEB.document}


async def test_an_entry_that_is_whole_and_not_understood_is_said_with_what_to_do(path: Path) -> None:
    """Another version may have written it: nothing is set aside, nothing ends, and the operator is told."""
    async with outbox(path) as (committer, running):
        await running.observe([result("Failed")])
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("UPDATE association SET entry = replace(entry, 'association', 'assocjation')")
            with pytest.raises(OutboxError, match="install the version"):
                snapshot(path, NOW)
            with heard() as said:
                observing = asyncio.ensure_future(running.observe([result("Success")]))
                await attempts(committer, 2)
                assert not observing.done()
                other.execute("UPDATE association SET entry = replace(entry, 'assocjation', 'association')")
                await observing
    assert [line["log_level"] for line in said] == ["error", "info"]
    assert set_aside(path) == []


async def test_a_file_that_breaks_while_the_daemon_runs_is_set_aside_and_the_batch_is_stored(path: Path) -> None:
    """The disk garbles the outbox under a running daemon: it goes on with a new one, and its source is answered."""
    async with outbox(path) as (committer, running):
        await running.observe(documents(0, 500))
        with closing(sqlite3.connect(path)) as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        overwrite(path)
        with heard() as said:
            await running.observe([result("Failed")])
        assert [line["log_level"] for line in said if line["log_level"] == "critical"] == ["critical"]
        assert set((await committer.submit(contents)).entries) == {WEB}
    assert set_aside(path)
    assert pending(path) == {WEB.document}


async def test_what_was_set_aside_in_the_same_second_is_not_overwritten(garbage: Path) -> None:
    """Each broken file is kept whole, under a name of its own (rule 13); a -wal that was left alone is kept as well."""
    path = garbage
    first, second = path.with_name(f"{path.name}.corrupt-{TIMESTAMP}"), b"another that is none" * 400
    left = path.with_name(f"{first.name}.2-wal")
    left.write_bytes(b"left alone")
    async with outbox(path):
        pass
    path.write_bytes(second)
    async with outbox(path):
        pass
    kept = [first.name, left.name, f"{first.name}.3"]
    assert set_aside(path) == kept
    assert [content(path.with_name(name)) for name in kept] == [GARBAGE, b"left alone", second]


async def test_a_broken_file_that_cannot_be_set_aside_is_tried_again(path: Path) -> None:
    """What breaks one outbox after the other fills no disk: the source waits, and is answered later."""
    async with outbox(path) as (_, running):
        await running.observe(documents(0, 500))
        with closing(sqlite3.connect(path)) as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        overwrite(path)
        numbers = ("", *(f".{number}" for number in range(2, OUTBOX_SET_ASIDE_PER_SECOND_MAX + 1)))
        earlier = [path.with_name(f"{path.name}.corrupt-{TIMESTAMP}{number}") for number in numbers]
        for each in earlier:
            each.touch()
        with heard() as said:
            storing = asyncio.ensure_future(running.observe([result("Failed")]))
            while not storing.done() and not said:  # noqa: ASYNC110 - said in the outbox's thread
                await asyncio.sleep(0.01)
            assert not storing.done()
            assert "cannot be written" in said[0]["event"]
            assert [content(each) for each in earlier] == [b""] * len(earlier)
            earlier[-1].unlink()
            await storing
    assert pending(path) == {WEB.document}


async def test_an_answer_from_before_the_outbox_broke_settles_no_report_from_after(path: Path) -> None:
    """A call was out when the outbox broke: its success is not taken for that of the report that came since."""
    async with outbox(path) as (committer, running):
        await running.observe([result("Pending")])
        (claim,) = (await running.claim(1, frozenset(), ())).claims
        with closing(sqlite3.connect(path)) as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        overwrite(path)
        await running.observe([result("Failed", at_ms=1)])
        assert set_aside(path)
        await running.settle(claim, Delivered("id"))
        entry = (await committer.submit(contents)).entries[WEB]
        assert entry.pending is not None
        assert entry.pending.report.status == "Failed"


# Versions.


@pytest.mark.parametrize("endings", [("", "-wal", "-shm"), ("",), ("-wal",), ("-wal", "-shm")])
async def test_an_outbox_that_is_removed_under_the_daemon_is_written_anew(
    path: Path, endings: tuple[str, ...]
) -> None:
    """`rm outbox.db*`, or of the -wal alone, loses nothing: neither what was there nor what comes after (rule 13)."""
    async with outbox(path) as (_, its_outbox):
        await its_outbox.observe(documents(0, 3))
        for ending in endings:
            path.with_name(path.name + ending).unlink()
        await its_outbox.observe(documents(3, 2))
        assert len(pending(path)) == 5
    assert len(pending(path)) == 5


async def test_an_outbox_that_is_replaced_under_the_daemon_is_followed(tmp_path: Path, path: Path) -> None:
    """A restored file is used from then on; what is acknowledged is in it, not in a file without a name."""
    async with outbox(tmp_path / "other" / "outbox.db") as (_, other):
        await other.observe(documents(10, 1))
    async with outbox(path) as (_, its_outbox):
        await its_outbox.observe(documents(0, 3))
        for ending in ("-wal", "-shm"):
            path.with_name(path.name + ending).unlink()
        (tmp_path / "other" / "outbox.db").replace(path)
        await its_outbox.observe(documents(3, 2))
    assert len(pending(path)) == 3


async def test_a_journal_that_cannot_be_removed_now_is_not_replayed_over_a_restored_outbox(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It belongs to the file that was there before: while the disk does not let it go, nothing is committed."""
    async with outbox(tmp_path / "other" / "outbox.db") as (_, other):
        await other.observe(documents(10, 1))
    async with outbox(path) as (_, its_outbox):
        await its_outbox.observe(documents(0, 3))
        errors = [OSError(errno.EIO, os.strerror(errno.EIO))]

        def unlink_later(self: Path, *, missing_ok: bool = False) -> None:
            if errors and self.name.endswith("-wal"):
                raise errors.pop()
            unlink(self, missing_ok=missing_ok)

        unlink = Path.unlink
        monkeypatch.setattr(Path, "unlink", unlink_later)
        (tmp_path / "other" / "outbox.db").replace(path)
        await its_outbox.observe(documents(20, 1))
    assert not errors
    assert pending(path) == {"Document-10", "Document-20"}


async def test_what_another_process_left_in_a_replaced_outbox_is_settled_as_at_a_start(
    tmp_path: Path, path: Path
) -> None:
    """A call that was out when the restored file was saved blocks its association no more, and `status` knows us."""
    async with outbox(tmp_path / "other" / "outbox.db") as (_, other):
        await other.observe(documents(10, 1))
        await other.claim(1, frozenset(), ())
    async with outbox(path) as (committer, its_outbox):
        woken = asyncio.Event()
        its_outbox.on_news = woken.set
        await its_outbox.put_fact("node", '{"instance_id": "mi-0", "region": "eu-central-1"}')
        (tmp_path / "other" / "outbox.db").replace(path)
        await its_outbox.totals()
        await woken.wait()
        (claim,) = (await its_outbox.claim(1, frozenset(), ())).claims
        assert claim.association.document == "Document-10"
        assert (await committer.submit(contents)).counters[Count.CALLS] == 1
    assert snapshot(path, NOW).node.instance_id == "mi-0"


async def test_what_was_learnt_of_the_service_goes_on_in_a_replaced_outbox(tmp_path: Path, path: Path) -> None:
    """`status` shows the comparison in force, whether this process learnt it or an earlier one (rule 7)."""
    clock = ManualClock()
    _, learning = outbox_at(path, clock, lambda: 0.5)
    try:
        await learning.observe([result("Success", "old")])
        (claim,) = (await learning.claim(1, frozenset(), ())).claims
        await learning.settle(claim, Delivered("id"))
        clock.advance(HOUR)
        await learning.observe([result("Success", "new", at_ms=HOUR)])
        (claim,) = (await learning.claim(1, frozenset(), ())).claims
        assert await learning.learn(claim, report("Success", "old"))
        await replaced(path, tmp_path / "other")
        await learning.totals()
        assert snapshot(path, NOW).comparison == "status"
    finally:
        await learning.close()
    async with outbox(path) as (_, later):
        assert await later.fact(FACT_COMPARISON) == "status"
        await replaced(path, tmp_path / "another")
        await later.totals()
        assert snapshot(path, NOW).comparison == "status"


async def test_an_outbox_that_this_version_must_not_write_is_not_said_to_be_the_disks_fault(
    path: Path, tmp_path: Path
) -> None:
    """The error says what to do itself: room on the disk would mend nothing."""
    async with outbox(path) as (committer, its_outbox):
        await replaced(path, tmp_path / "other")
        with closing(sqlite3.connect(path)) as later:
            later.execute("PRAGMA user_version=99")
        with heard() as said:
            observing = asyncio.ensure_future(its_outbox.observe(documents(0, 1)))
            await attempts(committer, 2)
            await replaced(path, tmp_path / "another")
            await observing
    (line,) = [each for each in said if "cannot be written" in each["event"]]
    assert "install that version again" in line["error"]
    assert "disk" not in line["hint"]


async def test_what_is_learnt_after_a_reload_does_not_overrule_the_configuration(path: Path) -> None:
    """Who sets `compare` while the call that tells is out gets what was set; what was learnt is kept for later."""
    async with outbox(path) as (_, learning):
        await learning.observe([result("Success", "old")])
        (claim,) = (await learning.claim(1, frozenset(), ())).claims
        await learning.settle(claim, Delivered("id"))
        learning.operations._clock.advance(HOUR)  # type: ignore[attr-defined]
        await learning.observe([result("Success", "new", at_ms=HOUR)])
        (claim,) = (await learning.claim(1, frozenset(), ())).claims
        learning.operations.policy = replace(learning.operations.policy, learning=False)
        assert not await learning.learn(claim, report("Success", "old"))
        assert learning.operations.policy.comparison is Comparison.STATUS_AND_MESSAGE
        assert await learning.fact(FACT_COMPARISON) == "status"


async def test_an_outbox_that_is_replaced_by_what_is_none_is_set_aside(path: Path, tmp_path: Path) -> None:
    """Garbage under the outbox's name ends nothing: what comes is stored in a new one (rule 13)."""
    async with outbox(path) as (_, its_outbox):
        await its_outbox.observe(documents(0, 1))
        (tmp_path / "garbage").write_bytes(GARBAGE)
        (tmp_path / "garbage").replace(path)
        await its_outbox.observe(documents(1, 1))
        await its_outbox.observe(documents(2, 1))
    assert set_aside(path)
    assert pending(path) == {"Document-1", "Document-2"}


async def test_a_replaced_outbox_that_cannot_be_opened_now_is_opened_later(path: Path, tmp_path: Path) -> None:
    """A directory under the outbox's name stops acknowledging; what was handed in is stored once it is gone."""
    async with outbox(path) as (committer, its_outbox):
        await its_outbox.observe(documents(0, 1))
        with directory_instead_of(path, tmp_path / "moved.db"):
            observing = asyncio.ensure_future(its_outbox.observe(documents(1, 1)))
            await attempts(committer, 2)
            assert not observing.done()
        await observing
    assert "Document-1" in pending(path)


async def test_what_cannot_be_opened_at_the_start_is_said_with_a_remedy(garbage: Path, tmp_path: Path) -> None:
    """A directory under the outbox's name is no traceback."""
    with directory_instead_of(garbage, tmp_path / "moved.db"):
        with pytest.raises(OutboxError, match=r"cannot be opened .*set another outbox\.path"):
            outbox_at(garbage, ManualClock(), lambda: 0.5)
        with pytest.raises(OutboxError, match=r"outbox\.path must name a file"):
            snapshot(garbage, NOW)


def test_a_path_that_leads_nowhere_is_said_with_a_remedy(tmp_path: Path) -> None:
    """A file where a directory should be is no traceback, neither for the daemon nor for `status`."""
    (tmp_path / "file").touch()
    beyond = tmp_path / "file" / "outbox.db"
    with pytest.raises(OutboxError, match=r"set another outbox\.path"):
        Lock(beyond, HOLDER)
    with pytest.raises(OutboxError, match=r"outbox\.path must name a file"):
        snapshot(beyond, NOW)


async def test_a_file_of_a_later_version_is_left_alone(path: Path) -> None:
    """After a downgrade the daemon refuses to touch what it does not understand, and says what to do."""
    async with outbox(path) as (_, first):
        await first.observe([result("Failed")])
    with closing(sqlite3.connect(path)) as later:
        later.execute("PRAGMA user_version=99")
    before = content(path)
    with pytest.raises(OutboxTooNewError, match=r"schema 99.*install that version again"):
        outbox_at(path, ManualClock(), lambda: 0.5)
    assert content(path) == before


def test_an_older_version_is_migrated_step_by_step(path: Path) -> None:
    """An upgrade brings the outbox along, with what is in it."""
    first = Step(1, "CREATE TABLE one (value TEXT);")
    second = Step(2, "ALTER TABLE one ADD COLUMN more TEXT DEFAULT 'added';")
    third = Step(3, "CREATE TABLE two AS SELECT * FROM one;")
    with closing(opened(path, (first,))) as connection:
        connection.execute("INSERT INTO one VALUES ('kept')")
    with closing(opened(path, (first, second, third))) as connection:
        assert connection.execute("SELECT * FROM two").fetchall() == [("kept", "added")]
        assert connection.execute("PRAGMA user_version").fetchone() == (3,)


def test_a_migration_that_fails_changes_nothing(path: Path) -> None:
    """An upgrade that breaks off leaves the outbox to the version before it."""
    first = Step(1, "CREATE TABLE one (value TEXT);")
    bad = Step(2, "CREATE TABLE two (value TEXT); INSERT INTO nowhere VALUES (1);")
    opened(path, (first,)).close()
    with pytest.raises(sqlite3.OperationalError, match="nowhere"):
        opened(path, (first, bad))
    with closing(opened(path, (first,))) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        assert tables == [("one",)]


# One daemon.


def test_two_daemons_on_one_outbox_are_refused(path: Path) -> None:
    """The second one says which process has it, and what to do (rule 13)."""
    path.parent.mkdir()
    with Lock(path, HOLDER):
        with pytest.raises(OutboxInUseError, match=r"process 4711 .*stop it, or set another outbox\.path"):
            Lock(path, Holder(4712, START_MS))
        assert find_holder(path) == HOLDER
    with Lock(path, Holder(4712, START_MS)):
        assert find_holder(path) == Holder(4712, START_MS)


def test_who_runs_is_known_and_nobody_when_none_does(path: Path) -> None:
    """`status` tells whether a daemon runs, also after it was killed."""
    path.parent.mkdir()
    assert find_holder(path) is None
    with Lock(path, HOLDER):
        assert find_holder(path) == HOLDER
        assert snapshot(path, NOW).daemon.pid == 4711
    assert lock_path(path).exists()
    assert find_holder(path) is None
    assert not snapshot(path, NOW).daemon.running


# Who may read it.


async def test_files_are_the_groups_to_read_whatever_the_umask(path: Path) -> None:
    """`status` works for the group: files are 0640 in a directory of 0750."""
    path.parent.mkdir(mode=0o750)
    before = os.umask(0o077)  # as the unit sets it
    try:
        async with outbox(path) as (_, running):
            with Lock(path, HOLDER):
                await running.observe([result("Failed")])
                modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("outbox.db", "outbox.db-wal", "outbox.db-shm", "outbox.db.lock"), 0o640)


async def test_a_missing_directory_is_made_for_the_group(path: Path) -> None:
    """An outbox somewhere new needs no preparation."""
    async with outbox(path):
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750


async def test_a_snapshot_sees_what_is_committed_while_the_daemon_writes(path: Path) -> None:
    """`status` beside a running daemon shows its last commit, and does not wait for it."""
    async with outbox(path) as (_, running):
        await running.observe(documents(0, 3))
        await running.claim(1, frozenset(), ())
        seen = snapshot(path, NOW)
        assert (seen.outbox.pending, seen.outbox.in_flight) == (2, 1)
        assert seen.counters["received"] == 3


async def test_the_next_attempt_of_what_is_held_is_the_next_probe_of_its_hold(path: Path) -> None:
    """`status` does not promise an attempt that a hold keeps back: everything's, the node's or the association's."""
    there, elsewhere = (Association(node, "Document-0") for node in (NODE, OTHER_NODE))

    def next_attempts() -> list[str | None]:
        return [each.next_attempt_at for each in snapshot(path, NOW).associations]

    async with outbox(path) as (_, its_outbox):
        await its_outbox.observe([result("Failed", association=each) for each in (there, elsewhere)])
        at_once, probe = date_text(START_MS), date_text(START_MS + 60_000)
        assert next_attempts() == [at_once, at_once]
        subjects: dict[Subject, list[str]] = {
            EVERYTHING: [probe, probe],
            Node(OTHER_NODE): [at_once, probe],
            there: [probe, at_once],
        }
        for subject, expected in subjects.items():
            hold = Hold(Scope.NODE, subject, PROBLEM, START_MS, 1, START_MS + 60_000)
            await its_outbox.show_holds([Shutting(hold)])
            assert next_attempts() == expected
            await its_outbox.show_holds([Opening(hold)])


@pytest.mark.parametrize(
    ("set_by_ms", "shown_by_ms"), [(-HOUR, -HOUR), (365 * 24 * HOUR, 365 * 24 * HOUR), (3, 0)]
)
async def test_a_snapshot_shows_deadlines_by_a_clock_that_was_set_since_the_daemon_started(
    path: Path, set_by_ms: int, shown_by_ms: int
) -> None:
    """A retry in a minute is one in a minute by the operator's clock, whatever that was when the daemon started.

    What reading two clocks takes does not show: one look says the same as the next.
    """
    hold = Hold(Scope.NODE, Node(NODE), PROBLEM, START_MS, 1, START_MS + MINUTE)
    monotonic_ms = 5 * HOUR
    async with outbox(path) as (_, its_outbox):
        await its_outbox.observe([result("Failed")])
        await its_outbox.show_holds([Shutting(hold)])
        with Lock(path, Holder(4711, START_MS, START_MS - monotonic_ms)):
            seen = snapshot(path, replace(NOW, wall_ms=NOW.wall_ms + set_by_ms), monotonic_ms)
    expected = date_text(START_MS + shown_by_ms + MINUTE)
    assert [each.next_probe_at for each in seen.holds] == [expected]
    assert [each.next_attempt_at for each in seen.associations] == [expected]


async def test_a_snapshot_works_without_a_daemon_and_leaves_nothing_behind(path: Path) -> None:
    """`status` after the daemon has stopped reads the same, and makes no files."""
    assert snapshot(path, NOW).associations == []
    async with outbox(path) as (_, running):
        await running.observe(documents(0, 3))
    before = sorted(each.name for each in path.parent.iterdir())
    assert snapshot(path, NOW).outbox.pending == 3
    assert sorted(each.name for each in path.parent.iterdir()) == before == ["outbox.db"]


def test_what_is_no_database_cannot_be_read_and_says_so(garbage: Path) -> None:
    """Looked at or written into, garbage is an error that says what becomes of it, not a traceback."""
    for look in (lambda: snapshot(garbage, NOW), lambda: letters.discard(garbage, [1])):
        with pytest.raises(OutboxError, match=r"cannot be .* a daemon that starts sets it aside"):
            look()


def test_what_has_no_tables_yet_is_told_from_what_may_not_be_read(path: Path) -> None:
    """A daemon that was stopped while it made the file, or is at it: nobody is told to become root."""
    path.parent.mkdir(exist_ok=True)
    path.touch()
    with pytest.raises(OutboxError, match="nothing has been stored there yet"):
        snapshot(path, NOW)


# A full disk.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    disk = tmp_path / "small"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"mounting a small file system is not possible here: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


async def test_a_full_disk_stops_acknowledging_loses_nothing_and_is_recovered_from(small_disk: Path) -> None:
    """Sources wait while the disk is full, and go on by themselves when there is room again (rule 13)."""
    path = small_disk / "outbox.db"
    filler = small_disk / "filler"
    async with outbox(path) as (committer, running):
        await running.observe(documents(0, 10))
        fill_up(filler)
        with heard() as said:
            waiting = [asyncio.create_task(running.observe(documents(10 + 100 * each, 100))) for each in range(5)]
            await attempts(committer, 2)
            assert not all(task.done() for task in waiting)
            filler.unlink()
            await asyncio.gather(*waiting)
        assert [line["log_level"] for line in said] == ["error", "info"]
        found = await committer.submit(contents)
    assert len(found.entries) == 510
    assert found.counters[Count.RECEIVED] == 510
    assert set_aside(path) == []


async def test_on_a_full_disk_what_is_known_goes_on_in_the_room_of_the_journal(small_disk: Path) -> None:
    """A node whose disk is full still reports: its journal begins anew instead of growing (rule 13)."""
    path = small_disk / "outbox.db"
    async with outbox(path) as (_, running):
        await running.observe(documents(0, 20))
    async with outbox(path) as (committer, running):
        await running.observe([result("Pending")])
        fill_up(small_disk / "filler")
        with heard() as said:
            async with asyncio.timeout(SECONDS_MAX):
                for each in range(100):
                    await running.observe([result("Success" if each % 2 else "Failed")])
        assert said == []
        found = await committer.submit(contents)
    assert found.counters[Count.RECEIVED] == 121


async def test_a_full_disk_does_not_keep_the_daemon_from_stopping(small_disk: Path) -> None:
    """SIGTERM ends a daemon whose disk is full; what was not acknowledged stays with its source."""
    path = small_disk / "outbox.db"
    async with outbox(path) as (committer, running):
        fill_up(small_disk / "filler")
        observing = asyncio.create_task(running.observe(documents(0, 2000)))
        await attempts(committer, 1)
        await running.close()
        assert not observing.done()
        observing.cancel()
    (small_disk / "filler").unlink()
    assert pending(path) == set()


# What it costs.


def memory_mib() -> float:
    """What the process has in memory."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def test_a_hundred_thousand_associations_cost_disk_and_not_memory(path: Path) -> None:
    """A gateway for a large fleet keeps its memory; neither a claim nor a start costs much (rule 12).

    It is the process's own time that is bounded, in what the first of them took: how long it waits for a processor
    and a disk, and how slow the processor is, is not its doing.
    """
    async with outbox(path) as (_, running):
        began = time.process_time()
        await running.observe(documents(0, 5000))
        unit = time.process_time() - began
        before_mib, began = memory_mib(), time.process_time()
        for first in range(5000, 100_000, 1000):
            await running.observe(documents(first, 1000))
        assert await running.recover() == 100_000
        assert memory_mib() - before_mib < 16
        claiming = time.process_time()
        for _ in range(25):
            assert len((await running.claim(4, frozenset(), ())).claims) == 4
        assert time.process_time() - claiming < 3 * unit
        assert (await running.totals())[State.IN_FLIGHT] == 100
        assert time.process_time() - began < 120 * unit
    seen = await asyncio.to_thread(snapshot, path, NOW)
    assert len(seen.associations) == 100_000
    assert (seen.outbox.pending, seen.outbox.in_flight) == (99_900, 100)


# Dead letters.


async def test_dead_letters_are_bounded_and_the_oldest_go_first(path: Path) -> None:
    """`outbox.max_dead_letters` is kept, and what went is said (rule 12)."""
    async with outbox(path) as (_, running):
        running.operations.dead_letters_max = 3
        with heard() as said:
            for number in range(5):
                await running.observe(documents(number, 1))
                (claim,) = (await running.claim(1, frozenset(), ())).claims
                await running.settle(claim, Refused(PROBLEM))
        kept = [letter.association.document for letter in letters.letters(path)]
        assert kept == ["Document-2", "Document-3", "Document-4"]
        assert snapshot(path, NOW).counters["dead"] == 5
        assert [line["dropped"] for line in said if "dropped" in line] == [1, 1]


async def test_of_two_letters_of_one_second_the_later_one_is_tried_again(path: Path) -> None:
    """`dead-letters retry --all` sends the newest of each association, also when the dates are equal."""
    async with outbox(path) as (committer, running):
        for status in ("Pending", "Failed"):
            await running.observe([result(status), result(status, association=OTHER)])
            for _ in range(2):
                running.operations._clock.advance(10_000)  # type: ignore[attr-defined]
                for claim in (await running.claim(4, frozenset(), ())).claims:
                    await running.settle(claim, Refused(PROBLEM))
        ids = [letter.id for letter in letters.letters(path)]
        assert len(ids) == 4
        tried = letters.retry(path, ids, running.operations._clock.now(), running.operations.policy)
        assert [each.letter.id for each in tried] == ids
        assert [each.fate for each in tried] == [letters.Fate.NEWER] * 2 + [letters.Fate.SENT_AGAIN] * 2
        entries = (await committer.submit(contents)).entries
        assert {entry.pending.report.status for entry in entries.values() if entry.pending} == {"Failed"}


async def test_a_letter_for_which_the_daemon_cannot_be_woken_stays(path: Path) -> None:
    """It would lie there until the next start although the command said that it goes out: said instead, and why."""
    async with outbox(path) as (_, running):
        await running.observe([result("Failed")])
        (claim,) = (await running.claim(1, frozenset(), ())).claims
        await running.settle(claim, Refused(PROBLEM))
        (letter,) = letters.letters(path)
        letters.wake_path(path).mkdir()
        with pytest.raises(OutboxError, match=r"Is a directory.*outbox\.db\.wake"):
            letters.retry(path, [letter.id], running.operations._clock.now(), running.operations.policy)
        assert letters.letters(path) == [letter]


async def test_an_unknown_letter_is_passed_over_and_a_discarded_one_leaves_no_trace(path: Path) -> None:
    """A discarded letter's association is forgotten when nothing else is known of it."""
    async with outbox(path) as (committer, running):
        await running.observe([result("Failed")])
        (claim,) = (await running.claim(1, frozenset(), ())).claims
        await running.settle(claim, Refused(PROBLEM))
        (letter,) = letters.letters(path)
        assert letters.discard(path, [letter.id, 4711]) == [letter]
        assert letters.discard(path, [letter.id]) == []
        assert (await committer.submit(contents)).entries == {}
        assert letters.wake_path(path).name == "outbox.db.wake"


async def test_a_delivery_beside_other_gateways_is_looked_at_again_soon(path: Path) -> None:
    """Two that called at the same moment may have been applied in either order: the service is asked once more."""
    async with outbox(path) as (committer, running):
        for association, writer in ((WEB, Writer.SOLE), (OTHER, Writer.SHARED)):
            await running.observe([result("Failed", association=association, writer=writer)])
            (claim,) = (await running.claim(1, frozenset(), ())).claims
            await running.settle(claim, Delivered("id"))
            looked_at = await committer.submit(lambda tables: tables.next_reconcile_ms())
            assert looked_at == (
                None if writer is Writer.SOLE else START_MS + 2 * running.operations.policy.timeout_ms
            )


async def test_what_is_found_beside_other_gateways_is_looked_at_again_too(path: Path) -> None:
    """Another one's older status may be on its way over it, for as long as its question and its update may take."""
    async with outbox(path) as (committer, running):
        for association, writer in ((WEB, Writer.SECOND), (OTHER, Writer.SHARED)):
            await running.observe([result("Failed", at_ms=1, association=association, writer=writer)])
            (claim,) = (await running.claim(1, frozenset(), ())).claims
            await running.answer(claim, Held(report("Failed")))
            looked_at = await committer.submit(lambda tables: tables.next_reconcile_ms())
            assert looked_at == (
                None if writer is Writer.SECOND else START_MS + 2 * running.operations.policy.timeout_ms
            )


# Files that stay where they are.


async def test_sightings_are_remembered_with_their_results(path: Path) -> None:
    """A status file that has not changed while the daemon was down is no result (rule 5)."""
    seen = Sighting(b"stat\xfcs.json", 2**62, 17, 42, b"0123456789abcdef")
    async with outbox(path) as (_, first):
        await first.observe_kept([(result("Failed"), seen)])
    async with outbox(path) as (_, second):
        assert await second.known() == {seen.name: seen}
        await second.forget([seen.name])
        assert await second.known() == {}
