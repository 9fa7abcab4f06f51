"""What the SSM Agent does with its state files, replayed; and the source that watches it, started for a test.

Run as a program it replays many runs, in a process of its own, of which none ends before the process with the pid
holds its file: ``agent_support.py STATE_DIRECTORY RUNS SEED DOCUMENTS PID``.
"""

import asyncio
import heapq
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from results_directory_support import WAIT_SECONDS_MAX, RecordingIntake
from ssm_status_reporter.config import AgentAssociations
from ssm_status_reporter.domain.result import Result
from ssm_status_reporter.host.clock import SystemClock
from ssm_status_reporter.ports import Clock, Intake
from ssm_status_reporter.sources.agent_reader import Absence, AgentSettings
from ssm_status_reporter.sources.ssm_agent import SsmAgent

RECORDINGS = Path(__file__).parent / "recordings" / "ssm_agent"
NODE = "mi-0123456789abcdef0"
TO_UNLINK_SECONDS = (80e-6, 6e-3)
"""From the final write to the unlink, at least and at most, as measured with the real agent (median 438 µs)."""
RUN_SECONDS = (0.2, 1.0)
HELD_LOOK_SECONDS = 0.1
"""How often a replayed run looks whether its file is held; the real agent's runs take seconds."""
RUNS_AT_ONCE = 200
"""Fewer than are held open."""
STATUSES = ("Success", "Failed", "TimedOut", "Skipped", "Cancelled")

State = dict[str, Any]


def recording(pattern: str) -> bytes:
    """The one recorded state file that matches."""
    (path,) = RECORDINGS.glob(pattern)
    return path.read_bytes()


SUCCESS = "legacy-success/003*.json"
FAILED = "legacy-failed/003*.json"
RUNNING = "legacy-failed/001*.json"
RUNNING_WORKER = "legacy-failed/002*.json"
MULTI_FAILED = "instance/*Multi-Doc--current-Failed*.json"
OK_SUCCESS = "instance/*Ok-Doc--current-Success*.json"


def state(pattern: str) -> State:
    """A recorded state, to be changed."""
    return json.loads(recording(pattern))  # type: ignore[no-any-return] # a state file is one object


def content(state: State) -> bytes:
    """As the agent writes it: indented by two."""
    return json.dumps(state, indent=2).encode()


def changed(pattern: str, status: str, document: str, run_id: str, run_count: int = 0) -> bytes:
    """A recorded state with another status, document, run and number of starts."""
    new = state(pattern)
    information = new["DocumentInformation"]
    legacy = information["AssociationID"] == information["DocumentName"]
    association_id = document if legacy else information["AssociationID"]
    information |= {"AssociationID": association_id, "DocumentName": document, "RunID": run_id}
    information |= {"DocumentStatus": status, "RunCount": run_count, "DocumentID": f"{association_id}.{run_id}"}
    return content(new)


class ReplayedAgent:
    """The directories of one agent, and what it does in them. Everything here blocks."""

    def __init__(self, state_directory: Path) -> None:
        self.directory = state_directory
        self.pending = state_directory / "pending"
        self.current = state_directory / "current"
        self.completed = state_directory / "completed"
        self.corrupt = state_directory / "corrupt"

    def start(self) -> None:
        """Make the directories; ``completed`` is made anew at every start."""
        if self.completed.exists():
            self.completed.rmdir()
        for directory in (self.pending, self.current, self.completed, self.corrupt):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def submit(self, name: str, payload: bytes) -> None:
        """A run is queued."""
        write(self.pending / name, payload)

    def begin(self, name: str) -> None:
        """Its turn has come."""
        (self.pending / name).rename(self.current / name)

    def rewrite(self, name: str, payload: bytes) -> None:
        """In place: the same inode."""
        write(self.current / name, payload)

    def rewrite_torn(self, name: str, payload: bytes, pause_seconds: float) -> None:
        """As `rewrite`, with readers given time to meet the empty and the cut file."""
        descriptor = os.open(self.current / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        spin(pause_seconds)
        os.write(descriptor, payload[: len(payload) // 2])
        spin(pause_seconds)
        os.write(descriptor, payload[len(payload) // 2 :])
        os.close(descriptor)

    def remove(self, name: str) -> None:
        (self.current / name).unlink()

    def run(self, name: str, payload: bytes) -> None:
        """A whole run, from the first write to the last, which must be seen."""
        self.submit(name, recording(RUNNING))
        self.begin(name)
        self.rewrite(name, payload)


def write(path: Path, payload: bytes) -> None:
    """As Go's WriteFile: truncate, one write, close."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(descriptor, payload)
    os.close(descriptor)


def spin(seconds: float) -> None:
    """Wait for less than a sleep can measure."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def run_name(number: int, documents: int) -> tuple[str, str, str]:
    """Document, run id and expected status of a replayed run."""
    run_id = f"2026-11-22T13-{number // 60000 % 60:02}-{number // 1000 % 60:02}.{number % 1000:03}Z"
    return f"Replayed-{number % documents}", run_id, STATUSES[number % len(STATUSES)]


def final_state(number: int, documents: int) -> bytes:
    """What a replayed run leaves as its last state."""
    document, run_id, status = run_name(number, documents)
    return changed(FAILED, status, document, run_id, int(number % 7 == 0))


class Holder:
    """The process that is to hold each run's file; looked at for all runs together."""

    def __init__(self, directory: Path, pid: int) -> None:
        self._directory = directory
        self._pid = pid
        self._names: set[str] = set()
        self._looked_at = 0.0

    def holds(self, name: str) -> bool:
        """Whether it does, or did when last looked at: what is held stays so until its run ends."""
        if name not in self._names and time.perf_counter() - self._looked_at >= HELD_LOOK_SECONDS:
            self._names = set(held(self._directory, self._pid))
            self._looked_at = time.perf_counter()
        return name in self._names


def replay(agent: ReplayedAgent, runs: int, chance: random.Random, documents: int, holder: Holder) -> None:
    """Many runs, some with the agent restarted in between, some torn, with other documents among them."""
    due: list[tuple[float, int, Iterator[float]]] = []
    number = 0
    while due or number < runs:
        while len(due) < RUNS_AT_ONCE and number < runs:
            steps = _steps(agent, number, chance, documents, holder)
            heapq.heappush(due, (time.perf_counter(), number, steps))
            number += 1
        at, each, steps = heapq.heappop(due)
        time.sleep(max(0.0, at - time.perf_counter()))
        wait = next(steps, None)
        if wait is not None:
            heapq.heappush(due, (time.perf_counter() + wait, each, steps))


def _steps(
    agent: ReplayedAgent, number: int, chance: random.Random, documents: int, holder: Holder
) -> Iterator[float]:
    """What happens in one run; between two steps, how long the agent waits."""
    document, run_id, _ = run_name(number, documents)
    name = f"{document}.{run_id}"
    agent.submit(name, changed(RUNNING, "InProgress", document, run_id))
    agent.begin(name)
    agent.rewrite(name, changed(RUNNING_WORKER, "InProgress", document, run_id))
    if number % 10 == 0:
        command = f"command-{number}"
        agent.submit(command, content(state(SUCCESS) | {"DocumentType": "SendCommand"}))
        agent.begin(command)
        agent.remove(command)
    yield chance.uniform(*RUN_SECONDS)
    while not holder.holds(name):
        yield HELD_LOOK_SECONDS
    run_count = 0
    if number % 7 == 0:
        run_count = 1
        agent.rewrite(name, changed(RUNNING_WORKER, "InProgress", document, run_id, run_count))
        yield chance.uniform(0, 0.02)
    if number % 11 == 0:
        agent.rewrite(name, changed(FAILED, "SuccessAndReboot", document, run_id, run_count))
        yield chance.uniform(0, 0.02)
    final = final_state(number, documents)
    if number % 3 == 0:
        agent.rewrite_torn(name, final, chance.uniform(0, 300e-6))
    else:
        agent.rewrite(name, final)
    least, most = TO_UNLINK_SECONDS
    spin(least * (most / least) ** chance.random())
    agent.remove(name)


@asynccontextmanager
async def watching(
    path: Path,
    intake: Intake,
    associations: AgentAssociations = AgentAssociations.AUTO,
    absence: Absence = Absence.EXPECTED,
    clock: Clock | None = None,
) -> AsyncIterator[asyncio.Task[None]]:
    """The source, watching or having said why not; cancelled at the end."""
    source = SsmAgent(AgentSettings(str(path), NODE, associations, absence), clock or SystemClock())
    ready = asyncio.Event()
    task = asyncio.create_task(source.run(intake, ready.set))
    waiting = asyncio.create_task(ready.wait())
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    try:
        yield task
    finally:
        if task.done() and not task.cancelled():
            task.result()
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=WAIT_SECONDS_MAX)
        assert done, "it does not stop"


async def arrived(intake: RecordingIntake, count: int) -> list[Result]:
    """So many results, and no more."""
    await intake.until(lambda: len(intake.results) >= count)
    assert len(intake.results) == count
    return intake.results


def held(directory: Path, pid: int | str = "self", proc: Path = Path("/proc")) -> list[str]:
    """The names under ``directory`` of the files that a process, this one if not told, holds open; removed ones too.

    ``proc`` may be another machine's, as may ``directory`` then.
    """
    names = []
    for link in (proc / str(pid) / "fd").iterdir():
        try:
            target = link.readlink()
        except FileNotFoundError:
            continue  # that of the listing itself
        if directory in target.parents and not target.is_dir():
            names.append(target.name.removesuffix(" (deleted)"))
    return sorted(names)


def watches() -> int:
    """How many inotify watches this process has."""
    infos = []
    for path in Path("/proc/self/fdinfo").iterdir():
        try:
            infos.append(path.read_text())
        except FileNotFoundError:
            continue  # that of the listing itself
    return sum(line.startswith("inotify ") for info in infos for line in info.splitlines())


def said(events: list[Any], text: str) -> list[Any]:
    """The log lines whose event holds the text."""
    return [event for event in events if text in event["event"]]


if __name__ == "__main__":
    state_directory, runs, seed, documents, pid = sys.argv[1:]
    chance = random.Random(int(seed))  # noqa: S311 - no secret
    agent = ReplayedAgent(Path(state_directory))
    replay(agent, int(runs), chance, int(documents), Holder(agent.directory, int(pid)))
