"""Handing the SSM Agent's results to the outbox, without keeping whoever found them waiting.

Rules:
  * Results wait in memory until they are committed: their files may be gone already.
  * What is there now is one commit; what comes meanwhile is the next.
  * Bounded: beyond `AGENT_RESULTS_WAITING_MAX` the oldest goes, which is said. An outbox keeps the newest anyway.
"""

import asyncio
from collections import deque

import structlog

from ssm_status_reporter.domain.limits import AGENT_RESULTS_WAITING_MAX, AGENT_STOP_SECONDS_MAX
from ssm_status_reporter.domain.result import Result
from ssm_status_reporter.ports import Intake

log = structlog.get_logger()


class Handover:
    """Results on their way into one intake."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._waiting: deque[Result] = deque()
        self._offered = asyncio.Event()
        self._commit: asyncio.Future[None] | None = None

    def offer(self, result: Result) -> None:
        """Hand in as soon as may be."""
        if len(self._waiting) == AGENT_RESULTS_WAITING_MAX:
            lost = self._waiting.popleft()
            log.error(
                "the outbox takes nothing, and too many results of the SSM Agent wait: the oldest is dropped",
                association=str(lost.association),
                waiting=AGENT_RESULTS_WAITING_MAX,
                hint="make room on the outbox's disk",
            )
        self._waiting.append(result)
        self._offered.set()

    async def run(self) -> None:
        """Hand in until cancelled; a commit that is under way then goes on."""
        while True:
            await self._offered.wait()
            self._offered.clear()
            while self._waiting:
                await asyncio.shield(self._begin())

    async def finish(self) -> None:
        """Hand in the rest, within `AGENT_STOP_SECONDS_MAX`; for when `run` was cancelled."""
        # Not asyncio.timeout: in a task that was cancelled before, it raises CancelledError up to Python 3.11.2.
        rest = asyncio.ensure_future(self._hand_in_the_rest())
        done, _ = await asyncio.wait({rest}, timeout=AGENT_STOP_SECONDS_MAX)
        if not done:
            rest.cancel()
            log.error("stopping before the outbox took all results of the SSM Agent")
        else:
            rest.result()

    async def _hand_in_the_rest(self) -> None:
        if self._commit is not None:
            await self._commit
        if self._waiting:
            await self._begin()

    def _begin(self) -> "asyncio.Future[None]":
        """One commit of what waits."""
        batch = list(self._waiting)
        self._waiting.clear()
        self._commit = asyncio.ensure_future(self._intake.observe(batch))
        return self._commit
