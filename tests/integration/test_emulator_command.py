"""The command ``emulator`` as a process: its URL, its end, its exit codes."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from emulator_support import WAIT_SECONDS_MAX, connect, describe, refused, update
from ssm_status_reporter.emulator.server import Emulator


@asynccontextmanager
async def command(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The emulator command as a process; killed if it does not end by itself."""
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("ssm-status-reporter"),
        "emulator",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_command_prints_its_url_serves_and_ends(tmp_path: Path, number: signal.Signals) -> None:
    """The one line printed is a URL that answers at once; a signal ends the command with 0, whatever hangs."""
    faults, ledger = tmp_path / "faults.yaml", tmp_path / "ledger.jsonl"
    faults.write_text("rules: [{document: Hung, errors: [hang]}]", "utf-8")
    async with command("--faults", str(faults), "--ledger", str(ledger)) as process:
        assert process.stdout is not None
        endpoint = Emulator()
        endpoint.url = (await asyncio.wait_for(process.stdout.readline(), WAIT_SECONDS_MAX)).decode().rstrip("\n")
        host, port = endpoint.url.removeprefix("http://").split(":")
        _reader, hung = await asyncio.open_connection(host, int(port))
        hung.write(b'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n\r\n{"Name":"Hung"}')
        await hung.drain()
        # Connected and sent before this one is, so what hangs has arrived when this is answered.
        async with connect(endpoint) as client:
            await update(client)
        process.send_signal(number)
        output, errors = await asyncio.wait_for(process.communicate(), WAIT_SECONDS_MAX)
        hung.close()
    assert (process.returncode, output, errors) == (0, b"", b"")
    assert sorted(json.loads(line)["answer"] for line in ledger.read_text("utf-8").splitlines()) == ["hang", "ok"]


async def test_keys_are_rotated_while_it_runs(tmp_path: Path) -> None:
    """The old key is accepted, then, after SIGHUP, expired; a bad file changes nothing; what is held stays."""
    faults = tmp_path / "faults.yaml"
    faults.write_text("credentials: {accept: [AKIDOLD]}", "utf-8")
    async with command("--faults", str(faults)) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        endpoint = Emulator()
        endpoint.url = (await asyncio.wait_for(process.stdout.readline(), WAIT_SECONDS_MAX)).decode().rstrip("\n")
        async with connect(endpoint, "AKIDOLD") as old, connect(endpoint, "AKIDNEW") as new:
            await update(old)
            assert (await refused(describe(new)))[0] == "UnrecognizedClientException"
            faults.write_text("credentials: {accept: [AKIDOLD, AKIDNEW], expired: [AKIDOLD]}", "utf-8")
            process.send_signal(signal.SIGHUP)
            assert b"read again" in await asyncio.wait_for(process.stderr.readline(), WAIT_SECONDS_MAX)
            assert (await refused(describe(old)))[0] == "ExpiredTokenException"
            faults.write_text("credentials: {accepts: []}", "utf-8")
            process.send_signal(signal.SIGHUP)
            for said in (b"credentials.accepts: unknown key", b"not taken"):
                assert said in await asyncio.wait_for(process.stderr.readline(), WAIT_SECONDS_MAX)
            assert (await describe(new))["AssociationDescription"]["Status"]["Name"] == "Success"


async def test_a_port_in_use_is_an_unavailable_service() -> None:
    """Told to listen where somebody else does, the command says so and exits with 69."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with command("--port", str(port)) as process:
            output, errors = await asyncio.wait_for(process.communicate(), WAIT_SECONDS_MAX)
    assert (process.returncode, output) == (os.EX_UNAVAILABLE, b"")
    assert str(port) in errors.decode()


async def test_a_name_that_no_host_can_have_is_an_unavailable_service() -> None:
    """Nobody can listen there: exit 69, and no traceback."""
    async with command("--host", "no..host") as process:
        _output, errors = await asyncio.wait_for(process.communicate(), WAIT_SECONDS_MAX)
    assert process.returncode == 69
    assert errors.startswith(b"emulator: cannot start at no..host port 0: ")


async def test_a_url_that_cannot_be_printed_is_not_said_to_be_an_address_that_cannot_be_had() -> None:
    """Standard output is full: that is what failed, with exit 1."""
    with Path("/dev/full").open("wb") as full:  # noqa: ASYNC230 (a device)
        process = await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name("ssm-status-reporter"),
            "emulator",
            stdout=full,
            stderr=asyncio.subprocess.PIPE,
        )
    _output, errors = await asyncio.wait_for(process.communicate(), WAIT_SECONDS_MAX)
    assert (process.returncode, errors) == (1, b"ssm-status-reporter: [Errno 28] No space left on device\n")


async def test_a_bad_faults_file_is_bad_configuration(tmp_path: Path) -> None:
    """Every error of a faults file is told with its line and key path; the exit code is 78, as for a missing file."""
    faults = tmp_path / "faults.yaml"
    faults.write_text("compare: nothing\nrules: [{latency: 1}]\n", "utf-8")
    missing = tmp_path / "none"
    for path, told in (
        (faults, [f"{faults}:1: compare: ", f"{faults}:2: rules[0].latency: "]),
        (missing, [f"{missing}: cannot be read: No such file or directory"]),
    ):
        async with command("--faults", str(path)) as process:
            output, errors = await asyncio.wait_for(process.communicate(), WAIT_SECONDS_MAX)
        assert (process.returncode, output) == (os.EX_CONFIG, b"")
        lines = errors.decode().splitlines()
        assert len(lines) == len(told)
        for line, start in zip(lines, told, strict=True):
            assert line.startswith(start)
