"""The outbox on real files: what it survives, whom it refuses, what it costs (rules 1, 12 and 13)."""

import asyncio
import os
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Final

import pytest
import structlog
from domain_support import (
    MINUTE,
    NODE,
    POLICY,
    PROBLEM,
    START_MS,
    WEB,
    ManualClock,
    WatchedCommitter,
    contents,
    outbox_at,
    quietly,
    report,
    result,
)

from ssm_status_reporter.domain.association import Association
from ssm_status_reporter.domain.entry import Count
from ssm_status_reporter.domain.outcome import Delivered, Refused
from ssm_status_reporter.domain.report import Report
from ssm_status_reporter.domain.result import Result
from ssm_status_reporter.domain.sighting import Sighting
from ssm_status_reporter.domain.time import Now
from ssm_status_reporter.outbox.database import (
    FILE_MODE,
    Migration,
    OutboxTooNewError,
    migrations,
)
from ssm_status_reporter.outbox.letters import discard, letters, retry
from ssm_status_reporter.outbox.lock import Holder, Lock, OutboxInUseError, find_holder, lock_path
from ssm_status_reporter.outbox.snapshot import snapshot
from ssm_status_reporter.outbox.sqlite import SqliteOutbox

SECONDS_MAX: Final = 20.0
NOW: Final = Now(START_MS, START_MS)
MIB: Final = 1024 * 1024


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "outbox.db"


@asynccontextmanager
async def outbox(path: Path) -> AsyncIterator[SqliteOutbox]:
    """The outbox of a daemon that runs."""
    _, opened = outbox_at(path, ManualClock(), lambda: 0.5)
    async with asyncio.timeout(SECONDS_MAX):
        await opened.recover()
    try:
        yield opened
    finally:
        await opened.close()


def documents(count: int) -> list[Result]:
    """So many associations, one result each."""
    return [result("Failed", association=Association(NODE, f"Document-{number}")) for number in range(count)]
