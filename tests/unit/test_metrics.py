"""What Prometheus reads: the text, and the judgement behind /healthz."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from domain_support import ManualClock
from ssm_status_reporter.domain.entry import Count
from ssm_status_reporter.domain.limits import HEALTH_MS_MIN
from ssm_status_reporter.host.clock import SystemClock
from ssm_status_reporter.host.metrics import Exposition, MetricsFile, MetricsServer, Readings, UnreadableError
from ssm_status_reporter.host.watchdog import Health, Pulse
from ssm_support import free_port

NOW_MS = 1_790_000_000_000
SECONDS_MAX = 120


def readings(counters: Mapping[str, int], oldest_pending_ms: int | None = None) -> Readings:
    return Readings(
        version="1.2.3",
        instance_id="i-0123456789abcdef0",
        region="eu-west-1",
        counters={count.value: counters.get(count.value, 0) for count in Count},
        states={"acknowledged": 41, "pending": 1},
        dead_letters=2,
        oldest_pending_ms=oldest_pending_ms,
        holds=[("credentials", "", ""), ("node", "mi-0123456789abcdef0", "")],
        wall_ms=NOW_MS,
    )


def samples(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample, by its name and labels, as a client library reads it."""
    families = text_string_to_metric_families(text.decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_every_figure_has_its_name_and_its_labels() -> None:
    """A scrape shows the counters of status, associations by state, dead letters, age and holds."""
    seen = samples(Exposition().text(readings({"delivered": 7}, NOW_MS - 2500)))
    assert seen["ssm_status_reporter_delivered_total", ()] == 7
    assert seen["ssm_status_reporter_associations", (("state", "acknowledged"),)] == 41
    assert seen["ssm_status_reporter_associations", (("state", "pending"),)] == 1
    assert seen["ssm_status_reporter_dead_letters", ()] == 2
    assert seen["ssm_status_reporter_oldest_pending_seconds", ()] == 2.5
    everything = (("document", ""), ("instance_id", ""), ("scope", "credentials"))
    assert seen["ssm_status_reporter_hold", everything] == 1
    about = (("instance_id", "i-0123456789abcdef0"), ("region", "eu-west-1"), ("version", "1.2.3"))
    assert seen["ssm_status_reporter_info", about] == 1
    counters = {name for name, _ in seen if name.endswith("_total")}
    assert counters == {f"ssm_status_reporter_{count.value}_total" for count in Count}


def test_an_age_is_never_negative() -> None:
    """A report dated ahead of a clock that was put back waits for no time at all; nor does none."""
    for oldest_ms in (NOW_MS + 1000, None):
        seen = samples(Exposition().text(readings({}, oldest_ms)))
        assert seen["ssm_status_reporter_oldest_pending_seconds", ()] == 0


def test_a_counter_does_not_go_back() -> None:
    """An end that is taken back would look like a restart, and a rate computed from it like a flood."""
    exposition = Exposition()
    values = [
        samples(exposition.text(readings({"dead": dead})))["ssm_status_reporter_dead_total", ()]
        for dead in (4, 3, 4, 5)
    ]
    assert values == [4, 4, 4, 5]


async def connected(port: int) -> asyncio.StreamWriter:
    """A connection, once somebody listens."""
    while True:
        try:
            return (await asyncio.open_connection("127.0.0.1", port))[1]
        except ConnectionRefusedError:
            await asyncio.sleep(0.01)


async def test_a_scrape_that_is_never_answered_does_not_hold_up_a_stop() -> None:
    """The figures hang while somebody asks for them: the daemon's stop, which systemd gives 20 s, goes on."""
    asked = asyncio.Event()

    async def read() -> Readings:
        asked.set()
        await asyncio.Event().wait()
        return readings({})

    port = free_port()
    task = asyncio.create_task(MetricsServer("127.0.0.1", port, read, tuple, SystemClock()).run())
    async with asyncio.timeout(SECONDS_MAX):
        writer = await connected(port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n")
        await asked.wait()
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=SECONDS_MAX)
    writer.close()
    assert done


async def test_a_file_that_is_being_written_at_a_stop_is_removed_after_it(tmp_path: Path) -> None:
    """A slow disk: the thread that writes is not cancelled, and does not put figures there that nobody removes."""
    path, read = tmp_path / "reporter.prom", asyncio.Event()

    async def reading() -> Readings:
        read.set()
        return readings({})

    draft = tmp_path / ".reporter.prom.draft"
    os.mkfifo(draft)  # opening it to write waits for who reads
    file = asyncio.create_task(MetricsFile(path, reading, SystemClock()).run())
    async with asyncio.timeout(SECONDS_MAX):
        await read.wait()
        await asyncio.sleep(0)
        file.cancel()
        await asyncio.sleep(0)
        await asyncio.to_thread(draft.read_bytes)
        await asyncio.wait({file})
        await asyncio.get_running_loop().shutdown_default_executor()
    assert os.listdir(tmp_path) == []  # noqa: PTH208 (asynchronous code)


async def test_figures_that_cannot_be_read_are_no_fault_of_the_files_directory(tmp_path: Path) -> None:
    """What is said tells why they cannot be read, and not to let the daemon write."""
    read = asyncio.Event()

    async def unreadable() -> Readings:
        read.set()
        raise UnreadableError("outbox.db: cannot be read (disk I/O error): check the disk")

    with capture_logs() as said:
        file = asyncio.create_task(MetricsFile(tmp_path / "reporter.prom", unreadable, SystemClock()).run())
        async with asyncio.timeout(SECONDS_MAX):
            await read.wait()
        file.cancel()
        await asyncio.wait({file})
    (line,) = said
    assert "check the disk" in line["error"]
    assert "hint" not in line


def test_a_loop_is_unhealthy_when_it_stood_still_while_it_had_something_to_do() -> None:
    """Judged over ten seconds: busy without progress is stuck; idle is not, nor is busy with progress."""
    clock = ManualClock(NOW_MS)
    pulses = {"outbox": Pulse(1, busy=True), "reporter": Pulse(1, busy=False)}
    health = Health(lambda: dict(pulses), clock)
    clock.advance(HEALTH_MS_MIN - 1)
    assert health.stuck() == (), "too early to tell"
    clock.advance(1)
    assert health.stuck() == ("outbox",)
    pulses["outbox"] = Pulse(2, busy=True)
    assert health.stuck() == ("outbox",), "not looked at again so soon"
    clock.advance(HEALTH_MS_MIN)
    assert health.stuck() == ()
