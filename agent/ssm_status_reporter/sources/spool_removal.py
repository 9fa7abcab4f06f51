"""Removing the claimed files whose results are committed. No waiting.

Rules:
  * A file that was written to after its result was read holds another: it is not removed but read again.
  * What cannot be removed is said once and tried again. Its result is stored: its name is free for the next file,
    which takes its place in ``.taken/``.
"""

from contextlib import suppress

import structlog

from ssm_status_reporter.domain.limits import REMEMBERED_FILES_MAX
from ssm_status_reporter.sources.quoting import printable
from ssm_status_reporter.sources.spool import TAKEN, Place, Spool, Spot, State
from ssm_status_reporter.sources.spool_queue import Held, SpoolQueue
from ssm_status_reporter.sources.spool_reader import Accepted

log = structlog.get_logger()


class SpoolRemoval:
    """Lets go of the accepted files of one open spool. ``path`` is where it is."""

    def __init__(self, path: str, spool: Spool, queue: SpoolQueue) -> None:
        self._taken_path = f"{path}/{TAKEN}"
        self._spool = spool
        self._queue = queue
        self._left: dict[str, State] = {}

    def release(self, accepted: Accepted) -> None:
        """The result is committed: remove the claimed file, and let the next one of its name come."""
        if accepted.claimed is None:
            if accepted.sighting is not None:
                self._queue.free(accepted.name)
            return
        try:
            released = self._spool.release(accepted.name, accepted.claimed)
        except OSError as error:
            self._leave(accepted.name, accepted.claimed, error)
            released = True
        if released:
            self._queue.free(accepted.name)
        else:
            self._read_again(accepted.name)

    @property
    def left_some(self) -> bool:
        """Whether there are files to `remove_left`."""
        return bool(self._left)

    def remove_left(self) -> None:
        """Try again to remove what could not be; what was written to since is due once more."""
        for name, committed in list(self._left.items()):
            with suppress(OSError):
                removed = self._spool.release(name, committed)
                del self._left[name]
                # Held: there is a newer file of that name by now.
                if not removed and not self._queue.is_held(name):
                    self._read_again(name)
        if not self._left:
            log.info("accepted files can be removed again", path=self._taken_path)

    def _read_again(self, name: str) -> None:
        self._queue.hold(name, Held.UNFINISHED)
        self._queue.add(Spot(Place.TAKEN, name))

    def _leave(self, name: str, committed: State, error: OSError) -> None:
        if not self._left:
            log.error(
                "accepted files cannot be removed: their results are stored, and removing them is tried again",
                path=self._taken_path,
                file=printable(name),
                error=error.strerror,
                hint="let this daemon remove files there (no sticky bit)",
            )
        if len(self._left) < REMEMBERED_FILES_MAX:
            self._left[name] = committed
