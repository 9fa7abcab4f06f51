"""What the daemon's process tells a service manager, over a real notification socket."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

COMMAND: Final = Path(sys.executable).with_name("ssm-status-reporter")
MESSAGE_SECONDS_MAX: Final = 120.0
LOOK_SECONDS: Final = 0.05
"""Between two looks at the log, which has no event for us."""
WATCHDOG_SECONDS: Final = 2.0
"""Less than SQLite waits for a lock, so that a lock is a stuck outbox."""

_CONFIG: Final = """\
node: {{instance_id: i-0123456789abcdef0, region: eu-west-1}}
aws: {{endpoint_url: "http://127.0.0.1:9"}}
sources:
  results_directory: {{path: {home}/spool}}
  ssm_agent: {{enabled: false}}
outbox: {{path: {home}/state/outbox.db}}
reconcile: {{interval: 0s, on_start: false}}
"""


class Supervised:
    """A daemon, and the service manager's end of its socket."""

    def __init__(self, home: Path) -> None:
        self.home = home
        (home / "spool").mkdir()
        self.config = home / "config.yaml"
        self.config.write_text(_CONFIG.format(home=home), "utf-8")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(home / "notify"))
        self._socket.settimeout(MESSAGE_SECONDS_MAX)
        self.log = home / "log"
        self.start()

    def start(self) -> None:
        """Start the daemon; again, if it has ended."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "AWS_EC2_METADATA_DISABLED": "true",
            "NOTIFY_SOCKET": str(self.home / "notify"),
            "WATCHDOG_USEC": str(int(WATCHDOG_SECONDS * 1_000_000)),
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [COMMAND, "--config", self.config, "run"], env=environment, stderr=log, stdin=subprocess.DEVNULL
            )

    def message(self) -> dict[str, str]:
        """The next message: states and their values."""
        lines = self._socket.recv(65536).decode().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def until(self, state: str) -> tuple[dict[str, str], list[str]]:
        """The next message with that state, and the states that came before it."""
        before: list[str] = []
        deadline = time.monotonic() + MESSAGE_SECONDS_MAX  # the watchdog's messages go on coming
        while state not in (message := self.message()):
            assert time.monotonic() < deadline, f"no {state} in {MESSAGE_SECONDS_MAX:.0f} s"
            before += message
        return message, before

    def stuck(self) -> list[list[str]]:
        """The loops that were said to be stuck, each time."""
        lines = map(json.loads, self.log.read_text("utf-8").splitlines())
        return [line["loops"] for line in lines if line["event"].startswith("stuck")]

    def drop(self) -> None:
        """Hand in a result."""
        result = {"document": "My-Doc", "status": "Success"}
        (self.home / "spool/.draft").write_text(json.dumps(result), "utf-8")
        (self.home / "spool/.draft").rename(self.home / "spool/result.json")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._socket.close()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Supervised]:
    daemon = Supervised(tmp_path)
    yield daemon
    daemon.close()


def test_ready_when_the_outbox_is_open_and_the_sources_watch(daemon: Supervised) -> None:
    """READY comes when the outbox exists and results are taken; people read the status line, a hold with its reason."""
    _, before = daemon.until("READY")
    assert (daemon.home / "state/outbox.db").exists()
    assert (daemon.home / "spool/.taken").exists()
    status = {"STATUS"} if "STATUS" in before else daemon.until("STATUS")[0]
    assert status
    daemon.drop()
    while not (line := daemon.until("STATUS")[0]["STATUS"]).startswith("1 associations, 1 pending"):
        assert line == "0 associations, 0 pending"
    while "; credentials hold: NoCredentials: " not in line:
        line = daemon.until("STATUS")[0]["STATUS"]
        assert line.startswith("1 associations, 1 pending")


def test_an_idle_daemon_feeds_the_watchdog(daemon: Supervised) -> None:
    """A daemon with nothing to do is told of as alive, twice in each interval, but for the slowness of the machine."""
    daemon.until("READY")
    daemon.until("WATCHDOG")
    pauses: list[float] = []
    while min(pauses, default=WATCHDOG_SECONDS) >= 0.75 * WATCHDOG_SECONDS:  # a slow machine makes some longer
        assert len(pauses) < 30, pauses
        asked = time.monotonic()
        daemon.until("WATCHDOG")
        pauses.append(time.monotonic() - asked)


def test_a_stuck_outbox_misses_the_watchdog(daemon: Supervised) -> None:
    """A commit that does not get on costs the daemon its watchdog, and the log names the loop."""
    daemon.until("READY")
    with closing(
        sqlite3.connect(daemon.home / "state/outbox.db", MESSAGE_SECONDS_MAX, isolation_level=None)
    ) as other:
        other.execute("BEGIN IMMEDIATE")
        daemon.drop()
        silence = 0.0
        for _ in range(30):  # it takes two looks to know: the first ones may still come
            asked = time.monotonic()
            daemon.until("WATCHDOG")
            silence = time.monotonic() - asked
            if silence > WATCHDOG_SECONDS and ["outbox"] in daemon.stuck():  # a slow machine alone says nothing
                break
    assert silence > WATCHDOG_SECONDS
    assert ["outbox"] in daemon.stuck()


def test_a_reload_is_told_from_beginning_to_end(daemon: Supervised) -> None:
    """RELOADING carries the moment it began, READY follows, with a good configuration and with a bad one."""
    daemon.until("READY")
    for text in (_CONFIG.format(home=daemon.home) + "log: {level: debug}\n", "wings: 2\n"):
        daemon.config.write_text(text, "utf-8")
        started = time.monotonic_ns() // 1000
        daemon.process.send_signal(signal.SIGHUP)
        message, _ = daemon.until("RELOADING")
        assert message["RELOADING"] == "1"
        assert started <= int(message["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        daemon.until("READY")


def test_stopping_is_told(daemon: Supervised) -> None:
    """STOPPING comes with a status line, and the daemon ends by itself, cleanly."""
    daemon.until("READY")
    daemon.process.send_signal(signal.SIGTERM)
    message, _ = daemon.until("STOPPING")
    assert message["STATUS"].startswith("stopping")
    assert daemon.process.wait(MESSAGE_SECONDS_MAX) == 0


def test_a_stop_before_it_is_ready_ends_the_start(daemon: Supervised) -> None:
    """A start that waits for its outbox is ended by SIGTERM, cleanly and at once, not by the service manager's kill."""
    daemon.until("READY")
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(MESSAGE_SECONDS_MAX) == 0
    with closing(
        sqlite3.connect(daemon.home / "state/outbox.db", MESSAGE_SECONDS_MAX, isolation_level=None)
    ) as other:
        other.execute("BEGIN IMMEDIATE")
        daemon.start()
        deadline = time.monotonic() + MESSAGE_SECONDS_MAX
        while "outbox cannot be written" not in daemon.log.read_text("utf-8"):
            assert time.monotonic() < deadline
            time.sleep(LOOK_SECONDS)
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(MESSAGE_SECONDS_MAX) == 0
    assert "stopped before it was ready" in daemon.log.read_text("utf-8")
