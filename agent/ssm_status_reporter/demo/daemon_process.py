"""The daemon of the demo: the installed program as a process of its own, with an environment of its own.

Rules:
  * Nothing of the caller's environment reaches it but where Python finds its packages: no credentials, no
    proxy, no configuration, no home directory.
  * It is in a session of its own: a Ctrl-C on the terminal reaches the demo alone, which then ends it.
  * Configuration, log and outbox are in the demo's directory, for whoever looks at a demo that failed.
"""

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import yaml

NODE: Final = "i-0123456789abcdef0"
REGION: Final = "eu-west-1"
ACCESS_KEY_ID: Final = "AKIADEMODEMODEMODEMO"
"""The daemon's, by which the service's ledger tells its calls from those of others."""
WINDOW_SECONDS: Final = 1
RATE_PER_SECOND: Final = 20
STOP_SECONDS_MAX: Final = 5.0
"""A daemon with nothing left to do gets so long to end at SIGTERM."""
LOG_LINE_BYTES_MAX: Final = 256 * 1024
LAST_WORDS_CHARS_MAX: Final = 300
_INHERITED: Final = ("PYTHONHOME", "LD_LIBRARY_PATH")
_MODULE_PATH: Final = "PYTHONPATH"


class DemoFailedError(Exception):
    """The demo cannot go on, or did not come out as it should; the message says what and why."""


class Premises:
    """The demo's directory: what is where."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.configuration = directory / "config.yaml"
        self.results = directory / "results"
        self.rejected = self.results / "rejected"
        self.ssm_agent = directory / "ssm"
        self.outbox = directory / "outbox.db"
        self.log = directory / "daemon.log"
        self.ledger = directory / "ledger.jsonl"

    def furnish(self, endpoint_url: str) -> None:
        """Make the results directory and write the configuration: the defaults, with shorter waits.

        There is no SSM Agent yet: its directory appears when the story gets to it.
        """
        self.results.mkdir()
        document = {
            "node": {"instance_id": NODE, "region": REGION},
            "aws": {"endpoint_url": endpoint_url},
            "sources": {
                "results_directory": {"path": str(self.results)},
                "ssm_agent": {"path": str(self.ssm_agent)},
            },
            "debounce": {"window": f"{WINDOW_SECONDS}s"},
            "delivery": {
                "rate": RATE_PER_SECOND,
                "burst": RATE_PER_SECOND,
                "timeout": "1m",  # a slow machine is no failing call; the story has a bound of its own
                "backoff": {"initial": "200ms", "max": "800ms"},
            },
            "outbox": {"path": str(self.outbox)},
            "log": {"level": "debug", "format": "json"},
        }
        self.configuration.write_text(yaml.safe_dump(document, sort_keys=False), "utf-8")


class DaemonProcess:
    """The daemon, from its start to its end."""

    def __init__(self, premises: Premises, process: Process) -> None:
        self._premises = premises
        self._process = process
        self._last_line = ""

    @classmethod
    async def start(cls, premises: Premises) -> "DaemonProcess":
        """Start it. Raises OSError."""
        return cls(premises, await _start(premises, "run", stdout=DEVNULL))

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def lines(self) -> AsyncIterator[bytes]:
        """What it logs, line by line, until it ends; kept in a file as well."""
        if self._process.stderr is None:
            raise RuntimeError("the daemon was started without a pipe for its log")
        with self._premises.log.open("ab", buffering=0) as log:
            async for line in self._process.stderr:
                log.write(line)
                self._last_line = line.decode("utf-8", "replace").strip() or self._last_line
                yield line

    async def last_words(self) -> str:
        """How it ended, once its log has."""
        code = await self._process.wait()
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        return f"{how}; its last line: {self._last_line[:LAST_WORDS_CHARS_MAX] or '(none)'}"

    async def stop(self) -> None:
        """End it as a service manager does. Raises `DemoFailedError` when it does not end, or not with 0."""
        with suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS_MAX):  # not wait_for, as in Stage
                code = await self._process.wait()
        except TimeoutError:
            raise DemoFailedError(f"the daemon did not end within {STOP_SECONDS_MAX:g} s of SIGTERM") from None
        if code != 0:
            raise DemoFailedError(f"the daemon ended {await self.last_words()}")

    async def kill(self) -> None:
        """End it at once, if it still runs."""
        await _kill(self._process)


async def run_command(premises: Premises, *arguments: str) -> bytes:
    """What a command prints when it is called beside the daemon. Raises `DemoFailedError` if it fails."""
    process = await _start(premises, *arguments, stdout=PIPE)
    try:
        output, errors = await process.communicate()
    finally:
        await _kill(process)
    if process.returncode != 0:
        text = errors.decode("utf-8", "replace").strip()[-LAST_WORDS_CHARS_MAX:]
        raise DemoFailedError(f"{' '.join(arguments)}: exit code {process.returncode}: {text}")
    return output


async def _start(premises: Premises, *arguments: str, stdout: int) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "ssm_status_reporter",
        "--config",
        str(premises.configuration),
        *arguments,
        stdin=DEVNULL,
        stdout=stdout,
        stderr=PIPE,
        cwd=premises.directory,
        env=_environment(premises),
        start_new_session=True,
        limit=LOG_LINE_BYTES_MAX,
    )


async def _kill(process: Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


def _environment(premises: Premises) -> dict[str, str]:
    own = {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
        "AWS_SECRET_ACCESS_KEY": "made-up",
        "AWS_EC2_METADATA_DISABLED": "true",
        "HOME": str(premises.directory),
        "PATH": os.defpath,
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    # Relative to the caller's working directory, which is not the daemon's.
    places = [str(Path(place).absolute()) for place in os.environ.get(_MODULE_PATH, "").split(os.pathsep) if place]
    return own | inherited | ({_MODULE_PATH: os.pathsep.join(places)} if places else {})
