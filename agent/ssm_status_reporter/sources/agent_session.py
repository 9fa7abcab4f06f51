"""The SSM Agent's state directories from the first scan until they are gone: what is held open, read, handed in.

Rules:
  * A run is held open from the first sight of its file, in ``pending`` or ``current``, until the file has gone, and
    is read once more then: that last read decides.
  * Torn contents wait for the next event. Only where there is none any more is it said that a status is not known.
  * A final status is handed in when it is seen, and once: what says the same again (the last read, a scan, the
    agent's restart) is no news. Results wait in memory until the outbox has them, while events are followed on.
  * Bounded: the runs held, the results waiting, the final runs remembered. Meeting a bound is said.
  * At a stop, what can be read now is read and committed, within `AGENT_STOP_SECONDS_MAX`: its file may be gone.
"""

import asyncio
from collections import deque
from contextlib import ExitStack
from typing import Final

import structlog

from ssm_status_reporter.domain.limits import (
    AGENT_RESULTS_WAITING_MAX,
    AGENT_RUNS_HELD_MAX,
    AGENT_STOP_SECONDS_MAX,
    SPOOL_RETRY_MS_MAX,
    SPOOL_RETRY_MS_MIN,
)
from ssm_status_reporter.domain.result import Result
from ssm_status_reporter.ports import Clock, Intake
from ssm_status_reporter.sources.agent_reader import AgentReader
from ssm_status_reporter.sources.agent_state import StateDirectory
from ssm_status_reporter.sources.agent_watch import AgentWatch, Change, Place, Turn
from ssm_status_reporter.sources.quoting import printable

REMEDY: Final = "give the daemon CAP_DAC_READ_SEARCH, as its unit does; it will be tried again"

log = structlog.get_logger()


class AgentSession:
    """Serves one state directory until it is gone from its path."""

    def __init__(self, reader: AgentReader, clock: Clock, intake: Intake, watch: AgentWatch, path: str) -> None:
        self._reader = reader
        self._clock = clock
        self._intake = intake
        self._watch = watch
        self._path = path
        self._stack = ExitStack()
        self._places: dict[Place, StateDirectory] = {}
        self._wake = asyncio.Event()
        self._offered = asyncio.Event()
        self._waiting: deque[Result] = deque()
        self._commit: asyncio.Future[None] | None = None
        self._retry: asyncio.Task[None] | None = None
        self._retry_ms = SPOOL_RETRY_MS_MIN
        self._troubles_said: set[int | None] = set()
        self._trouble: OSError | None = None
