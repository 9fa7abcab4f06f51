"""The results directory, with real files and real inotify."""

import asyncio
import json
import os
import stat
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from results_directory_support import (
    NODE,
    WAIT_SECONDS_MAX,
    RecordingIntake,
    TurnedClock,
    drop,
    lying_in,
    result_bytes,
    running,
    taken,
    unprivileged,
    until,
)
from ssm_status_reporter.config import AfterAccept
from ssm_status_reporter.domain.limits import (
    EVENTS_PER_DRAIN_MAX,
    RESULTS_IN_FLIGHT_MAX,
    SPOOL_RETRY_MS_MAX,
    UNDECODABLE_SETTLE_MS,
)
from ssm_status_reporter.domain.result import Result
from ssm_status_reporter.host.clock import SystemClock
from ssm_status_reporter.sources import spool_session
from ssm_status_reporter.sources.results_directory import ResultsDirectory
from ssm_status_reporter.sources.spool_reader import Settings


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    directory = tmp_path / "spool"
    directory.mkdir()
    return directory


@pytest.fixture
def intake() -> RecordingIntake:
    return RecordingIntake()


async def test_a_result_is_handed_in_and_its_file_goes(spool: Path, intake: RecordingIntake) -> None:
    """A runner renames a file into the directory: its result arrives, and the directory is empty again."""
    async with running(spool, intake):
        drop(spool, "run.json", result_bytes("done", additional_info="x"))
        await intake.until(lambda: len(intake.results) == 1)
        (result,) = intake.results
        assert (result.association.instance_id, result.association.document) == (NODE, "My-Doc")
        assert (result.report.status, result.report.message) == ("Success", "done")
        assert result.source == "results_directory"
        await until(lambda: taken(spool) == [])
        assert lying_in(spool) == []


async def test_a_file_written_in_place_is_taken_when_it_is_closed(spool: Path, intake: RecordingIntake) -> None:
    """A runner that does not rename is served as well."""
    async with running(spool, intake):
        with (spool / "run.json").open("wb") as file:
            file.write(result_bytes())
        await intake.until(lambda: len(intake.results) == 1)


async def test_the_file_is_there_until_the_commit(spool: Path, intake: RecordingIntake) -> None:
    """Before its result is on disk, a file is claimed but not gone: a crash loses nothing."""
    intake.commits.clear()
    async with running(spool, intake):
        drop(spool, "run.json", result_bytes())
        await intake.until(lambda: len(intake.offered) == 1)
        assert lying_in(spool) == []
        assert taken(spool) == ["run.json"]
        assert (spool / ".taken" / "run.json").read_bytes() == result_bytes()
        intake.commits.set()
        await until(lambda: taken(spool) == [])


async def test_a_crash_before_the_commit_loses_nothing(spool: Path, intake: RecordingIntake) -> None:
    """What was claimed by a process that died is handed in by the next, before what came since."""
    intake.commits.clear()
    async with running(spool, intake):
        drop(spool, "run.json", result_bytes("first"))
        await intake.until(lambda: len(intake.offered) == 1)
    drop(spool, "run.json", result_bytes("second"))
    survivor = RecordingIntake()
    async with running(spool, survivor):
        await survivor.until(lambda: len(survivor.results) == 2)
        assert survivor.messages() == ["first", "second"]
        await until(lambda: taken(spool) == [])


async def test_what_lay_there_at_the_start_is_read_oldest_first(spool: Path, intake: RecordingIntake) -> None:
    """Results written while the daemon was down arrive in the order in which they were written."""
    for number, name in enumerate(["c.json", "a.json", "b.json"]):
        os.utime(drop(spool, name, result_bytes(name)), ns=(0, 10**18 + number))
    async with running(spool, intake):
        await intake.until(lambda: len(intake.results) == 3)
    assert intake.messages() == ["c.json", "a.json", "b.json"]


async def test_other_names_are_left_alone(spool: Path, intake: RecordingIntake) -> None:
    """Hidden files, other endings and subdirectories' files are not results."""
    names = [".hidden.json", "run.json.tmp", "run.JSON", "json", "notes.txt"]
    for name in names:
        (spool / name).write_bytes(result_bytes())
    async with running(spool, intake):
        for name in names:
            (spool / name).write_bytes(result_bytes())
        drop(spool, "run.json", result_bytes())
        await intake.until(lambda: len(intake.results) == 1)
    assert intake.refused == 0
    assert all((spool / name).exists() for name in names)


async def test_the_date_of_a_result_without_one_is_the_mtime(spool: Path, intake: RecordingIntake) -> None:
    """A file copied in with its old mtime is as old as it says."""
    draft = spool / ".draft"
    draft.write_bytes(result_bytes())
    os.utime(draft, ns=(0, 1_700_000_000_123_999_999))
    async with running(spool, intake):
        draft.rename(spool / "run.json")
        await intake.until(lambda: len(intake.results) == 1)
    assert intake.results[0].report.observed_at_ms == 1_700_000_000_123


@pytest.mark.parametrize(
    "name", ["a b.json", "a\nb\x1b[31m.json", "ü☃.json", b"\xff\xfe.json", "x" * 250 + ".json", "--.json"]
)
async def test_a_strange_name_is_no_reason_to_refuse(
    spool: Path, intake: RecordingIntake, name: str | bytes
) -> None:
    """What a file is called does not matter for a good result; nor does it break the refusal of a bad one."""
    text = os.fsdecode(name)
    with capture_logs() as lines:
        async with running(spool, intake):
            drop(spool, text, result_bytes())
            await intake.until(lambda: len(intake.results) == 1)
            drop(spool, text, b'{"document":"My-Doc","status":"Done"}')
            await intake.until(lambda: intake.refused == 1)
            assert (spool / "rejected" / text).exists()
            assert len(lying_in(spool / "rejected")) == 2
    for line in lines:
        assert str(line.get("file", "")).isprintable()


# Rewriting.


async def test_a_new_file_of_the_same_name_waits_and_is_not_lost(spool: Path, intake: RecordingIntake) -> None:
    """A runner that renames a new result over the old name, while the old one is committed, loses neither."""
    intake.commits.clear()
    async with running(spool, intake):
        drop(spool, "run.json", result_bytes("old"))
        await intake.until(lambda: len(intake.offered) == 1)
        drop(spool, "run.json", result_bytes("new"))
        drop(spool, "other.json", result_bytes("other"))
        await intake.until(lambda: len(intake.offered) == 2)
        assert [result.report.message for result in intake.offered] == ["old", "other"]
        intake.commits.set()
        await intake.until(lambda: len(intake.results) == 3)
        assert intake.messages()[-1] == "new"
        await until(lambda: taken(spool) == [] and lying_in(spool) == [])


@pytest.mark.parametrize("in_place", [False, True], ids=["renamed", "in place"])
async def test_rewriting_as_fast_as_possible_loses_nothing(
    spool: Path, intake: RecordingIntake, *, in_place: bool
) -> None:
    """Hundreds of results over one name, in the middle of taking it: whatever ever was the last one arrives."""
    rounds = 400
    written = threading.Semaphore(0)
    seen_by_writer: list[str] = []

    def write() -> None:
        for number in range(rounds):
            path = spool / "run.json"
            if in_place:
                path.write_bytes(result_bytes(str(number)))
            else:
                drop(spool, "run.json", result_bytes(str(number)))
            if number % 7 == 0:  # now and then the last one for a while
                seen_by_writer.append(str(number))
                if not written.acquire(timeout=WAIT_SECONDS_MAX):
                    return

    # On a clock that stands still: however long the writer is kept from the processor, a torn file is not settled.
    async with running(spool, intake, TurnedClock()):
        writer = asyncio.create_task(asyncio.to_thread(write))
        for number in range(0, rounds, 7):
            await intake.until(lambda number=number: str(number) in intake.messages())  # type: ignore[misc]  # bound at once
            written.release()
        await writer
        await intake.until(lambda: str(rounds - 1) in intake.messages())
        await until(lambda: taken(spool) == [] and lying_in(spool) == [])
    numbers = [int(message) for message in intake.messages()]
    assert numbers == sorted(numbers)
    assert intake.refused == 0
    assert [message for message in seen_by_writer if message not in intake.messages()] == []


async def test_a_writer_that_is_late_is_read_again(spool: Path, intake: RecordingIntake) -> None:
    """A file that is still written to after it was claimed is handed in again before it is removed."""
    intake.commits.clear()
    async with running(spool, intake):
        with (spool / "run.json").open("wb", buffering=0) as late:
            late.write(result_bytes("early"))
            os.link(spool / "run.json", spool / ".other")
            (spool / ".other").rename(spool / "linked.json")
            await intake.until(lambda: len(intake.offered) == 1)
            late.truncate(0)
            late.seek(0)
            late.write(result_bytes("late one"))
            intake.commits.set()
        await intake.until(lambda: "late one" in intake.messages())
        await until(lambda: taken(spool) == [] and lying_in(spool) == [])


async def test_two_names_of_one_file_are_two_results(spool: Path, intake: RecordingIntake) -> None:
    """Hard links are files like others."""
    drop(spool, "a.json", result_bytes())
    os.link(spool / "a.json", spool / "b.json")
    async with running(spool, intake):
        await intake.until(lambda: len(intake.results) == 2)
        await until(lambda: taken(spool) == [] and lying_in(spool) == [])


async def test_a_file_that_is_linked_in_is_found(spool: Path, intake: RecordingIntake) -> None:
    """A link closes nothing: the file is found when the settling time is over."""
    clock = TurnedClock()
    async with running(spool, intake, clock):
        (spool / ".draft").write_bytes(result_bytes())
        os.link(spool / ".draft", spool / "run.json")
        (spool / ".draft").unlink()
        await clock.asleep.wait()
        clock.turn(UNDECODABLE_SETTLE_MS)
        await intake.until(lambda: len(intake.results) == 1)


# What is torn.


async def test_a_torn_file_becomes_one_result(spool: Path, intake: RecordingIntake) -> None:
    """Half written, closed, and finished later: one accepted result, nothing refused, however long it took."""
    clock = TurnedClock()
    payload = result_bytes("whole")
    path = spool / "run.json"
    async with running(spool, intake, clock):
        path.write_bytes(payload[:20])
        await clock.asleep.wait()
        for end in range(21, 25):
            clock.turn(UNDECODABLE_SETTLE_MS - 1)
            with path.open("ab") as file:
                file.write(payload[end - 1 : end])
            drop(spool, "mark.json", result_bytes("mark"))
            await intake.until(lambda end=end: len(intake.results) == end - 20)  # type: ignore[misc]  # bound at once
        with path.open("ab") as file:
            file.write(payload[24:])
        await intake.until(lambda: "whole" in intake.messages())
    assert intake.messages().count("whole") == 1
    assert intake.refused == 0


@pytest.mark.parametrize("payload", [b"", b'{"document":"My-Doc"', b"\xff\xfe{}", b'{"a":1}{"b":2}', b"\x00" * 50])
async def test_what_cannot_be_decoded_is_refused_when_it_is_settled(
    spool: Path, intake: RecordingIntake, payload: bytes
) -> None:
    """A file that stays undecodable for two seconds is moved to rejected/, unchanged, and no earlier."""
    clock = TurnedClock()
    async with running(spool, intake, clock):
        drop(spool, "run.json", payload)
        await clock.asleep.wait()
        clock.turn(UNDECODABLE_SETTLE_MS - 1)
        drop(spool, "good.json", result_bytes())
        await intake.until(lambda: len(intake.results) == 1)
        assert lying_in(spool) == ["run.json"]
        assert intake.refused == 0
        clock.turn(1)
        await intake.until(lambda: intake.refused == 1)
        assert (spool / "rejected" / "run.json").read_bytes() == payload
        assert (spool / "rejected" / "run.json.error").read_text() != ""
        assert lying_in(spool) == ["rejected"]


async def test_a_torn_claim_of_a_dead_process_is_settled_too(spool: Path, intake: RecordingIntake) -> None:
    """After a power loss a claimed file may be empty: it is refused with that reason, and its name is free again."""
    (spool / ".taken").mkdir()
    (spool / ".taken" / "run.json").write_bytes(b"")
    clock = TurnedClock()
    async with running(spool, intake, clock):
        await clock.asleep.wait()
        drop(spool, "run.json", result_bytes("next"))
        clock.turn(UNDECODABLE_SETTLE_MS)
        await intake.until(lambda: intake.refused == 1 and len(intake.results) == 1)
    assert (spool / "rejected" / "run.json").read_bytes() == b""
    reason = (spool / "rejected" / "run.json.error").read_text()
    assert "its result may have been stored before" in reason
    assert "fsync" in reason


# What is refused.


async def test_a_refused_file_lies_beside_its_reason(spool: Path, intake: RecordingIntake) -> None:
    """The author finds the file as it was, and a text that names the field; the log says it in one line."""
    payload = b'{"document":"My-Doc","status":"Sucess"}'
    with capture_logs() as lines:
        async with running(spool, intake):
            drop(spool, "x.json", payload)
            await intake.until(lambda: intake.refused == 1)
    rejected = spool / "rejected"
    assert lying_in(rejected) == ["x.json", "x.json.error"]
    assert (rejected / "x.json").read_bytes() == payload
    assert (rejected / "x.json.error").read_text() == "status: 'Sucess' is no status; did you mean Success?\n"
    assert stat.S_IMODE((rejected / "x.json.error").stat().st_mode) == 0o640
    (line,) = [line for line in lines if line["event"] == "result refused"]
    assert (line["log_level"], line["file"], line["field"]) == ("warning", "x.json", "status")
    assert taken(spool) == []


async def test_a_later_refusal_of_a_name_replaces_the_earlier(spool: Path, intake: RecordingIntake) -> None:
    """What lies in rejected/ is the last refused file of its name, with the reason that is its own."""
    async with running(spool, intake):
        drop(spool, "x.json", b"[1]")
        await intake.until(lambda: intake.refused == 1)
        drop(spool, "x.json", b'"2"')
        await intake.until(lambda: intake.refused == 2)
    assert (spool / "rejected" / "x.json").read_bytes() == b'"2"'
    assert "a text" in (spool / "rejected" / "x.json.error").read_text()


async def test_a_refused_file_whose_reason_a_power_loss_took_gets_it_again(
    spool: Path, intake: RecordingIntake
) -> None:
    """Texts as a disk has them after the power was cut, empty or without their end, are written anew at the start."""
    rejected = spool / "rejected"
    rejected.mkdir()
    payload = b'{"document":"My-Doc","status":"Sucess"}'
    reason = "status: 'Sucess' is no status; did you mean Success?\n"
    texts = {"empty.json": b"", "zeros.json": bytes(len(reason)), "whole.json": b"as it was\n", "read.json": None}
    for name, text in texts.items():
        (rejected / name).write_bytes(payload)
        if text is not None:  # else its reader has removed it
            (rejected / f"{name}.error").write_bytes(text)
    with capture_logs() as lines:
        async with running(spool, intake):
            await intake.until(lambda: intake.refused == 2)
            drop(spool, "last.json", result_bytes())
            await intake.until(lambda: len(intake.results) == 1)
    assert {name: (rejected / name).read_bytes() for name in texts} == dict.fromkeys(texts, payload)
    reasons = {"empty.json": reason, "zeros.json": reason, "whole.json": "as it was\n"}
    assert {name: (rejected / f"{name}.error").read_text() for name in reasons} == reasons
    assert not (rejected / "read.json.error").exists()
    assert intake.refused == 2
    assert [line["files"] for line in lines if "judged anew" in line["event"]] == [2]
    assert not [line for line in lines if "removed to keep" in line["event"]], "none went"


async def test_a_file_that_cannot_be_taken_back_keeps_nothing_from_being_taken(
    spool: Path, intake: RecordingIntake
) -> None:
    """A refused file without its reason waits while an unfinished one has its name; neither overwrites the other."""
    for directory in ("rejected", ".taken"):
        (spool / directory).mkdir()
    (spool / "rejected" / "x.json").write_bytes(b"[1]")
    (spool / "rejected" / "x.json.error").touch()
    (spool / ".taken" / "x.json").write_bytes(result_bytes("claimed"))
    async with running(spool, intake):
        await intake.until(lambda: intake.messages() == ["claimed"])
    assert (spool / "rejected" / "x.json").read_bytes() == b"[1]"
    async with running(spool, intake):
        await intake.until(lambda: intake.refused == 1)
    assert "object" in (spool / "rejected" / "x.json.error").read_text()


async def test_a_file_beyond_the_bound_is_refused(spool: Path, intake: RecordingIntake) -> None:
    """max_file_size is exact, and a sparse terabyte is not read to find out."""
    fitting = result_bytes("x" * 100)
    async with running(spool, intake, max_file_size_bytes=len(fitting)):
        drop(spool, "fits.json", fitting)
        await intake.until(lambda: len(intake.results) == 1)
        drop(spool, "over.json", fitting + b" ")
        await intake.until(lambda: intake.refused == 1)
        with (spool / ".huge").open("wb") as file:
            file.truncate(1 << 40)
        (spool / ".huge").rename(spool / "huge.json")
        await intake.until(lambda: intake.refused == 2)
    assert "larger than" in (spool / "rejected" / "huge.json.error").read_text()
    assert (spool / "rejected" / "huge.json").stat().st_size == 1 << 40


@pytest.mark.parametrize("when", ["before", "after"])
async def test_what_is_no_regular_file_is_not_touched(spool: Path, intake: RecordingIntake, when: str) -> None:
    """Links, FIFOs, sockets and directories stay where they are, said and counted once, and stop nobody."""
    (spool.parent / "target.json").write_bytes(result_bytes("not through a link"))

    def make() -> None:
        (spool / "link.json").symlink_to(spool.parent / "target.json")
        (spool / "dangling.json").symlink_to("nowhere")
        os.mkfifo(spool / "fifo.json")
        (spool / "directory.json").mkdir()

    clock = TurnedClock()
    if when == "before":
        make()
    with capture_logs() as lines:
        async with running(spool, intake, clock):
            if when == "after":
                make()
                await clock.asleep.wait()
                clock.turn(UNDECODABLE_SETTLE_MS)
            await intake.until(lambda: intake.refused == 4)
            (spool / "directory.json" / "inner").touch()
            for name in lying_in(spool):  # moved away and back: looked at again
                (spool / name).rename(spool / ".away").rename(spool / name)
            drop(spool, "run.json", result_bytes())
            await intake.until(lambda: len(intake.results) == 1)
    assert intake.refused == 4
    assert lying_in(spool) == ["dangling.json", "directory.json", "fifo.json", "link.json"]
    assert intake.messages() == ["done"]
    assert len([line for line in lines if line["event"] == "result refused"]) == 4


async def test_rejected_is_bounded(spool: Path, intake: RecordingIntake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest refused files go first, with their texts; what somebody else removed does not count."""
    monkeypatch.setattr("ssm_status_reporter.sources.rejected.Rejected.__init__.__defaults__", (3,))
    rejected = spool / "rejected"
    with capture_logs() as lines:
        async with running(spool, intake):
            for number in range(5):
                drop(spool, f"{number}.json", b"[]")
                await intake.until(lambda number=number: intake.refused == number + 1)  # type: ignore[misc]  # bound at once
            assert sorted(path.name for path in rejected.glob("*.json")) == ["2.json", "3.json", "4.json"]
            assert len(lying_in(rejected)) == 6
            for name in ("3.json", "3.json.error"):
                (rejected / name).unlink()
            drop(spool, "5.json", b"[]")
            await intake.until(lambda: intake.refused == 6)
            assert sorted(path.name for path in rejected.glob("*.json")) == ["2.json", "4.json", "5.json"]
    assert sum(line["files"] for line in lines if "removed to keep rejected/ bounded" in line["event"]) == 2


async def test_what_cannot_be_moved_stays_and_is_said_once(spool: Path, intake: RecordingIntake) -> None:
    """With a file in the place of rejected/, a refused file stays where it is; a good one is still taken."""
    (spool / "rejected").write_text("in the way")
    with capture_logs() as lines:
        async with running(spool, intake):
            drop(spool, "bad.json", b"[]")
            await intake.until(lambda: intake.refused == 1)
            (spool / "bad.json").rename(spool / ".away").rename(spool / "bad.json")
            drop(spool, "good.json", result_bytes())
            await intake.until(lambda: len(intake.results) == 1)
            assert (spool / "bad.json").read_bytes() == b"[]"
            await until(lambda: taken(spool) == [])
            drop(spool, "bad.json", result_bytes("better"))
            await intake.until(lambda: len(intake.results) == 2)
    assert intake.refused == 1
    (line,) = [line for line in lines if line["event"] == "result refused"]
    assert line["stays"].startswith("cannot be moved")


async def test_a_file_that_may_not_be_read_is_refused_with_the_remedy() -> None:
    """A 0600 file of somebody else: the reason says which group must be let in; a chmod in time saves it."""
    clock = TurnedClock()
    intake = RecordingIntake()
    with unprivileged() as spool:
        async with running(spool, intake, clock):
            for name in ("late.json", "never.json"):
                drop(spool, name, result_bytes(name)).chmod(0)
            await clock.asleep.wait()
            (spool / "late.json").chmod(0o640)
            clock.turn(UNDECODABLE_SETTLE_MS)
            await intake.until(lambda: intake.refused == 1 and len(intake.results) == 1)
        assert intake.messages() == ["late.json"]
        assert lying_in(spool / "rejected") == ["never.json", "never.json.error"]
        assert "group ssm-status-reporter" in (spool / "rejected" / "never.json.error").read_text()


async def test_what_cannot_be_claimed_is_tried_again() -> None:
    """A directory that is not writable: said once, as is its end, nothing lost, and taken up when it is writable."""
    clock = TurnedClock()
    intake = RecordingIntake()
    with unprivileged() as spool, capture_logs() as lines:
        async with running(spool, intake, clock):
            drop(spool, "good.json", result_bytes())
            await intake.until(lambda: len(intake.results) == 1)
            await until(lambda: taken(spool) == [])
            for name in ("a.json", "b.json"):
                (spool / f".{name}").write_bytes(result_bytes(name))
                (spool / f".{name}").rename(spool / name)
            spool.chmod(0o500)  # before the loop had its turn
            await clock.asleep.wait()
            for _ in range(3):
                clock.turn(SPOOL_RETRY_MS_MAX)
                clock.asleep.clear()
                await clock.asleep.wait()
            assert lying_in(spool) == ["a.json", "b.json"]
            spool.chmod(0o700)
            clock.turn(SPOOL_RETRY_MS_MAX)
            await intake.until(lambda: len(intake.results) == 3)
    assert intake.refused == 0
    assert [line["event"] for line in lines if " be taken " in line["event"]] == [
        "files in the results directory cannot be taken now; they stay, and are tried again",
        "files in the results directory can be taken again",
    ]


async def leave_in_taken(spool: Path, intake: RecordingIntake, clock: TurnedClock, *names: str) -> None:
    """Results of these names are accepted, and their files cannot be removed."""
    drop(spool, "first.json", result_bytes())
    await intake.until(lambda: len(intake.results) == 1)
    await until(lambda: taken(spool) == [])
    intake.commits.clear()
    for name in names:
        drop(spool, f"{name}.json", result_bytes(name))
    await intake.until(lambda: len(intake.offered) == 1 + len(names))
    (spool / ".taken").chmod(0o500)
    intake.commits.set()
    await clock.asleep.wait()


async def test_what_cannot_be_removed_is_tried_again() -> None:
    """Accepted files that stay: said once, handed in once, in the way of no new one, and gone in the end."""
    clock = TurnedClock()
    intake = RecordingIntake()
    with unprivileged() as spool, capture_logs() as lines:
        async with running(spool, intake, clock):
            await leave_in_taken(spool, intake, clock, "a", "b")
            for _ in range(3):
                clock.turn(SPOOL_RETRY_MS_MAX)
                clock.asleep.clear()
                await clock.asleep.wait()
            assert taken(spool) == ["a.json", "b.json"]
            (spool / ".taken").chmod(0o700)
            drop(spool, "a.json", result_bytes("newer"))
            await intake.until(lambda: len(intake.results) == 4)
            clock.turn(SPOOL_RETRY_MS_MAX)
            await until(lambda: taken(spool) == [])
    assert intake.messages()[1:] == ["a", "b", "newer"]
    assert [line["event"] for line in lines if "removed" in line["event"]] == [
        "accepted files cannot be removed: their results are stored, and removing them is tried again",
        "accepted files can be removed again",
    ]


async def test_what_is_written_into_a_file_that_could_not_be_removed_is_handed_in() -> None:
    """A writer that is late, and a file that stays: its last word arrives, without a restart."""
    clock = TurnedClock()
    intake = RecordingIntake()
    with unprivileged() as spool:
        async with running(spool, intake, clock):
            await leave_in_taken(spool, intake, clock, "a")
            (spool / ".taken" / "a.json").write_bytes(result_bytes("late, and longer"))
            (spool / ".taken").chmod(0o700)
            clock.turn(SPOOL_RETRY_MS_MAX)
            await intake.until(lambda: len(intake.results) == 3)
            await until(lambda: taken(spool) == [])
    assert intake.messages()[1:] == ["a", "late, and longer"]


async def test_a_directory_that_may_not_be_entered_is_tried_again() -> None:
    """Said once with what to do, and taken up when its permissions are mended."""
    clock = TurnedClock()
    intake = RecordingIntake()
    with unprivileged() as parent, capture_logs() as lines:
        spool = parent / "spool"
        spool.mkdir()
        drop(spool, "run.json", result_bytes())
        spool.chmod(0)
        async with running(spool, intake, clock):
            await clock.asleep.wait()
            clock.turn(SPOOL_RETRY_MS_MAX)
            await clock.asleep.wait()
            spool.chmod(0o700)
            clock.turn(SPOOL_RETRY_MS_MAX)
            await intake.until(lambda: len(intake.results) == 1)
    (line,) = [line for line in lines if line["event"] == "the results directory cannot be used"]
    assert "ssm-status-reporter" in line["hint"]


# The directory itself.


async def test_a_way_that_may_only_be_passed_is_looked_at_again(intake: RecordingIntake) -> None:
    """A directory on the way may not be watched: what is made in it is found after a while, without a restart."""
    with unprivileged() as directory:
        way = directory / "way"
        way.mkdir(mode=0o300)
        clock = TurnedClock()
        async with running(way / "spool", intake, clock):
            await until(lambda: clock.sleepers > 0)
            (way / "spool").mkdir()
            drop(way / "spool", "run.json", result_bytes())
            clock.turn(SPOOL_RETRY_MS_MAX)
            await intake.until(lambda: len(intake.results) == 1)
        way.chmod(0o700)


async def test_a_missing_directory_is_said_once_and_noticed(tmp_path: Path, intake: RecordingIntake) -> None:
    """The daemon starts without the directory, says what to do, and sees it come, whatever is missing above it."""
    spool = tmp_path / "a" / "b" / "spool"
    with capture_logs() as lines:
        async with running(spool, intake, TurnedClock()):
            (tmp_path / "unrelated").mkdir()
            (tmp_path / "a").mkdir()
            (tmp_path / "a" / "b").mkdir()
            draft = tmp_path / "a" / "draft"
            draft.mkdir()
            drop(draft, "run.json", result_bytes())
            draft.rename(spool)
            await intake.until(lambda: len(intake.results) == 1)
    assert [line["log_level"] for line in lines if line["event"] == "the results directory cannot be used"] == [
        "warning"
    ]


async def test_a_file_in_its_place_is_said_and_noticed_when_it_goes(
    tmp_path: Path, intake: RecordingIntake
) -> None:
    """A path that is no directory becomes one."""
    spool = tmp_path / "spool"
    spool.touch()
    async with running(spool, intake, TurnedClock()):
        spool.unlink()
        spool.mkdir()
        drop(spool, "run.json", result_bytes())
        await intake.until(lambda: len(intake.results) == 1)


async def test_a_link_to_nowhere_is_followed_once_it_leads_somewhere(
    tmp_path: Path, intake: RecordingIntake
) -> None:
    """The path is there, as a symbolic link; what it leads to is made later, and noticed."""
    spool, elsewhere = tmp_path / "spool", tmp_path / "a" / "elsewhere"
    spool.symlink_to(elsewhere)
    async with running(spool, intake, TurnedClock()):
        elsewhere.mkdir(parents=True)
        drop(spool, "run.json", result_bytes())
        await intake.until(lambda: len(intake.results) == 1)


@contextmanager
def mounted(directory: Path) -> Iterator[None]:
    """An empty file system there."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"mounting a file system is not possible here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


async def test_a_directory_on_a_file_system_that_is_mounted_later_is_found(
    tmp_path: Path, intake: RecordingIntake
) -> None:
    """No event tells of a mount: a missing directory is looked for now and then as well."""
    volume, clock = tmp_path / "volume", TurnedClock()
    volume.mkdir()
    async with running(volume / "spool", intake, clock):
        await until(lambda: clock.sleepers > 0)
        with mounted(volume):
            (volume / "spool").mkdir()
            drop(volume / "spool", "run.json", result_bytes())
            clock.turn(SPOOL_RETRY_MS_MAX)
            await intake.until(lambda: len(intake.results) == 1)


@pytest.mark.parametrize("way", ["moved", "removed", "parent moved", "exchanged by a link"])
async def test_a_replaced_directory_is_served(tmp_path: Path, intake: RecordingIntake, way: str) -> None:
    """Whatever happens to the directory or above it, results in the one at the path arrive."""
    spool = tmp_path / "above" / "spool"
    spool.mkdir(parents=True)
    if way == "exchanged by a link":
        spool.rename(tmp_path / "one")
        spool.symlink_to(tmp_path / "one")
    async with running(spool, intake):
        for number in range(5):
            drop(spool, "run.json", result_bytes(f"before {number}"))
            await intake.until(lambda number=number: f"before {number}" in intake.messages())  # type: ignore[misc]  # bound at once
            if way == "moved":
                spool.rename(tmp_path / f"old {number}")
            elif way == "removed":
                await until(lambda: taken(spool) == [])
                (spool / ".taken").rmdir()
                await until(lambda: not (spool / "run.json").exists())
                for path in spool.iterdir():
                    path.rmdir()
                spool.rmdir()
            elif way == "parent moved":
                spool.parent.rename(tmp_path / f"old {number}")
                spool.parent.mkdir()
            else:
                (tmp_path / f"other {number}").mkdir()
                (tmp_path / "link").symlink_to(tmp_path / f"other {number}")
                (tmp_path / "link").rename(spool)
            if way != "exchanged by a link":
                spool.mkdir()
            drop(spool, "run.json", result_bytes(f"after {number}"))
            await intake.until(lambda number=number: f"after {number}" in intake.messages())  # type: ignore[misc]  # bound at once
            await until(lambda: lying_in(spool) == [])


@pytest.mark.parametrize("way", ["removed", "moved"])
async def test_a_taken_directory_that_goes_is_made_again(spool: Path, intake: RecordingIntake, way: str) -> None:
    """Somebody tidies up: results arrive all the same, and claims are where the next start finds them."""
    async with running(spool, intake):
        if way == "removed":
            (spool / ".taken").rmdir()
        else:
            (spool / ".taken").rename(spool / ".old")
            await until((spool / ".taken").exists)
        intake.commits.clear()
        drop(spool, "run.json", result_bytes())
        await intake.until(lambda: len(intake.offered) == 1)
        assert taken(spool) == ["run.json"]
        intake.commits.set()
        await intake.until(lambda: len(intake.results) == 1)


QUEUED_EVENTS_MAX = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())


@pytest.mark.skipif(
    QUEUED_EVENTS_MAX > 20_000, reason="fs.inotify.max_queued_events: the burst would take too long"
)
async def test_more_files_than_inotify_tells_of(spool: Path, intake: RecordingIntake) -> None:
    """A burst beyond the kernel's queue is found by a scan: every result arrives, once."""
    count = QUEUED_EVENTS_MAX // 2 + 500
    payload = result_bytes()
    directory = os.open(spool, os.O_RDONLY)
    with capture_logs() as lines:
        async with running(spool, intake):
            for number in range(count):  # two events each: created, closed after writing
                file = os.open(f"{number}.json", os.O_WRONLY | os.O_CREAT, 0o640, dir_fd=directory)
                os.write(file, payload)
                os.close(file)
            os.close(directory)
            async with asyncio.timeout(WAIT_SECONDS_MAX):
                while len(intake.results) < count:
                    intake.changed.clear()
                    await intake.changed.wait()
            await until(lambda: lying_in(spool) == [] and taken(spool) == [])
    assert len(intake.results) == count
    assert any("more files than inotify could tell of" in line["event"] for line in lines)


async def test_a_burst_beyond_one_drain_is_followed_to_its_end(spool: Path, intake: RecordingIntake) -> None:
    """As many other events as one drain reads come at once: the result behind them is not left lying."""
    draft = spool.parent / "draft"
    draft.write_bytes(result_bytes())
    async with running(spool, intake):
        drop(spool, "first.json", result_bytes())
        await intake.until(lambda: len(intake.results) == 1)
        await until(lambda: taken(spool) == [])
        for number in range(EVENTS_PER_DRAIN_MAX // 2):  # two events each: created and closed
            (spool / f".noise{number}").touch()
        draft.rename(spool / "last.json")
        await intake.until(lambda: len(intake.results) == 2)


@pytest.mark.parametrize("after_accept", AfterAccept)
async def test_a_large_directory_is_scanned_by_parts(
    spool: Path, intake: RecordingIntake, monkeypatch: pytest.MonkeyPatch, after_accept: AfterAccept
) -> None:
    """A backlog beyond what is held in memory arrives whole and in order."""
    monkeypatch.setattr(spool_session, "REMEMBERED_FILES_MAX", 7)
    for number in range(50):
        os.utime(drop(spool, f"{99 - number}.json", result_bytes(str(number))), ns=(0, 10**18 + number))
    async with running(spool, intake, after_accept=after_accept):
        await intake.until(lambda: len(intake.results) == 50)
    assert intake.messages() == [str(number) for number in range(50)]


async def test_claims_are_bounded_and_the_rest_waits(spool: Path, intake: RecordingIntake) -> None:
    """While nothing can be committed (a full disk), files stay where they are; then all arrive."""
    count = RESULTS_IN_FLIGHT_MAX + 200
    for number in range(count):
        (spool / f"{number}.json").write_bytes(result_bytes())
    intake.commits.clear()
    async with running(spool, intake):
        await intake.until(lambda: len(intake.offered) == RESULTS_IN_FLIGHT_MAX)
        intake.changed.clear()
        drop(spool, "late.json", result_bytes("late"))
        with pytest.raises(TimeoutError):  # nothing more is offered, although there is an event
            await asyncio.wait_for(intake.changed.wait(), 0.2)
        assert len(taken(spool)) == RESULTS_IN_FLIGHT_MAX
        assert len(intake.offered) == RESULTS_IN_FLIGHT_MAX
        intake.commits.set()
        await intake.until(lambda: len(intake.results) == count + 1)


async def test_what_is_there_is_handed_in_together(spool: Path, intake: RecordingIntake) -> None:
    """Many files at once are few commits, and while one is under way the next is offered."""
    for number in range(256):
        (spool / f"{number}.json").write_bytes(result_bytes())
    intake.commits.clear()
    async with running(spool, intake):
        await intake.until(lambda: len(intake.offered) == 256)
        intake.commits.set()
        await intake.until(lambda: len(intake.results) == 256)
    assert len(intake.batches) <= 8


async def test_a_failed_commit_ends_the_source(spool: Path) -> None:
    """An error that nobody documented is a defect: it is not swallowed, and the file stays claimed."""

    class Failing(RecordingIntake):
        async def observe(self, results: Sequence[Result]) -> None:  # noqa: ARG002 - the protocol's signature
            raise RuntimeError("no such thing documented")

    drop(spool, "run.json", result_bytes())
    settings = Settings(str(spool), AfterAccept.REMOVE, 1024, NODE, ())
    failing = Failing()
    source = ResultsDirectory(settings, SystemClock(), failing)
    with pytest.raises(ExceptionGroup):
        await asyncio.wait_for(source.run(failing, lambda: None), WAIT_SECONDS_MAX)
    assert taken(spool) == ["run.json"]


# Status files that stay.


async def test_a_kept_file_stays_and_is_a_result_at_each_change(spool: Path, intake: RecordingIntake) -> None:
    """A runner overwrites its status file at each run: each run is a result, and the file stays."""
    async with running(spool, intake, after_accept=AfterAccept.KEEP):
        path = drop(spool, "status.json", result_bytes("one"))
        await intake.until(lambda: len(intake.results) == 1)
        path.write_bytes(result_bytes("two"))
        await intake.until(lambda: intake.messages() == ["one", "two"])
        drop(spool, "status.json", result_bytes("three"))
        await intake.until(lambda: intake.messages() == ["one", "two", "three"])
        assert lying_in(spool) == ["status.json"]
        assert not (spool / ".taken").exists()


async def test_a_kept_file_that_has_not_changed_is_no_result(spool: Path, intake: RecordingIntake) -> None:
    """Neither a restart, nor a reopening, nor a scan makes a result of an old file; a change while down does."""
    for name in ("a.json", "b.json"):
        drop(spool, name, result_bytes(name))
    async with running(spool, intake, after_accept=AfterAccept.KEEP):
        await intake.until(lambda: len(intake.results) == 2)
    old = (spool / "b.json").stat()
    (spool / "b.json").write_bytes(result_bytes("B.json"))  # the same size, and the same date
    os.utime(spool / "b.json", ns=(old.st_atime_ns, old.st_mtime_ns))
    async with running(spool, intake, after_accept=AfterAccept.KEEP):
        await intake.until(lambda: len(intake.results) == 3)
        with (spool / "a.json").open("ab"):
            pass  # closed after writing nothing
        drop(spool, "mark.json", result_bytes("mark"))
        await intake.until(lambda: len(intake.results) == 4)
    assert intake.messages()[2:] == ["B.json", "mark"]


@pytest.mark.parametrize("when", ["running", "stopped"])
async def test_a_kept_file_that_is_gone_is_forgotten(spool: Path, intake: RecordingIntake, when: str) -> None:
    """The memory holds what is there, and no more."""
    path = drop(spool, "status.json", result_bytes())
    drop(spool, "other.json", result_bytes())
    async with running(spool, intake, after_accept=AfterAccept.KEEP):
        await intake.until(lambda: len(intake.known_sightings) == 2)
        if when == "running":
            path.unlink()
            await intake.until(lambda: intake.forgotten == [b"status.json"])
    if when == "stopped":
        path.unlink()
        async with running(spool, intake, after_accept=AfterAccept.KEEP):
            await intake.until(lambda: intake.forgotten == [b"status.json"])
    assert set(intake.known_sightings) == {b"other.json"}


async def test_a_bad_status_file_is_refused_as_any_other(spool: Path, intake: RecordingIntake) -> None:
    """It moves to rejected/, and the next good one of its name is taken."""
    async with running(spool, intake, after_accept=AfterAccept.KEEP):
        drop(spool, "status.json", b'{"document":"My-Doc"}')
        await intake.until(lambda: intake.refused == 1)
        assert lying_in(spool) == ["rejected"]
        drop(spool, "status.json", result_bytes())
        await intake.until(lambda: len(intake.results) == 1)
        assert lying_in(spool) == ["rejected", "status.json"]


async def test_a_kept_file_rewritten_as_fast_as_possible(spool: Path, intake: RecordingIntake) -> None:
    """Whatever was the last content arrives, and torn ones are never refused."""

    def write() -> None:
        for number in range(300):
            (spool / "status.json").write_bytes(result_bytes(f"run {number}"))

    # As above: no torn file is settled.
    async with running(spool, intake, TurnedClock(), AfterAccept.KEEP):
        await asyncio.to_thread(write)
        await intake.until(lambda: "run 299" in intake.messages())
    assert intake.refused == 0
    assert json.loads((spool / "status.json").read_bytes())["message"] == "run 299"
