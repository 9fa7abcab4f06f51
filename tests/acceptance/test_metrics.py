"""Metrics as Prometheus and node_exporter meet them: over HTTP and as a file, from the running daemon."""

import asyncio
import resource
import socket
import stat
import sys
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from acceptance_support import ENDS, Site, faults
from results_directory_support import until
from ssm_status_reporter.emulator.server import Emulator
from ssm_support import free_port


def figures(text: str) -> dict[str, float]:
    """The samples without labels, by name."""
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.labels
    }


async def fetched(port: int, path: str) -> tuple[int, str, str]:
    """Code, content type and text of one GET."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as reply:
        return reply.status, reply.headers["Content-Type"], await reply.text()


async def test_a_scrape_shows_what_status_shows(tmp_path: Path) -> None:
    """/metrics has the counters that `status --json` has, a hold as it stands, and /healthz says ok."""
    port = free_port()
    async with Emulator(faults({"code": "InvalidInstanceId", "times": 0}, document="Held")) as emulator:
        site = Site(tmp_path, emulator.url, {"metrics": {"listen": f"127.0.0.1:{port}"}})
        async with site.daemon() as daemon:
            await daemon.line("serving metrics")
            site.drop("Doc", "Success", "done")
            await daemon.state(lambda state: state["counters"]["delivered"] == 1, "delivered")
            site.drop("Held", "Success", "done", observed_at="2026-01-01T00:00:00Z")
            await daemon.state(lambda state: state["holds"], "held")
            code, kind, text = await fetched(port, "/metrics")
            state = site.state()
            assert (code, kind.split(";")[0]) == (200, "text/plain")
            seen = figures(text)
            for name in ("received", *ENDS):
                assert seen[f"ssm_status_reporter_{name}_total"] == state["counters"][name], name
            age_seconds = seen["ssm_status_reporter_oldest_pending_seconds"]
            assert abs(age_seconds - state["outbox"]["oldest_pending_seconds"]) < 60
            assert age_seconds > 24 * 60 * 60
            assert (
                'ssm_status_reporter_hold{document="",instance_id="i-0123456789abcdef0",scope="node"} 1.0' in text
            )
            assert 'ssm_status_reporter_associations{state="acknowledged"} 1.0' in text
            assert await fetched(port, "/healthz") == (200, "text/plain; charset=utf-8", "ok\n")
            assert (await fetched(port, "/"))[0] == 404
            assert await daemon.stop() == 0


async def test_an_outbox_that_cannot_be_written_can_still_be_scraped(tmp_path: Path) -> None:
    """On a full disk, which is when figures matter, /metrics answers."""
    port = free_port()
    async with Emulator() as emulator:
        site = Site(tmp_path, emulator.url, {"metrics": {"listen": f"127.0.0.1:{port}"}})
        async with site.daemon() as daemon:
            await daemon.line("serving metrics")
            site.drop("Before", "Success", "done")
            await daemon.quiet(1)
            resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
            site.drop("Doc", "Success", "done")
            await daemon.line("outbox cannot be written: nothing is acknowledged until it can, nothing is lost")
            code, _, text = await fetched(port, "/metrics")
            assert (code, figures(text)["ssm_status_reporter_delivered_total"]) == (200, 1)
            resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            await daemon.quiet(2)


async def test_an_address_in_use_keeps_nothing_from_being_delivered(tmp_path: Path) -> None:
    """Somebody else has the port: said once with what to do, and the daemon does its work."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        async with Emulator() as emulator:
            site = Site(tmp_path, emulator.url, {"metrics": {"listen": f"127.0.0.1:{port}"}})
            async with site.daemon() as daemon:
                said = await daemon.line(
                    "metrics cannot be served: it is tried again, and everything else goes on"
                )
                assert "metrics.listen" in said["hint"]
                site.drop("Doc", "Success", "done")
                await daemon.quiet(1)
                assert await daemon.stop() == 0


async def test_a_file_for_node_exporter_is_there_while_the_daemon_runs(tmp_path: Path) -> None:
    """Readable for everybody, whole at every moment, and gone after a clean stop: old figures mislead."""
    directory = tmp_path / "collector"
    directory.mkdir()
    file = directory / "reporter.prom"
    async with Emulator() as emulator:
        site = Site(tmp_path, emulator.url, {"metrics": {"textfile": str(file)}})
        async with site.daemon() as daemon:
            await until(file.exists)
            assert figures(file.read_text("utf-8"))["ssm_status_reporter_received_total"] == 0
            assert stat.S_IMODE(file.stat().st_mode) == 0o644
            assert [path.name for path in directory.iterdir()] == [file.name], "no draft is left"
            assert await daemon.stop() == 0
        assert list(directory.iterdir()) == []


async def test_a_file_that_cannot_be_written_is_said_and_changes_nothing_else(tmp_path: Path) -> None:
    """The directory does not exist: said once, and results are delivered."""
    async with Emulator() as emulator:
        site = Site(tmp_path, emulator.url, {"metrics": {"textfile": str(tmp_path / "nowhere" / "reporter.prom")}})
        async with site.daemon() as daemon:
            said = await daemon.line(
                "the metrics file cannot be written: it is tried again, and everything else goes on"
            )
            assert "nowhere" in said["path"]
            site.drop("Doc", "Success", "done")
            await daemon.quiet(1)
            assert await daemon.stop() == 0


async def test_a_daemon_without_metrics_does_not_load_what_they_need() -> None:
    """It costs memory; only a configuration that names one of the two keys imports it."""
    script = "import sys, ssm_status_reporter.daemon; print(*sys.modules)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    loaded = output.decode().split()
    assert "ssm_status_reporter.daemon" in loaded
    assert "prometheus_client" not in loaded
