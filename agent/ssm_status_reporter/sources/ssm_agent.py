"""The SSM Agent's own runs: the final status of each association run, read from the agent's state files.

Rules (numbers as in ARCHITECTURE.md):
  8. The agent reports the same runs itself, before us: the service is asked first.
 12. Bounded: files held open, their size, results waiting, what is remembered; meeting a bound is said.
  * Only reads: the agent's directories are its own.
  * Nothing of a run's configuration, and none of its output, leaves this source.
  * A directory that is missing, replaced or gone is watched for until it is there. Whether its absence is
    complained of is the configuration's word.

What the bytes of a state file mean is in ``agent_run``, what becomes of one file in ``agent_reader``, of one
directory in ``agent_session``. What cannot be seen: a run that is over while this daemon does not run; one whose
agent writes no state file (a legacy association whose document name is an ARN, a failure before execution); one
that begins and ends while the daemon's loop is busy with something else, which is said.
"""

import asyncio
import errno
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import structlog

from ssm_status_reporter.domain.limits import SPOOL_RETRY_MS_MAX, SPOOL_RETRY_MS_MIN
from ssm_status_reporter.path_watch import Relook
from ssm_status_reporter.ports import Clock, Intake
from ssm_status_reporter.sources.agent_handover import Handover
from ssm_status_reporter.sources.agent_reader import Absence, AgentReader, AgentSettings
from ssm_status_reporter.sources.agent_run import SOURCE
from ssm_status_reporter.sources.agent_session import AgentSession
from ssm_status_reporter.sources.agent_watch import AgentWatch

_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR})
"""Reasons whose end is an event."""
_HINTS: Final = {
    errno.EACCES: "give the daemon CAP_DAC_READ_SEARCH, as its unit does; it will be tried again",
    errno.EPERM: "give the daemon CAP_DAC_READ_SEARCH, as its unit does; it will be tried again",
    errno.ENOSPC: "raise fs.inotify.max_user_watches; it will be tried again",
    errno.EMFILE: "raise fs.inotify.max_user_instances or the limit of open files; it will be tried again",
}

log = structlog.get_logger()


class SsmAgent:
    """The source ``ssm_agent``; implements `ports.Source`."""

    def __init__(self, settings: AgentSettings, clock: Clock) -> None:
        self.name = SOURCE
        self._settings = settings
        self._clock = clock
        self._said: int | None = None
        self._relook = Relook(clock, SPOOL_RETRY_MS_MIN, SPOOL_RETRY_MS_MAX)

    async def run(self, intake: Intake, watching: Callable[[], None]) -> None:
        """Watch and hand in until cancelled; what is at hand then is committed first, within a bound."""
        handover = Handover(intake)
        reader = AgentReader(self._settings, self._clock, handover.offer, intake.count_refused)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(handover.run())
                await self._watch(reader, watching)
        except asyncio.CancelledError:
            await handover.finish()
            raise
        finally:
            reader.stop()

    async def _watch(self, reader: AgentReader, watching: Callable[[], None]) -> None:
        path = self._settings.state_path
        while True:
            with ExitStack() as stack:
                watch = None
                try:
                    watch = stack.enter_context(AgentWatch(path))
                    session = AgentSession(path, reader, self._clock, watch, stack)
                    session.begin()
                except OSError as error:
                    self._say_unusable(error)
                    watching()
                    await self._relook.until_displaced(watch, told=error.errno in _ABSENT)
                    continue
                self._said = None
                self._relook.begin_anew()
                log.info("watching the SSM Agent's runs", path=path)
                watching()
                await session.serve()

    def _say_unusable(self, error: OSError) -> None:
        number = errno.ENOENT if error.errno in _ABSENT else error.errno
        if number == self._said:
            return
        self._said = number
        if number == errno.ENOENT:
            self._say_absent()
            return
        log.warning(
            "the SSM Agent's runs cannot be watched",
            path=self._settings.state_path,
            error=error.strerror,
            hint=_HINTS.get(error.errno or 0, "it will be tried again"),
        )

    def _say_absent(self) -> None:
        if self._settings.absence is Absence.COMPLAINED_OF:
            log.warning(
                "the SSM Agent keeps no state of this node's runs here",
                path=self._settings.state_path,
                hint="install and register the agent, or correct sources.ssm_agent.path or node.instance_id; "
                "it will be noticed",
            )
        elif Path(self._settings.path).exists():
            log.info("the SSM Agent keeps no state of this node's runs yet", path=self._settings.state_path)
        else:
            log.debug("no SSM Agent here yet", path=self._settings.path)
