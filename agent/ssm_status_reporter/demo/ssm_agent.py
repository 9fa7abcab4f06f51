"""The SSM Agent of the demo: one association run, played on real state files as the agent keeps them.

Rules:
  * A state file is written in ``pending``, renamed to ``current``, rewritten in place while the run goes on, and at
    its end rewritten in place once more and removed at once. In place: truncate, one write, close.
  * The agent reports the run itself, by keys of its own, before that last write; after `TRIES` without an answer it
    drops the status for good. The real one pauses between them.
  * The calls that touch files block, for microseconds.

Source: amazon-ssm-agent 3.3, recorded in the tests.
"""

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from ssm_status_reporter.demo.daemon_process import NODE, REGION
from ssm_status_reporter.ssm.codes import Operation

ACCESS_KEY_ID: Final = "AKIADEMOAGENTDEMO000"
"""The service's ledger tells the agent's calls from the daemon's by it."""
DOCUMENT: Final = "Acme-Backup"
TRIES: Final = 3
STEP: Final = "backup"
REASON: Final = "No space left on device"
MESSAGE: Final = (
    "1 out of 1 plugin processed, 0 success, 1 failed, 0 timedout, 0 skipped. "
    f"\nThe operation {STEP} failed because {REASON}."
)
"""What the agent says itself of a run whose one step failed so."""

_TIMEOUT: Final = aiohttp.ClientTimeout(total=5)
_HEADERS: Final = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": f"AmazonSSM.{Operation.UPDATE}"}


class SsmAgent:
    """One agent with one run, of the association of `DOCUMENT`. ``directory`` is its data directory, made here."""

    def __init__(self, directory: Path, endpoint_url: str) -> None:
        self._endpoint_url = endpoint_url
        self._state = directory / NODE / "document" / "state"
        self._run_id = ""

    def install(self) -> None:
        """Make the directories, as the agent does at its start."""
        for name in ("pending", "current", "completed", "corrupt"):
            (self._state / name).mkdir(mode=0o700, parents=True)

    def begin(self, now: datetime) -> None:
        """Queue the run, and begin it. ``now`` is in UTC."""
        self._run_id = f"{now:%Y-%m-%dT%H-%M-%S}.{now.microsecond // 1000:03}Z"
        queued = self._state / "pending" / self._file.name
        _write_in_place(queued, self._content("InProgress", {"status": ""}))
        queued.rename(self._file)

    def go_on(self) -> None:
        """The worker has begun its step."""
        _write_in_place(self._file, self._content("InProgress", {"status": "InProgress"}))

    def is_held_by(self, pid: int) -> bool:
        """Whether that process has the run's file open: it sees the end, however soon the file is removed."""
        file = self._file.stat()
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                if os.path.samestat(descriptor.stat(), file):
                    return True
        return False

    async def report(self, status: str, message: str, now: datetime) -> bool:
        """One call of the agent's own; whether the service took it."""
        described = {"Name": status, "Message": message, "Date": now.timestamp()}
        body = msgspec.json.encode(
            {"InstanceId": NODE, "Name": DOCUMENT, "AssociationStatus": described},
        )
        request = AWSRequest("POST", self._endpoint_url, dict(_HEADERS), data=body)
        SigV4Auth(Credentials(ACCESS_KEY_ID, "made-up"), "ssm", REGION).add_auth(request)
        try:
            async with (
                aiohttp.ClientSession(timeout=_TIMEOUT) as http,
                http.post(self._endpoint_url, data=body, headers=dict(request.headers)) as reply,
            ):
                return reply.ok
        except (aiohttp.ClientError, TimeoutError):
            return False

    def end(self, now: datetime) -> float:
        """Write how the run ended, and remove the file; milliseconds between the two. ``now`` is in UTC."""
        ended = {
            "status": "Failed",
            "code": 2,
            "endDateTime": now.isoformat().replace("+00:00", "Z"),
            "standardError": REASON,
        }
        content = self._content("Failed", ended)
        _write_in_place(self._file, content)
        written = time.perf_counter()
        self._file.unlink()
        return (time.perf_counter() - written) * 1000

    @property
    def _file(self) -> Path:
        return self._state / "current" / f"{DOCUMENT}.{self._run_id}"

    def _content(self, status: str, result: Mapping[str, Any]) -> bytes:
        """The state file: the members by which a run is told, and some of those around them."""
        step = {
            "Id": STEP,
            "Name": "aws:runShellScript",
            "Configuration": {"Properties": {"runCommand": ["tar -cf /mnt/etc.tar /etc"]}, "PluginID": STEP},
            "Result": {"pluginID": STEP, "pluginName": "aws:runShellScript", **result},
        }
        information = {
            "DocumentID": self._file.name,
            "AssociationID": DOCUMENT,
            "InstanceID": NODE,
            "RunID": self._run_id,
            "DocumentName": DOCUMENT,
            "DocumentVersion": "",
            "DocumentStatus": status,
            "RunCount": 0,
        }
        state = {
            "DocumentInformation": information,
            "DocumentType": "Association",
            "SchemaVersion": "2.2",
            "InstancePluginsInformation": [step],
        }
        return msgspec.json.format(msgspec.json.encode(state), indent=2)


def _write_in_place(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)
