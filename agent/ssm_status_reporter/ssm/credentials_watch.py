"""The files that hold shared credentials, watched: keys that appear or change are used at once, not at the next probe.

Rules:
  * The shared credentials file and the SDK's configuration file: one that is created, rewritten, renamed over or given
    to read, and a directory that appears, are noticed by inotify.
  * Where inotify cannot tell (a directory that may not be read, no watches left), the files are looked at now and
    then: at growing intervals, bounded.
  * A file that is written to without end is tried now and then, not without end.
  * What they hold is not read here: a torn file changes nothing, and what completes it is another change.
"""

import errno
import os
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Final, NamedTuple

import structlog
from asyncinotify import Mask

from ssm_status_reporter.domain.limits import (
    CREDENTIALS_LOOK_MS_MAX,
    CREDENTIALS_LOOK_MS_MIN,
    CREDENTIALS_PAUSE_MS,
)
from ssm_status_reporter.path_watch import PathWatch, Relook
from ssm_status_reporter.ports import Clock
from ssm_status_reporter.ssm.credentials import configuration_file, shared_file

_HINTS: Final = {
    errno.ENOSPC: "raise fs.inotify.max_user_watches",
    errno.EMFILE: "raise fs.inotify.max_user_instances or the limit of open files",
    errno.EACCES: "let the daemon read the directories on the way (hybrid.conf beside the unit)",
}

log = structlog.get_logger()


class _Version(NamedTuple):
    """What tells one state of a file from another, its rights included."""

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


class CredentialsWatch:
    """Calls ``changed`` whenever the files may hold other keys."""

    def __init__(self, clock: Clock, changed: Callable[[], Awaitable[None]]) -> None:
        self._clock = clock
        self._changed = changed
        self._files = (str(shared_file().absolute()), str(configuration_file().absolute()))
        self._seen = self._look()
        self._said: int | None = None
        self._relook = Relook(clock, CREDENTIALS_LOOK_MS_MIN, CREDENTIALS_LOOK_MS_MAX)

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            with ExitStack() as stack:
                watch = self._open(stack)
                seen = self._look()
                if seen != self._seen:
                    changed = [path for path in seen if seen.get(path) != self._seen.get(path)]
                    self._seen = seen
                    self._relook.begin_anew()
                    log.info("shared credentials changed: they are tried at once", files=changed)
                    await self._changed()
                    await self._clock.sleep_until(self._clock.now().steady_ms + CREDENTIALS_PAUSE_MS)
                await self._relook.until_displaced(watch, told=True)

    def _open(self, stack: ExitStack) -> PathWatch | None:
        try:
            watch = stack.enter_context(PathWatch(*self._files, of_themselves=Mask.CLOSE_WRITE | Mask.ATTRIB))
        except OSError as error:
            self._say_unwatched(error.errno)
            return None
        self._say_unwatched(None if watch.sees_all else errno.EACCES)
        return watch

    def _look(self) -> dict[str, _Version | None]:
        return {path: _version(path) for path in self._files}

    def _say_unwatched(self, number: int | None) -> None:
        if number is not None and number != self._said:
            log.warning(
                "shared credentials cannot be watched: they are looked at now and then",
                files=self._files,
                error=os.strerror(number),
                hint=_HINTS.get(number, "it will be tried again"),
            )
        self._said = number


def _version(path: str) -> _Version | None:
    """The state of the file that the name leads to; None: there is none, or it may not be reached."""
    try:
        found = os.stat(path)  # noqa: PTH116 - a string throughout
    except OSError:
        return None
    return _Version(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
