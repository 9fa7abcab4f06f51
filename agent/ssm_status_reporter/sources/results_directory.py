"""The results directory: files that runners write, each a result.

Rules (numbers as in ARCHITECTURE.md):
  1. A file is removed only after the commit: claimed by a rename into ``.taken/``, committed, then unlinked.
     ``.taken/`` is looked through at every start.
  5. With ``after_accept: keep`` a file stays, and its sighting is remembered in the commit of its result.
 12. Bounded: files in flight, names in memory, refused files kept; meeting a bound waits or scans again.
  * No debounce and no waiting to fill a batch: what is there now is one commit, and while that commit is under
    way the next files are read.
  * A directory that is missing, replaced or gone is said once, and watched for until it is there.

What one file goes through is in ``spool_reader`` until its commit, and in ``spool_removal`` after it; what is looked at
when, in ``spool_session``.
"""

import errno
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Final

import structlog

from ssm_status_reporter.config import AfterAccept
from ssm_status_reporter.domain.limits import SPOOL_RETRY_MS_MAX, SPOOL_RETRY_MS_MIN
from ssm_status_reporter.path_watch import Relook
from ssm_status_reporter.ports import Clock, Intake
from ssm_status_reporter.sources.seen import KeptFiles
from ssm_status_reporter.sources.spool import Spool
from ssm_status_reporter.sources.spool_reader import SOURCE, Settings
from ssm_status_reporter.sources.spool_session import SpoolSession
from ssm_status_reporter.sources.spool_watch import SpoolWatch

_HINTS: Final = {
    errno.ENOENT: "create it, writable for the group ssm-status-reporter; it will be noticed",
    errno.ENOTDIR: "put a directory there, writable for the group ssm-status-reporter; it will be noticed",
    errno.EACCES: "let the group ssm-status-reporter read, write and search it; it will be tried again",
    errno.EROFS: "make it writable (ReadWritePaths= of the unit); it will be tried again",
    errno.ENOSPC: "make room on the disk, or raise fs.inotify.max_user_watches; it will be tried again",
    errno.EMFILE: "raise fs.inotify.max_user_instances or the limit of open files; it will be tried again",
}

log = structlog.get_logger()


class ResultsDirectory:
    """The source ``results_directory``; implements `ports.Source`."""

    def __init__(self, settings: Settings, clock: Clock, kept: KeptFiles) -> None:
        self.name = SOURCE
        self._settings = settings
        self._clock = clock
        self._kept = kept
        self._said: int | None = None
        self._relook = Relook(clock, SPOOL_RETRY_MS_MIN, SPOOL_RETRY_MS_MAX)

    async def run(self, intake: Intake, watching: Callable[[], None]) -> None:
        """Watch and hand in until cancelled. What is not committed soon after that is met at the next start."""
        keeps = self._settings.after_accept is AfterAccept.KEEP
        sightings = dict(await self._kept.known()) if keeps else {}
        while True:
            with ExitStack() as stack:
                watch = None
                try:
                    watch = stack.enter_context(SpoolWatch(self._settings.path))
                    spool = stack.enter_context(closing(self._open(watch)))
                    session = SpoolSession(
                        self._settings, self._clock, self._kept, intake, sightings, spool, watch
                    )
                    session.recover()
                except OSError as error:
                    self._say_unusable(error)
                    watching()
                    # Not even that it is there is always an event: its file system may be mounted.
                    await self._relook.until_displaced(watch, told=False)
                    continue
                self._said = None
                self._relook.begin_anew()
                log.info("watching the results directory", path=self._settings.path)
                watching()
                await session.serve()

    def _open(self, watch: SpoolWatch) -> Spool:
        """The directory, watched. Raises OSError when it cannot be used."""
        path = self._settings.path
        spool = Spool(path, self._settings.max_file_size_bytes)
        try:
            if self._settings.after_accept is AfterAccept.KEEP:
                watch.watch_departures()
            else:
                watch.watch_spool()
                spool.make_taken()
                watch.watch_taken()
            if not spool.is_at(path):  # replaced between the opening and the watch
                raise FileNotFoundError(errno.ENOENT, "replaced just now", path)
        except OSError:
            spool.close()
            raise
        return spool

    def _say_unusable(self, error: OSError) -> None:
        if error.errno == self._said:
            return
        self._said = error.errno
        log.warning(
            "the results directory cannot be used",
            path=self._settings.path,
            error=error.strerror,
            hint=_HINTS.get(error.errno or 0, "it will be tried again"),
        )
