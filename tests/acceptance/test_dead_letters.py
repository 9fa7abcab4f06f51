"""``dead-letters`` of the installed command: looked at, sent again, dropped; beside a running daemon and without."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from acceptance_support import Daemon, Site, assert_balanced, calls, faults, held
from ssm_status_reporter.emulator.faults import FaultPlan
from ssm_status_reporter.emulator.server import Emulator

DAEMON_USER = 54_321
DAEMON_GROUP = 54_322
needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv, to become another user"
)
REFUSING = faults({"code": "ValidationException", "message": "and why", "times": 0})
KEYS = {"id", "instance_id", "document", "status", "message", "observed_at", "code", "error", "request_id", "at"}


async def bury(site: Site, daemon: Daemon, *documents: str, message: str = "refused") -> None:
    """Have these results refused for good, one after the other."""
    for document in documents:
        site.drop(document, "Failed", message)
        await daemon.line("dead: the service will not take it", document=document)


async def listed(site: Site) -> list[dict[str, Any]]:
    ended = await site.run("dead-letters", "list", "--json")
    assert ended.code == 0, ended.errors
    assert isinstance(ended.json, list)
    return ended.json


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory that other users can reach, which pytest's own is not."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


async def test_list_and_show_tell_what_was_refused_why_and_by_which_request(tmp_path: Path) -> None:
    """Each letter has the contract's keys; show adds what to do; before any run there are none."""
    async with Emulator(REFUSING) as emulator:
        site = Site(tmp_path, emulator.url)
        assert await listed(site) == []
        async with site.daemon() as daemon:
            await bury(site, daemon, "Doc-1", "Doc-2")
            first, second = await listed(site)
            shown = await site.run("dead-letters", "show", first["id"])
            shown_json = await site.run("dead-letters", "show", second["id"], first["id"], "--json")
        assert first.keys() == second.keys() == KEYS
        assert (first["document"], first["status"], first["message"]) == ("Doc-1", "Failed", "refused")
        assert (first["code"], first["error"]) == ("ValidationException", "and why")
        assert first["request_id"] == calls(emulator, "Doc-1")[0].request_id
        assert (shown.code, shown_json.code) == (0, 0)
        for text in ("Doc-1", "ValidationException: and why", first["request_id"], "what to do"):
            assert text in shown.output
        assert shown_json.json == [second, first]
        readable = await site.run("dead-letters", "list")
        assert len(readable.output.splitlines()) == 2


async def test_what_a_runner_wrote_does_nothing_to_a_terminal(tmp_path: Path) -> None:
    """A message is shown to people on one line, without control characters; JSON has it whole."""
    hostile = "a\x1b[2Jb\nlost  0"
    async with Emulator(REFUSING) as emulator:
        site = Site(tmp_path, emulator.url)
        async with site.daemon() as daemon:
            await bury(site, daemon, "Doc", message=hostile)
        (letter,) = await listed(site)
        assert letter["message"] == hostile
        shown = (await site.run("dead-letters", "show", letter["id"])).output
        assert f"message       {hostile.encode('unicode_escape').decode()}\n" in shown
        assert "\x1b" not in shown


async def test_a_retry_goes_out_at_once_with_a_running_daemon(tmp_path: Path) -> None:
    """Retry beside a running daemon, which has nothing else to do: the service holds it, and the letter is gone."""
    async with Emulator(REFUSING) as emulator:
        site = Site(tmp_path, emulator.url)
        async with site.daemon() as daemon:
            await bury(site, daemon, "Doc-1", "Doc-2")
            emulator.faults = FaultPlan()
            letter, other = await listed(site)
            ended = await site.run("dead-letters", "retry", letter["id"])
            await emulator.wait_for(lambda ledger: any(each.applied for each in ledger))
            assert ended.code == 0
            assert "will be sent again" in ended.output
            state = await daemon.quiet(2)
            assert held(emulator, "Doc-1") == ("Failed", "refused")
            assert await listed(site) == [other]
            assert_balanced(state)
            assert (await site.run("dead-letters", "retry", "--all", "--json")).json == [other]
            state = await daemon.state(lambda state: state["counters"]["delivered"] == 2, "both delivered")
            assert_balanced(state)
            assert await listed(site) == []


async def test_a_retry_without_a_daemon_goes_out_at_its_start(tmp_path: Path) -> None:
    """Retry while no daemon runs is stored, and delivered when one starts."""
    async with Emulator(REFUSING) as emulator:
        site = Site(tmp_path, emulator.url)
        async with site.daemon() as daemon:
            await bury(site, daemon, "Doc")
            await daemon.stop()
        emulator.faults = FaultPlan()
        ended = await site.run("dead-letters", "retry", "--all")
        assert ended.code == 0
        assert held(emulator, "Doc") is None
        async with site.daemon() as daemon:
            state = await daemon.quiet(1)
        assert held(emulator, "Doc") == ("Failed", "refused")
        assert_balanced(state)


async def test_a_retry_that_is_refused_again_is_a_letter_again(tmp_path: Path) -> None:
    """What the service still refuses comes back with a new id, and the counters still add up."""
    async with Emulator(REFUSING) as emulator:
        site = Site(tmp_path, emulator.url)
        async with site.daemon() as daemon:
            await bury(site, daemon, "Doc")
            (before,) = await listed(site)
            await site.run("dead-letters", "retry", before["id"])
            await daemon.line("dead: the service will not take it", times=2)
            (after,) = await listed(site)
            assert after["id"] != before["id"]
            assert_balanced(site.state())


async def test_what_its_runner_repeated_is_retried_all_the_same(tmp_path: Path) -> None:
    """A runner that reports the refused status at every run keeps no retry from sending it."""
    async with Emulator(REFUSING) as emulator:
        site = Site(tmp_path, emulator.url)
        async with site.daemon() as daemon:
            await bury(site, daemon, "Doc")
            site.drop("Doc", "Failed", "refused")
            await daemon.state(lambda state: state["counters"]["suppressed_unchanged"] == 1, "seen again")
            emulator.faults = FaultPlan()
            ended = await site.run("dead-letters", "retry", "--all")
            assert "will be sent again" in ended.output
            state = await daemon.state(lambda state: state["counters"]["delivered"] == 1, "delivered")
            assert held(emulator, "Doc") == ("Failed", "refused")
            assert_balanced(state)


@pytest.mark.parametrize("running", [True, False], ids=["daemon running", "daemon stopped"])
async def test_a_retry_never_overwrites_something_newer(tmp_path: Path, *, running: bool) -> None:
    """After a newer status of that association was delivered, retry says so, sends nothing and drops the letter."""
    async with Emulator(REFUSING) as emulator:
        site = Site(tmp_path, emulator.url)
        async with site.daemon() as daemon:
            await bury(site, daemon, "Doc")
            emulator.faults = FaultPlan()
            site.drop("Doc", "Success", "newer")
            await daemon.quiet(2)
            if not running:
                await daemon.stop()
            ended = await site.run("dead-letters", "retry", "--all")
            assert "something newer is known" in ended.output
            assert await listed(site) == []
        async with site.daemon() as daemon:
            site.drop("Sentinel", "Success", "sentinel")
            state = await daemon.quiet(3)
        assert held(emulator, "Doc") == ("Success", "newer")
        assert state["counters"]["suppressed_stale"] == 1
        assert_balanced(state)


async def test_a_discarded_letter_is_gone_and_the_next_equal_result_is_news(tmp_path: Path) -> None:
    """Discard drops it for good; what was refused may be reported anew."""
    async with Emulator(REFUSING) as emulator:
        site = Site(tmp_path, emulator.url)
        async with site.daemon() as daemon:
            await bury(site, daemon, "Doc", "Other")
            letter, other = await listed(site)
            ended = await site.run("dead-letters", "discard", letter["id"], "--json")
            assert (ended.code, ended.json) == (0, [letter])
            assert await listed(site) == [other]
            emulator.faults = FaultPlan()
            for document in ("Doc", "Other"):
                site.drop(document, "Failed", "refused")
            state = await daemon.quiet(4)
            assert held(emulator, "Doc") == ("Failed", "refused"), "news, for nobody remembers the letter"
            assert held(emulator, "Other") is None, "still dead: an equal result makes no call"
            assert_balanced(state)
            assert (await site.run("dead-letters", "discard", "--all")).code == 0
            assert (await site.run("status", "--json")).json["outbox"]["dead"] == 0


@pytest.mark.parametrize("command", ["show", "retry", "discard"])
async def test_an_unknown_id_is_exit_1_and_the_known_ones_are_done(tmp_path: Path, command: str) -> None:
    """The unknown one is named; the others are dealt with all the same. No id at all is wrong usage."""
    async with Emulator(REFUSING) as emulator:
        site = Site(tmp_path, emulator.url)
        async with site.daemon() as daemon:
            await bury(site, daemon, "Doc")
            await daemon.stop()
        (letter,) = await listed(site)
        ended = await site.run("dead-letters", command, 4711, 10**20, letter["id"])
        assert ended.code == 1
        assert [line.partition(":")[0] for line in ended.errors.splitlines()] == ["4711", str(10**20)]
        assert "Doc" in ended.output
        assert (await site.run("dead-letters", command, 4711)).output == ""
        assert len(await listed(site)) == (1 if command == "show" else 0)
        assert (await site.run("dead-letters", command)).code == 2
        assert (await site.run("dead-letters", command, "x")).code == 2


async def test_without_an_outbox_there_is_nothing_to_retry(tmp_path: Path) -> None:
    """Before any run an id is unknown, --all is nothing to do, and no file is made."""
    site = Site(tmp_path, "http://127.0.0.1:9")
    assert (await site.run("dead-letters", "show", 1)).code == 1
    assert (await site.run("dead-letters", "retry", 1)).code == 1
    assert (await site.run("dead-letters", "discard", 1)).code == 1
    for command in ("retry", "discard"):
        ended = await site.run("dead-letters", command, "--all")
        assert (ended.code, ended.output, ended.errors) == (0, "", "")
    assert list(site.outbox.parent.iterdir()) == []


async def test_they_are_bounded_and_the_oldest_go_first(tmp_path: Path) -> None:
    """Beyond outbox.max_dead_letters the oldest are dropped, which the log says."""
    async with Emulator(REFUSING) as emulator:
        site = Site(tmp_path, emulator.url, {"outbox": {"max_dead_letters": 3}})
        async with site.daemon() as daemon:
            for number in range(5):
                await bury(site, daemon, f"Doc-{number}")
            assert [each["document"] for each in await listed(site)] == ["Doc-2", "Doc-3", "Doc-4"]
            assert len(daemon.logged("dead letters dropped: there are too many")) == 2
            assert site.state()["counters"]["dead"] == 5


@needs_root
async def test_root_leaves_no_file_behind_that_the_daemon_could_not_write(open_path: Path) -> None:
    """Retry run by root, with the daemon of another user stopped and running, leaves only that user's files."""
    async with Emulator(REFUSING) as emulator:
        site = Site(open_path, emulator.url)
        site.config.chmod(0o644)
        site.credentials.chmod(0o644)
        for directory in (site.spool, site.outbox.parent):
            os.chown(directory, DAEMON_USER, DAEMON_GROUP)
        site.outbox.parent.chmod(0o750)
        # As the unit does it: no root, but files may be read whoever owns them.
        as_daemon = [
            "setpriv", f"--reuid={DAEMON_USER}", f"--regid={DAEMON_GROUP}", "--clear-groups",
            "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search",
        ]  # fmt: skip
        async with site.daemon(prefix=as_daemon) as daemon:
            await bury(site, daemon, "Doc-1", "Doc-2")
            await daemon.stop()
        emulator.faults = FaultPlan()
        first, second = await listed(site)
        assert (await site.run("dead-letters", "retry", first["id"])).code == 0
        assert owners(site) == {DAEMON_USER}
        async with site.daemon(prefix=as_daemon) as daemon:
            await daemon.line("delivered", document="Doc-1")
            assert (await site.run("dead-letters", "retry", second["id"])).code == 0
            await daemon.line("delivered", document="Doc-2")
            assert owners(site) == {DAEMON_USER}
            await daemon.kill()
        assert (await site.run("dead-letters", "discard", "--all")).code == 0
        assert (await site.run("status")).code == 0
        assert owners(site) == {DAEMON_USER}
        async with site.daemon(prefix=as_daemon) as daemon:
            site.drop("Doc-3", "Success", "done")
            await daemon.quiet(3)


@needs_root
async def test_who_may_only_read_is_told_to_be_root(open_path: Path) -> None:
    """A member of the group may list; retry and discard say whom they need, without a stack trace."""
    async with Emulator(REFUSING) as emulator:
        site = Site(open_path, emulator.url)
        site.config.chmod(0o644)
        os.chown(site.outbox.parent, 0, DAEMON_GROUP)
        site.outbox.parent.chmod(0o2750)
        async with site.daemon() as daemon:
            await bury(site, daemon, "Doc")
            await daemon.stop()
        for group in (DAEMON_GROUP, DAEMON_USER):
            for command in ("retry", "discard"):
                ended = await site.run_as(DAEMON_USER, group, "dead-letters", command, 1)
                assert (ended.code, ended.output) == (1, "")
                assert "root" in ended.errors
                assert "Traceback" not in ended.errors
        assert len(await listed(site)) == 1


def owners(site: Site) -> set[int]:
    """Who owns what lies beside the outbox."""
    return {path.stat().st_uid for path in site.outbox.parent.iterdir()}
