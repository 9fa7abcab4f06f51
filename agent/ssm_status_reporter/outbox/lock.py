"""One daemon per outbox: a lock on a file beside the database, which also tells who holds it.

The lock is ``flock``'s, so it ends with the process, however that ends. Whoever wants to know only whether the
daemon runs tries a shared lock, which every reader of the file may.
"""

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from ssm_status_reporter.domain.limits import LOCK_BYTES_MAX, LOCK_PAUSE_SECONDS, LOCK_TRIES_MAX
from ssm_status_reporter.outbox.database import DIRECTORY_MODE, FILE_MODE, WRITE_REMEDY, OutboxError


class Holder(msgspec.Struct, frozen=True):
    """The daemon that runs. ``started_at_ms`` is wall time."""

    pid: int
    started_at_ms: int
    steady_zero_ms: int | None = None
    """Its steady time where the machine's monotonic clock is 0; None: an earlier version did not say."""


def lock_path(outbox: Path) -> Path:
    """The lock's file."""
    return outbox.with_name(outbox.name + ".lock")


class OutboxInUseError(OutboxError):
    """Another daemon has this outbox."""


class Lock:
    """Held from construction to `release`; its directory is made if it is missing. Raises `OutboxError`."""

    def __init__(self, outbox: Path, holder: Holder) -> None:
        path = lock_path(outbox)
        try:
            path.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        except OSError as error:
            remedy = "mend that, or set another outbox.path"
            if isinstance(error, PermissionError):
                remedy = "run the daemon as the user that owns this directory, or chown it"
            raise OutboxError(f"{path}: {error.strerror}: {remedy}") from error
        if not _locked(self._descriptor):
            os.close(self._descriptor)
            other = find_holder(outbox)
            who = f"process {other.pid}" if other else "another process"
            raise OutboxInUseError(
                f"{outbox}: {who} already runs as the daemon of this outbox; stop it, or set another outbox.path"
            )
        try:
            os.fchmod(self._descriptor, FILE_MODE)
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, msgspec.json.encode(holder), 0)
        except OSError as error:
            os.close(self._descriptor)
            raise OutboxError(f"{path}: cannot be written ({error.strerror}): {WRITE_REMEDY}") from error

    def release(self) -> None:
        """Let another daemon have the outbox."""
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def find_holder(outbox: Path) -> Holder | None:
    """The daemon that has the outbox, or None when none runs. Needs to read the lock's file only."""
    try:
        descriptor = os.open(lock_path(outbox), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return msgspec.json.decode(os.pread(descriptor, LOCK_BYTES_MAX, 0), type=Holder)
        else:
            return None
    except msgspec.DecodeError:
        return None  # locked this instant and not yet written
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    """Take the lock; a reader that looks whether a daemon runs has it for microseconds, so try more than once."""
    for _ in range(LOCK_TRIES_MAX):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOCK_PAUSE_SECONDS)
        else:
            return True
    return False
