"""Speed and memory, as ratios against a floor and a peer that are measured in the same run.

    make bench

The floor is raw inotify, one FULL commit and one POST on a kept connection (floor.py); the peer is boto3 in a
loop (peer.py); the service is a sink that answers at once (sink.py). Absolute figures are this machine's; the
ratios are what to compare. The absolute goals are from a machine on which boto3 takes `GOALS_PEER_MS`: a figure
"at its pace" is what that leaves of ours, an estimate. Nothing here passes or fails: the goals stand beside the
figures.
"""

import http.client
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
INSTANCE = "i-0123456789abcdef0"
LATENCY_RESULTS = 400
LOOK_SECONDS = 0.02
"""Longer than a result takes: who asks more often takes one of two processors from what is measured."""
DELIVERED_RESULTS = 6_000
INGESTED_RESULTS = 10_000
MEMORY_RESULTS = 100_000
PEER_CALLS = 3_000
GOALS_PEER_MS = 1.05
"""CPU of a boto3 call on the machine that the absolute goals are from (2 cores, Debian 12, Python 3.11)."""
ASSOCIATIONS = 200
WAIT_SECONDS_MAX = 300.0
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Daemon:
    """The daemon as a process."""

    pid: int
    spool: Path
    status: Callable[[], dict[str, dict[str, int]]]

    def cpu_seconds(self) -> float:
        """What it has used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND

    def resident_mib(self) -> float:
        """What it holds now."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

    def wait_until(self, counter: str, value: int) -> None:
        """Return when the counter is there; it is the daemon's own word, asked for when its spool is empty."""
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while self._files() or self.status()["counters"][counter] < value:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{counter} did not reach {value}: {self.status()['counters']}")
            time.sleep(0.02)

    def wait_until_taken_in(self) -> None:
        """Return when every result is committed."""
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while self._files():
            if time.monotonic() > deadline:
                raise TimeoutError(f"files are left: {self.status()['counters']}")
            time.sleep(0.005)

    def _files(self) -> bool:
        taken = self.spool / ".taken"
        return any(self.spool.glob("*.json")) or (taken.exists() and any(taken.iterdir()))


@contextmanager
def process(*command: str | Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A child that is ended with the block."""
    env = {"PATH": os.environ["PATH"], **environment}
    child = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True, env=env)
    try:
        yield child
    finally:
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(20)


@contextmanager
def sink() -> Iterator[int]:
    """The service; its port."""
    with process(sys.executable, HERE / "sink.py") as child:
        assert child.stdout is not None
        yield int(child.stdout.readline())


def arrivals(port: int) -> list[int]:
    """When requests arrived since the last time it was asked."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/arrivals")
    text = connection.getresponse().read().decode()
    connection.close()
    return [int(line) for line in text.split()]


@contextmanager
def daemon(command: str, port: int, **overrides: object) -> Iterator[Daemon]:
    """The installed command, running on an empty outbox."""
    with tempfile.TemporaryDirectory(prefix="bench-") as home:
        spool = Path(home, "spool")
        spool.mkdir()
        configuration = {
            "node": {"instance_id": INSTANCE, "region": "eu-west-1"},
            "aws": {"endpoint_url": f"http://127.0.0.1:{port}"},
            "sources": {"results_directory": {"path": str(spool)}, "ssm_agent": {"enabled": False}},
            "outbox": {"path": f"{home}/outbox.db"},
            "debounce": {"window": "0s"},
            "delivery": {"rate": 100000, "burst": 100000, "concurrency": 16},
            "reconcile": {"interval": "0s", "on_start": False},
            **overrides,
        }
        path = Path(home, "config.yaml")
        path.write_text(json.dumps(configuration))
        log = Path(home, "log").open("w")  # noqa: SIM115 (closed with the daemon)
        env = {"AWS_ACCESS_KEY_ID": "AKIDBENCH", "AWS_SECRET_ACCESS_KEY": "bench", "PATH": os.environ["PATH"]}
        child = subprocess.Popen([command, "--config", str(path), "run"], stderr=log, env=env)

        def status() -> dict[str, dict[str, int]]:
            out = subprocess.run(
                [command, "--config", str(path), "status", "--json"], capture_output=True, check=True, text=True
            )
            seen: dict[str, dict[str, int]] = json.loads(out.stdout)
            return seen

        try:
            subject = Daemon(child.pid, spool, status)
            drop(spool, draft(spool, 0, 1))
            subject.wait_until("delivered", 1)
            arrivals(port)
            yield subject
        finally:
            child.terminate()
            child.wait(30)
            log.close()


def draft(spool: Path, first: int, count: int, associations: int = ASSOCIATIONS) -> list[Path]:
    """Write results, each a change, over so many associations, beside the spool.

    Not in it, and not while the clock runs: making a file on ext4 costs up to 0.6 ms after many were removed (it
    does not give out their inodes for a while, and looks for others), with the directory locked.
    """
    drafts = spool.parent / "drafts"
    drafts.mkdir(exist_ok=True)
    written = [drafts / f"{number}.json" for number in range(first, first + count)]
    for number, path in enumerate(written, first):
        path.write_text(
            json.dumps(
                {"document": f"Bench-{number % associations}", "status": "Success", "message": f"run {number}"}
            )
        )
    return written


def drop(spool: Path, drafts: list[Path]) -> None:
    """Rename what was drafted into place."""
    for path in drafts:
        path.rename(spool / path.name)


def latencies_ms(spool: Path, port: int) -> list[float]:
    """From rename to the request's arrival, one result at a time."""
    found = []
    for path in draft(spool, 1, LATENCY_RESULTS):
        path.rename(spool / path.name)
        closed_ns = time.monotonic_ns()
        time.sleep(LOOK_SECONDS)
        while not (came := arrivals(port)):
            time.sleep(LOOK_SECONDS)
        found.append((came[0] - closed_ns) / 1e6)
    return found[LATENCY_RESULTS // 10 :]


def peer_ms() -> float:
    """CPU of a boto3 call, just now: the speed of a shared machine changes within minutes."""
    with sink() as port:
        out = subprocess.run(
            [sys.executable, str(HERE / "peer.py"), str(port), str(PEER_CALLS)],
            capture_output=True,
            check=True,
            text=True,
        )
    return float(out.stdout) * 1000 / PEER_CALLS


def measure_latency(command: str) -> None:
    """Close to arrival, beside the floor's."""
    pace = GOALS_PEER_MS / peer_ms()
    with sink() as port, tempfile.TemporaryDirectory(prefix="floor-") as home:
        spool = Path(home, "spool")
        spool.mkdir()
        with process(sys.executable, HERE / "floor.py", spool, str(port), f"{home}/floor.db") as child:
            assert child.stdout is not None
            child.stdout.readline()
            floor = latencies_ms(spool, port)
    with sink() as port, daemon(command, port) as subject:
        ours = latencies_ms(subject.spool, port)
    for name, values in (("floor", floor), ("daemon", ours)):
        cuts = statistics.quantiles(values, n=100)
        say(f"close to arrival, {name}", f"p50 {cuts[49]:.2f} ms, p99 {cuts[98]:.2f} ms")
    median_ms = statistics.median(ours)
    say(
        "close to arrival, daemon / floor",
        f"{median_ms / statistics.median(floor):.1f}",
        "p50 at most 2.5 ms and 3.5 times the floor",
    )
    say("close to arrival, at the goals' pace", f"p50 {median_ms * pace:.2f} ms, by estimate")


def measure_delivery(command: str) -> None:
    """Delivered a second, and the CPU of each, beside boto3's."""
    boto3_ms = peer_ms()
    with sink() as port, daemon(command, port) as subject:
        drafts = draft(subject.spool, 1, DELIVERED_RESULTS, DELIVERED_RESULTS)
        cpu = subject.cpu_seconds()
        began = time.monotonic()
        drop(subject.spool, drafts)
        came: list[int] = []
        while len(came) < DELIVERED_RESULTS:
            time.sleep(0.05)
            came += arrivals(port)
        ours_ms = (subject.cpu_seconds() - cpu) * 1000 / DELIVERED_RESULTS
        rate = DELIVERED_RESULTS / (max(came) / 1e9 - began)
    say("delivered a second", f"{rate:.0f}", "at least 850")
    say("delivered a second, at the goals' pace", f"{rate * boto3_ms / GOALS_PEER_MS:.0f}, by estimate")
    say("CPU a report, boto3", f"{boto3_ms:.2f} ms")
    say("CPU a report, daemon", f"{ours_ms:.2f} ms")
    say("CPU a report, daemon / boto3", f"{ours_ms / boto3_ms:.2f}", "at most 1")


def measure_ingestion(command: str) -> None:
    """Taken in a second, while almost nothing goes out."""
    with sink() as port, daemon(command, port, delivery={"rate": 0.1, "burst": 1}) as subject:
        drafts = draft(subject.spool, 1, INGESTED_RESULTS, INGESTED_RESULTS)
        began = time.monotonic()
        drop(subject.spool, drafts)
        subject.wait_until_taken_in()
        seconds = time.monotonic() - began
    say("taken in a second", f"{INGESTED_RESULTS / seconds:.0f}", "at least 2,000")


def measure_memory(command: str) -> None:
    """Resident at rest, and after many results."""
    with sink() as port, daemon(command, port) as subject:
        drop(subject.spool, draft(subject.spool, 1, 2_000))
        subject.wait_until("received", 2_000)
        before = subject.resident_mib()
        for first in range(2_001, MEMORY_RESULTS + 2_000, 2_000):
            drop(subject.spool, draft(subject.spool, first, 2_000))
        subject.wait_until("received", MEMORY_RESULTS + 2_000)
        after = subject.resident_mib()
    say("resident after 2,000 results", f"{before:.1f} MiB")
    say(f"resident after {MEMORY_RESULTS + 2_000:,} results", f"{after:.1f} MiB")
    say("memory, after / before", f"{after / before:.2f}", "flat: about 1")


def say(what: str, figure: str, goal: str = "") -> None:
    """One line."""
    print(f"{what:<38} {figure:<29} {goal}", flush=True)


def main(command: str) -> None:
    """All of it."""
    found = shutil.which(command)
    if found is None:
        sys.exit(f"{command}: not found; run make bench")
    subject = str(Path(found).absolute())
    measure_latency(subject)
    measure_delivery(subject)
    measure_ingestion(subject)
    measure_memory(subject)


if __name__ == "__main__":
    main(sys.argv[1])
