"""The SSM Agent's state directories as the operations done on them: read only, and no notion of a run.

Rules:
  * A state file is opened once and read through that descriptor for as long as it matters: its final content is
    written in place and the file unlinked within 0.1 to 6 ms, and only a descriptor still reads it then.
  * What is not a regular file is never opened or followed.
  * The calls block. They are made on the event loop all the same: each takes microseconds.
"""

import os
import stat
from pathlib import Path
from typing import Final, Self

from ssm_status_reporter.domain.limits import AGENT_STATE_BYTES_MAX

_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_OPEN_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class StateFile:
    """One state file, open. To be closed."""

    def __init__(self, descriptor: int, inode: int) -> None:
        self._descriptor = descriptor
        self.inode = inode

    def read(self) -> bytes | None:
        """What it holds now, which may be empty or cut; None when it is too large. Raises OSError."""
        size = os.fstat(self._descriptor).st_size
        if size > AGENT_STATE_BYTES_MAX:
            return None
        pieces: list[bytes] = []
        length = 0
        while piece := os.pread(self._descriptor, size + 1, length):  # one more than there was: it may be growing
            pieces.append(piece)
            length += len(piece)
            if length > AGENT_STATE_BYTES_MAX:
                return None
            if length == size:
                break
        return b"".join(pieces)

    def close(self) -> None:
        """Release the descriptor."""
        os.close(self._descriptor)


class StateDirectory:
    """One directory of state files, open. Operations raise OSError for what the file system does not do."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = os.open(path, _OPEN_DIRECTORY)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    @property
    def is_in_place(self) -> bool:
        """Whether its path still leads to this very directory."""
        try:
            there = Path(self._path).stat()
        except OSError:
            return False
        return os.path.samestat(there, os.fstat(self._descriptor))

    def names(self) -> list[str]:
        """Every name in it, in the order of a run's beginning as far as names tell."""
        return sorted(os.listdir(self._descriptor))  # noqa: PTH208 - of a descriptor

    def inode(self, name: str) -> int | None:
        """The inode of the regular file of that name; None when there is none."""
        try:
            status = os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return status.st_ino if stat.S_ISREG(status.st_mode) else None

    def has(self, name: str) -> bool:
        """Whether there is a regular file of that name."""
        return self.inode(name) is not None

    def open(self, name: str) -> StateFile | None:
        """The regular file of that name; None when there is none (any more)."""
        if not self.has(name):
            return None
        try:
            descriptor = os.open(name, _OPEN_FILE, dir_fd=self._descriptor)
        except FileNotFoundError:
            return None
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):  # replaced between the look and the open
            os.close(descriptor)
            return None
        return StateFile(descriptor, status.st_ino)
