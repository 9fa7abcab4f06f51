"""The file through which a command that changed the outbox wakes the daemon (`letters.wake_path`), watched.

Rules:
  * Its directory may be removed and made anew, as the outbox itself is: it is watched for on all of its way.
  * Where inotify cannot tell (no instances left, a directory that may not be read), the reporter looks for itself now
    and then: commands are an addition, and keep no status from being delivered.
"""

import errno
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import structlog
from asyncinotify import Mask

from ssm_status_reporter.domain.limits import COMMANDS_LOOK_MS
from ssm_status_reporter.outbox.letters import wake_path
from ssm_status_reporter.path_watch import PathWatch, Relook
from ssm_status_reporter.ports import Clock

_HINTS: Final = {
    errno.ENOSPC: "raise fs.inotify.max_user_watches",
    errno.EMFILE: "raise fs.inotify.max_user_instances or the limit of open files",
}

log = structlog.get_logger()


class WakeWatch:
    """Calls ``wake`` whenever a command may have changed the outbox."""

    def __init__(self, outbox: Path, clock: Clock, wake: Callable[[], None]) -> None:
        self._path = str(wake_path(outbox.absolute()))
        self._wake = wake
        self._relook = Relook(clock, COMMANDS_LOOK_MS, COMMANDS_LOOK_MS)
        self._said: int | None = None

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            with ExitStack() as stack:
                watch = self._open(stack)
                self._wake()  # after the watch is set: what came before it is looked for now
                await self._relook.until_displaced(watch, told=True)

    def _open(self, stack: ExitStack) -> PathWatch | None:
        try:
            watch = stack.enter_context(PathWatch(self._path, of_themselves=Mask.CLOSE_WRITE))
        except OSError as error:
            if error.errno != self._said:
                log.warning(
                    "commands cannot wake the daemon: it looks for what they changed now and then",
                    path=self._path,
                    error=error.strerror,
                    hint=_HINTS.get(error.errno or 0, "it will be tried again"),
                )
            self._said = error.errno
            return None
        self._said = None
        return watch
