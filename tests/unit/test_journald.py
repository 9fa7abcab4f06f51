"""Log events as entries of the journal, by its native protocol, against a socket of our own."""

import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from ssm_status_reporter.host import journald, logs


def _parsed(datagram: bytes) -> dict[str, str]:
    """The fields of one entry, read as the protocol says."""
    fields = {}
    while datagram:
        head, _, rest = datagram.partition(b"\n")
        name, equals, value = head.partition(b"=")
        if not equals:
            size = int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + size], rest[8 + size + 1 :]
        fields[name.decode()] = value.decode()
        datagram = rest
    return fields


class Journal:
    """A journal of our own, and a stream that is it as far as $JOURNAL_STREAM says."""

    def __init__(self, directory: Path) -> None:
        self.address = str(directory / "socket")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.setblocking(False)  # noqa: FBT003 - the socket's own signature
        self.stream = (directory / "stderr").open("w+", encoding="utf-8")

    def entry(self) -> dict[str, str]:
        """The next entry: it is there once it was sent."""
        return _parsed(self._socket.recv(1 << 20))

    def written(self) -> str:
        """What came by the stream."""
        self.stream.seek(0)
        return self.stream.read()

    def close(self) -> None:
        self._socket.close()
        self.stream.close()


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Journal]:
    journal = Journal(tmp_path)
    status = os.fstat(journal.stream.fileno())
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level
    yield journal
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)
    journal.close()


def test_fields_are_found_by_their_names(journal: Journal) -> None:
    """`journalctl SSM_DOCUMENT=…` finds what was logged of that document; the message is the same line as ever."""
    logs.configure("info", "auto", journal.stream, journal.address)
    structlog.get_logger().info("delivered", document="My-Doc", attempts=2, request_id=None)
    entry = journal.entry()
    assert (entry["SSM_DOCUMENT"], entry["SSM_ATTEMPTS"], entry["SSM_EVENT"]) == ("My-Doc", "2", "delivered")
    assert "SSM_REQUEST_ID" not in entry
    assert entry["SYSLOG_IDENTIFIER"] == "ssm-status-reporter"
    assert json.loads(entry["MESSAGE"])["document"] == "My-Doc"
    assert journal.written() == ""


@pytest.mark.parametrize(("level", "priority"), [("debug", "7"), ("info", "6"), ("warning", "4"), ("error", "3")])
def test_priorities_are_those_of_syslog(journal: Journal, level: str, priority: str) -> None:
    """`journalctl -p err` shows the errors and nothing milder."""
    logs.configure("debug", "auto", journal.stream, journal.address)
    structlog.get_logger().log(logs.LEVELS[level], "it happened")
    assert journal.entry()["PRIORITY"] == priority


def test_readable_lines_on_request(journal: Journal) -> None:
    """With `log.format: text` the journal's messages are readable, with the same fields beside them."""
    logs.configure("info", "text", journal.stream, journal.address)
    structlog.get_logger().info("delivered", document="My-Doc")
    entry = journal.entry()
    assert "delivered" in entry["MESSAGE"]
    assert not entry["MESSAGE"].startswith("{")
    assert entry["SSM_DOCUMENT"] == "My-Doc"


def test_many_lines_are_one_field(journal: Journal) -> None:
    """A text with line ends, such as a traceback, is one field and forges no other."""
    logs.configure("info", "auto", journal.stream, journal.address)
    structlog.get_logger().info("odd", message="one\nPRIORITY=0\nthree")
    entry = journal.entry()
    assert entry["SSM_MESSAGE"] == "one\nPRIORITY=0\nthree"
    assert entry["PRIORITY"] == "6"


def test_a_long_text_is_cut(journal: Journal) -> None:
    """A text without end does not keep an entry out of the journal."""
    logs.configure("info", "auto", journal.stream, journal.address)
    structlog.get_logger().info("long", message="x" * 1_000_000)
    assert len(journal.entry()["SSM_MESSAGE"]) == journald.FIELD_BYTES_MAX


def test_without_the_journal_the_line_is_written(journal: Journal) -> None:
    """While the journal restarts, events are lines on standard error, not lost, and of the same priority."""
    logs.configure("info", "auto", journal.stream, journal.address + "-gone")
    structlog.get_logger().error("dead", document="My-Doc")
    line = journal.written()
    assert line.startswith("<3>")
    assert json.loads(line.removeprefix("<3>"))["document"] == "My-Doc"


def test_a_text_of_many_lines_is_marked_in_each() -> None:
    """Every line of a bad configuration's errors is an error to the journal, not the first alone."""
    assert journald.marked("one\ntwo\n", "error") == "<3>one\n<3>two"


def test_another_stream_is_no_journal(journal: Journal, tmp_path: Path) -> None:
    """Started by a unit but with standard error sent to a file, events go to the file."""
    with (tmp_path / "elsewhere").open("w+", encoding="utf-8") as elsewhere:
        logs.configure("info", "auto", elsewhere, journal.address)
        structlog.get_logger().info("delivered")
        elsewhere.seek(0)
        assert json.loads(elsewhere.read())["event"] == "delivered"


@pytest.mark.parametrize("to", ["journal", "stream"])
def test_bytes_that_are_no_text_are_logged_as_their_escape(journal: Journal, tmp_path: Path, to: str) -> None:
    """A path whose bytes are not UTF-8 is no reason to fail for whoever logs it."""
    with (tmp_path / "log").open("w+", encoding="utf-8") as elsewhere:
        logs.configure("info", "json", journal.stream if to == "journal" else elsewhere, journal.address)
        structlog.get_logger().info("shared credentials changed", files=["/home/\udcff"])
        elsewhere.seek(0)
        line = journal.entry()["MESSAGE"] if to == "journal" else elsewhere.read()
    assert json.loads(line)["files"] == ["/home/\udcff"]


def test_a_warning_that_a_library_gets_wrong_does_not_end_what_warned(
    journal: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    """As with the standard library's own handlers: the mistake is said, and the next warning is heard."""
    logs.configure("info", "auto", journal.stream, journal.address)
    logging.getLogger("library").warning("%d connections", "many")
    assert "%d connections" in capsys.readouterr().err
    logging.getLogger("library").warning("look")
    assert journal.entry()["SSM_EVENT"] == "look"


@pytest.mark.parametrize("library", ["botocore.auth", "aiobotocore", "aiohttp.client", "asyncio"])
def test_libraries_do_not_debug(journal: Journal, library: str) -> None:
    """At level debug the libraries, which would log headers and tokens, are still heard from warnings on."""
    logs.configure("debug", "auto", journal.stream, journal.address)
    logging.getLogger(library).debug("X-Amz-Security-Token: secret")
    logging.getLogger(library).info("X-Amz-Security-Token: secret")
    logging.getLogger(library).warning("look")
    entry = journal.entry()
    assert (entry["SSM_EVENT"], entry["SSM_LIBRARY"], entry["PRIORITY"]) == ("look", library, "4")
