"""One machine with the daemon installed: its directories, its configuration, its commands, its processes.

What a test waits for is an event: a line of the daemon's log, or a request in the emulator's ledger. What lies in
the daemon's files tells nobody when it changes, and a line may come before the commit it tells of: a condition is
looked at again at each line, and every `LOOK_SECONDS`.

Bounds only end what hangs. No machine is too slow for them, and no assertion rests on them.
"""

import asyncio
import json
import os
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count, pairwise
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import msgspec
import yaml

from ssm_status_reporter.emulator.faults import FaultPlan
from ssm_status_reporter.emulator.ledger import Entry
from ssm_status_reporter.emulator.server import Emulator
from ssm_status_reporter.host.clock import SystemClock
from ssm_status_reporter.outbox.snapshot import snapshot
from ssm_support import write_keys

COMMAND: Final = Path(sys.executable).with_name("ssm-status-reporter")
NODE: Final = "i-0123456789abcdef0"
REGION: Final = "eu-west-1"
SECONDS_MAX: Final = 120.0
"""How long anything that a test waits for may take."""
LOOK_SECONDS: Final = 0.1
"""Between two looks at the daemon's files."""
UPDATE: Final = "UpdateAssociationStatus"
DESCRIBE: Final = "DescribeAssociation"
ENDS: Final = (
    "suppressed_unchanged",
    "suppressed_stale",
    "coalesced",
    "delivered",
    "already_held",
    "dead",
)
"""The counters of which each received result ends in exactly one."""

_AS_ANOTHER: Final = """
import os, sys
import importlib.readers, importlib.resources.readers  # what the new user's interpreter may not find later
from ssm_status_reporter import config
from ssm_status_reporter.cli import main, status, dead_letters
user, group = int(sys.argv[1]), int(sys.argv[2])
os.setgroups([group])
os.setresgid(user, user, user)
os.setresuid(user, user, user)
main.main(sys.argv[3:])
"""

_WITH_BOUNDS: Final = """
import json, sys
from importlib import import_module
from ssm_status_reporter.cli import main
for path, bound in json.loads(sys.argv[1]).items():
    module, name = path.rsplit(".", 1)
    module = import_module(f"ssm_status_reporter.{module}")
    getattr(module, name)
    setattr(module, name, bound)
main.main(sys.argv[3:])
"""

T = TypeVar("T")
State = Mapping[str, Any]
"""What ``status --json`` prints."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended, and what it printed."""

    code: int | None
    output: str
    errors: str

    @property
    def json(self) -> Any:
        """What was printed, as JSON."""
        return json.loads(self.output)


class Daemon:
    """The daemon as a process. What it logs is in ``lines``; anything else on standard error in ``noise``."""

    def __init__(self, process: asyncio.subprocess.Process, look: Callable[[], State]) -> None:
        self._process = process
        self._look = look
        self.lines: list[dict[str, Any]] = []
        self.noise: list[str] = []
        self._changed = asyncio.Condition()
        self._reading = asyncio.create_task(self._read())

    @property
    def pid(self) -> int:
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        # Not the process object's own method: that one looks whether it has ended, and so takes its exit code.
        if self._process.returncode is None:
            os.kill(self.pid, number)

    def logged(self, event: str, **fields: object) -> list[dict[str, Any]]:
        """The lines of that event with those fields."""
        wanted = {"event": event, **fields}
        return [line for line in self.lines if wanted.items() <= line.items()]

    async def until(self, condition: Callable[[], T], what: str) -> T:
        """Wait for something true, looked at again at each line of the log, and every now and then."""
        try:
            async with asyncio.timeout(SECONDS_MAX), self._changed:
                while not (found := condition()):
                    assert not self._reading.done(), f"the daemon ended before: {what}\n{self._last_words()}"
                    with suppress(TimeoutError):
                        async with asyncio.timeout(LOOK_SECONDS):
                            await self._changed.wait()
                return found
        except TimeoutError:
            raise AssertionError(f"never came: {what}\n{self._last_words()}") from None

    async def line(self, event: str, times: int = 1, **fields: object) -> dict[str, Any]:
        """Wait for the event; the ``times``-th line of it."""
        await self.until(lambda: len(self.logged(event, **fields)) >= times, f"{times} times {event!r} {fields}")
        return self.logged(event, **fields)[times - 1]

    async def state(self, condition: Callable[[State], object], what: str) -> State:
        """Wait until ``status`` shows it."""
        seen: list[State] = []

        def look() -> object:
            seen[:] = [self._look()]
            return condition(seen[0])

        await self.until(look, what)
        return seen[0]

    async def quiet(self, received: int | None = None) -> State:
        """Wait until every result (so many, if told) has come to its end."""

        def done(state: State) -> bool:
            came = received is None or state["counters"]["received"] >= received
            return came and not waiting(state) and ends(state) == state["counters"]["received"]

        return await self.state(done, f"every result ended, {received} received")

    async def ended(self) -> int:
        """Wait for its end; its exit code."""
        async with asyncio.timeout(SECONDS_MAX):
            await self._reading
            return await self._process.wait()

    async def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.signal(signal.SIGTERM)
        return await self.ended()

    async def kill(self) -> None:
        """SIGKILL, as a crash is."""
        with suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)
        await self.ended()

    async def _read(self) -> None:
        assert self._process.stderr is not None
        async for raw in self._process.stderr:
            async with self._changed:
                try:
                    self.lines.append(json.loads(raw))
                except ValueError:
                    self.noise.append(raw.decode())
                self._changed.notify_all()
        async with self._changed:
            self._changed.notify_all()

    def _last_words(self) -> str:
        return "\n".join([*(json.dumps(line) for line in self.lines[-20:]), *self.noise])


class Manager:
    """A service manager: what the daemon tells it, each datagram as a mapping."""

    def __init__(self, path: Path) -> None:
        self.told: list[dict[str, str]] = []
        self._told_at: list[float] = []
        self._marks = count()
        self._path = path
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(self._path))
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        self._socket.close()

    @property
    def environment(self) -> dict[str, str]:
        """What the daemon is started with."""
        return {"NOTIFY_SOCKET": str(self._path)}

    def count(self, name: str, value: str | None = None) -> int:
        """How often it was told so."""
        return sum(name in told and value in (None, told[name]) for told in self.told)

    def shortest_pause(self, name: str) -> float:
        """Between two messages of that name, in seconds: a machine that stands still makes the others longer."""
        moments = [at for at, told in zip(self._told_at, self.told, strict=True) if name in told]
        return min(later - earlier for earlier, later in pairwise(moments))

    async def has_read_everything(self) -> None:
        """Wait until all that was sent before is in ``told``."""
        mark = f"mark {next(self._marks)}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as own:
            await asyncio.get_running_loop().sock_sendto(own, f"X_MARK={mark}".encode(), str(self._path))
        await self.until(lambda: self.count("X_MARK", mark), mark)

    async def until(self, condition: Callable[[], T], what: str) -> T:
        """Wait for something true, looked at again whenever something is told."""
        try:
            async with asyncio.timeout(SECONDS_MAX), self._changed:
                while not (found := condition()):
                    await self._changed.wait()
                return found
        except TimeoutError:
            raise AssertionError(f"never told: {what}: {self.told}") from None

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        while datagram := await loop.sock_recv(self._socket, 1 << 16):
            async with self._changed:
                self._told_at.append(loop.time())
                self.told.append(dict(line.split("=", 1) for line in datagram.decode().splitlines()))
                self._changed.notify_all()


@dataclass
class Site:
    """A directory that holds all the daemon has on a machine, and an endpoint."""

    root: Path
    endpoint_url: str
    changes: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    written: dict[str, tuple[str, str]] = field(default_factory=dict)
    """The newest status and message handed in for each document."""

    def __post_init__(self) -> None:
        self.spool = self.root / "spool"
        self.outbox = self.root / "state" / "outbox.db"
        self.config = self.root / "config.yaml"
        self.credentials = self.root / "credentials"
        self._names = count()
        for directory in (self.spool, self.outbox.parent):
            directory.mkdir(exist_ok=True)
        write_keys(self.credentials, "AKIAGOOD")
        self.configure()

    def configure(self, changes: Mapping[str, Any] | None = None) -> None:
        """Write the configuration: quick, verbose, without reconciliation, and then as changed.

        A call may take a minute: one that is given up because the machine is slow would be asked about.
        """
        configuration = {
            "node": {"instance_id": NODE, "region": REGION},
            "aws": {"endpoint_url": self.endpoint_url},
            "sources": {
                "results_directory": {"path": str(self.spool)},
                "ssm_agent": {"enabled": False, "path": str(self.root / "no-agent")},
            },
            "debounce": {"window": "0s"},
            "delivery": {
                "rate": 1000,
                "burst": 1000,
                "timeout": "1m",
                "backoff": {"initial": "50ms", "max": "500ms"},
            },
            "outbox": {"path": str(self.outbox)},
            "reconcile": {"interval": "0s", "on_start": False},
            "log": {"level": "debug", "format": "json"},
        }
        merged = _merged(_merged(configuration, self.changes), changes or {})
        self.config.write_text(yaml.safe_dump(merged), "utf-8")

    def drop(self, document: str, status: str, message: str, *, name: str | None = None, **more: object) -> Path:
        """Hand in a result as a runner does: written under another name, then renamed."""
        self.written[document] = (status, message)
        given = {"document": document, "status": status, "message": message, **more}
        return self.put(name or f"{next(self._names)}.json", json.dumps(given).encode())

    def put(self, name: str, payload: bytes) -> Path:
        """As `drop`, with any content."""
        draft = self.spool / f".draft-{next(self._names)}"
        draft.write_bytes(payload)
        draft.chmod(0o640)
        return draft.rename(self.spool / name)

    def unfinished(self) -> list[Path]:
        """Results that lie in the spool, or are claimed and not yet committed."""
        return [*self.spool.glob("*.json"), *self.spool.glob(".taken/*.json")]

    def state(self) -> State:
        """What ``status --json`` shows, without starting a process for it."""
        shown = msgspec.json.decode(msgspec.json.encode(snapshot(self.outbox, SystemClock().now())))
        assert isinstance(shown, dict)
        return shown

    def association(self, document: str) -> Mapping[str, Any]:
        """What ``status --json`` shows of one association."""
        (found,) = [each for each in self.state()["associations"] if each["document"] == document]
        assert isinstance(found, dict)
        return found

    async def run(self, *arguments: str | int) -> Ended:
        """A command, to its end."""
        return await self._ended(str(COMMAND), "--config", str(self.config), *map(str, arguments))

    async def run_as(self, user: int, group: int, *arguments: str | int) -> Ended:
        """A command as another user with one further group; needs root.

        The interpreter may lie where that user cannot reach it: it is started, and the user changed, before the
        command begins.
        """
        given = ["--config", str(self.config), *map(str, arguments)]
        return await self._ended(sys.executable, "-c", _AS_ANOTHER, str(user), str(group), *given)

    async def _ended(self, *command: str) -> Ended:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=self._environment(),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await asyncio.wait_for(process.communicate(), SECONDS_MAX)
        return Ended(process.returncode, output.decode(), errors.decode())

    @asynccontextmanager
    async def daemon(
        self, environment: Mapping[str, str] | None = None, *, ready: bool = True, prefix: Sequence[str] = ()
    ) -> AsyncIterator[Daemon]:
        """The daemon, ready if so wanted; killed at the end if it still runs. ``prefix`` is a command to start it."""
        process = await asyncio.create_subprocess_exec(
            *prefix,
            COMMAND,
            "--config",
            self.config,
            "run",
            env={**self._environment(), **(environment or {})},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 20,
        )
        daemon = Daemon(process, self.state)
        try:
            if ready:
                await daemon.line("ready")
            yield daemon
        finally:
            await daemon.kill()
        assert daemon.noise == [], "nothing but log lines"

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.root),
            "LC_ALL": "C.UTF-8",
            "AWS_SHARED_CREDENTIALS_FILE": str(self.credentials),
            "AWS_CONFIG_FILE": str(self.root / "no-config"),
            "AWS_EC2_METADATA_DISABLED": "true",
            **self.environment,
        }


def with_bounds(bounds: Mapping[str, float]) -> Sequence[str]:
    """The daemon's ``prefix`` to start it with other bounds than its own, named as ``module.NAME``.

    For what a test is not about, and a machine that stands still for some seconds would meet.
    """
    return (sys.executable, "-c", _WITH_BOUNDS, json.dumps(bounds))


def faults(*errors: str | Mapping[str, Any], document: str = "*", operation: str = UPDATE) -> FaultPlan:
    """A plan with one rule: these faults, one a call, in turn; written as in a faults file."""
    rule = {"operation": operation, "document": document, "errors": errors}
    return msgspec.convert({"rules": [rule]}, FaultPlan)


def calls(emulator: Emulator, document: str | None = None, operation: str = UPDATE) -> Sequence[Entry]:
    """The calls that reached the service, oldest first."""
    return [
        each
        for each in emulator.ledger
        if each.operation == operation and (document is None or each.document == document)
    ]


def held(emulator: Emulator, document: str) -> tuple[str, str] | None:
    """Status and message that the service holds."""
    report = emulator.status_of(NODE, document)
    return None if report is None else (report.status, report.message)


def waiting(state: State) -> int:
    """Reports that have not come to their end."""
    return sum(state["outbox"][name] for name in ("pending", "in_flight", "parked"))


def ends(state: State) -> int:
    """Results that have come to theirs."""
    return sum(state["counters"][name] for name in ENDS)


def assert_balanced(state: State) -> None:
    """Each received result is in exactly one place."""
    assert state["counters"]["received"] == ends(state) + waiting(state), state["counters"]


def attempts_max(elapsed_seconds: float, initial_ms: int = 50, max_ms: int = 500) -> int:
    """More calls than full jitter makes in that time, but for one run in a million; a hot loop makes hundreds.

    Simulated, a seeded thousand times, and doubled.
    """
    chance = random.Random(1)  # noqa: S311 - jitter, no secret
    most = 0
    for _ in range(1000):
        at_ms, tries = 0.0, 1
        while at_ms < elapsed_seconds * 1000:
            at_ms += chance.random() * min(max_ms, initial_ms << min(tries - 1, 16))
            tries += 1
        most = max(most, tries)
    return 2 * most


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in changes.items():
        below = merged.get(name)
        merged[name] = _merged(below, value) if isinstance(value, dict) and isinstance(below, dict) else value
    return merged
