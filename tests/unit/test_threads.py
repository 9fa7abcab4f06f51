"""Threads in which something blocks, and the end of a process that has some."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

SECONDS_MAX: Final = 120
_PROGRAM: Final = """\
import threading
from ssm_status_reporter.host.threads import DispensableThreads
threads = DispensableThreads()
threads.submit(threading.Event().wait)
print("said")
threads.leave(7)
"""


def test_a_process_ends_although_something_blocks_and_its_output_cannot_be_written() -> None:
    """On a full disk, too, a stop waits for nobody, and its exit code is its own."""
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    command = [sys.executable, "-c", _PROGRAM]
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(command, env=buffered, stdout=full, check=False, timeout=SECONDS_MAX)
    assert ended.returncode == 7
