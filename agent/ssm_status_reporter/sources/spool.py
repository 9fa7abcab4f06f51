"""The results directory as the operations done on it. No decisions, no waiting, no notion of a result.

Rules:
  * Every operation is relative to a descriptor of the directory: one that is put in its place meanwhile is
    another spool.
  * What is not a regular file is never opened, followed or renamed: it is looked at first, and again through
    the descriptor.
  * A claim is a rename into ``.taken/``, under the file's own name, which makes the original name recoverable.
    The caller never holds two claims of one name.
  * The calls block. They are made on the event loop all the same: on a local file system each takes
    microseconds, and a thread would take longer to wake.
"""

import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final, NamedTuple

TAKEN: Final = ".taken"
REJECTED: Final = "rejected"
ENDING: Final = ".json"

_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_TAKEN_MODE: Final = 0o700
_REJECTED_MODE: Final = 0o750
_READ_BYTES: Final = 64 * 1024
_RENAME_NOREPLACE: Final = 1


class Place(Enum):
    """Where in the spool a file lies."""

    SPOOL = "spool"
    TAKEN = TAKEN


class Spot(NamedTuple):
    """One file name in one place."""

    place: Place
    name: str


ScanEntry = tuple[int, int, str]
"""mtime_ns, ctime_ns and name of a file: sorted, the order in which the files were written."""


class State(NamedTuple):
    """What tells one state of a file from another without reading it."""

    inode: int
    mtime_ns: int
    ctime_ns: int
    size_bytes: int

    def same_content_as(self, other: "State") -> bool:
        """Whether nothing was written in between. A rename, a chmod and another link change ctime alone."""
        return (self.inode, self.mtime_ns, self.size_bytes) == (other.inode, other.mtime_ns, other.size_bytes)


@dataclass(frozen=True, slots=True)
class Content:
    """A regular file that was read in full; its size is that of ``payload``."""

    name: str
    state: State
    payload: bytes


@dataclass(frozen=True, slots=True)
class Oversized:
    """A regular file beyond the bound; not read to its end."""

    state: State


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A regular file that this process may not open."""

    state: State


@dataclass(frozen=True, slots=True)
class Irregular:
    """Not a regular file. ``kind`` says what, in words; of its state only the inode counts."""

    state: State
    kind: str


Look = Content | Oversized | Unreadable | Irregular | None
"""What stands under a name. None: nothing."""


def is_result_name(name: str) -> bool:
    """Whether a file of this name is meant for us."""
    return name.endswith(ENDING) and not name.startswith(".")


class Spool:
    """One results directory, open. Operations raise OSError for what the file system does not do."""

    def __init__(self, path: str, max_file_size_bytes: int) -> None:
        # The path may be, or lead over, a symbolic link: that is the operator's choice.
        self._directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._taken: int | None = None
        self._max_file_size_bytes = max_file_size_bytes

    def close(self) -> None:
        """Release the descriptors."""
        self._close_taken()
        os.close(self._directory)

    def is_at(self, path: str) -> bool:
        """Whether ``path`` leads to this very directory."""
        try:
            there = Path(path).stat()
        except OSError:
            return False
        return os.path.samestat(there, os.fstat(self._directory))

    def scan(self, place: Place) -> Iterator[ScanEntry]:
        """Every result file in a place, in no order."""
        try:
            directory = self._descriptor(place)
        except FileNotFoundError:
            return  # nothing was ever taken
        with os.scandir(directory) as entries:
            for entry in entries:
                if is_result_name(entry.name):
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    yield status.st_mtime_ns, status.st_ctime_ns, entry.name

    def look(self, spot: Spot) -> Look:
        """What stands there, and its content if it is a regular file within the bound."""
        directory = self._descriptor(spot.place)
        try:
            status = os.stat(spot.name, dir_fd=directory, follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode):
                return _irregular(status)
            if status.st_size > self._max_file_size_bytes:
                return Oversized(_state(status))
            descriptor = os.open(spot.name, _OPEN_FILE, dir_fd=directory)
        except FileNotFoundError:
            return None
        except PermissionError:
            return self._unreadable(spot.name, directory)
        try:
            return self._read(descriptor, spot.name)
        finally:
            os.close(descriptor)

    def claim(self, name: str) -> bool:
        """Move the file into ``.taken/``. False: it is gone."""
        try:
            os.rename(name, name, src_dir_fd=self._directory, dst_dir_fd=self.make_taken())
        except FileNotFoundError:
            if not _exists(name, self._directory):
                return False
            self._close_taken()  # .taken/ was removed under us
            os.rename(name, name, src_dir_fd=self._directory, dst_dir_fd=self.make_taken())
        return True

    def claim_again(self, name: str, rejected: int) -> None:
        """Move a refused file back into ``.taken/``. Raises FileExistsError for a claimed one of that name."""
        _rename_noreplace(rejected, self.make_taken(), name)

    def put_back(self, name: str) -> bool:
        """Undo a claim, unless there is a new file of that name by now (False)."""
        try:
            _rename_noreplace(self._descriptor(Place.TAKEN), self._directory, name)
        except FileExistsError:
            return False
        return True

    def release(self, name: str, committed: State) -> bool:
        """Remove a claimed file whose result is committed. False: it was written to since, and stays."""
        directory = self._descriptor(Place.TAKEN)
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if not committed.same_content_as(_state(status)):
                return False
            os.unlink(name, dir_fd=directory)
        except FileNotFoundError:
            pass  # somebody cleaned up; the result is committed
        return True

    def make_taken(self) -> int:
        """A descriptor of ``.taken/``, which is made if it is missing. It stays the spool's."""
        if self._taken is None:
            self._taken = _open_or_make(TAKEN, self._directory, _TAKEN_MODE)
        return self._taken

    def open_rejected(self) -> int:
        """A descriptor of ``rejected/``, which is made if it is missing. The caller closes it."""
        return _open_or_make(REJECTED, self._directory, _REJECTED_MODE)

    def find_rejected(self) -> int | None:
        """As `open_rejected`. None: there is no such directory."""
        try:
            return os.open(REJECTED, _OPEN_DIRECTORY, dir_fd=self._directory)
        except OSError:
            return None  # or something in its place, which is said when a file is refused

    def _descriptor(self, place: Place) -> int:
        if place is Place.SPOOL:
            return self._directory
        if self._taken is None:
            self._taken = os.open(TAKEN, _OPEN_DIRECTORY, dir_fd=self._directory)
        return self._taken

    def _close_taken(self) -> None:
        if self._taken is not None:
            os.close(self._taken)
            self._taken = None

    def _unreadable(self, name: str, directory: int) -> Look:
        """PermissionError comes from the file or from the directory; the latter is not the file's fault."""
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        return Unreadable(_state(status))

    def _read(self, descriptor: int, name: str) -> Look:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):  # it was replaced between the look and the open
            return _irregular(status)
        payload = os.read(descriptor, min(status.st_size, self._max_file_size_bytes) + 1)
        if len(payload) != status.st_size:  # it is being written: read on to its present end
            pieces = [payload]
            while pieces[-1] and sum(map(len, pieces)) <= self._max_file_size_bytes:
                pieces.append(os.read(descriptor, _READ_BYTES))
            payload = b"".join(pieces)
            status = os.fstat(descriptor)
        if len(payload) > self._max_file_size_bytes:
            return Oversized(_state(status))
        return Content(name, _state(status), payload)


def _state(status: os.stat_result) -> State:
    return State(status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)


def _irregular(status: os.stat_result) -> Irregular:
    # A directory's times and size change with what is put into it, which is not ours to follow.
    return Irregular(State(status.st_ino, 0, 0, 0), _kind(status.st_mode))


def _kind(mode: int) -> str:
    for test, kind in (
        (stat.S_ISLNK, "a symbolic link"),
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
    ):
        if test(mode):
            return kind
    return "a device"


def _exists(name: str, directory: int) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _open_or_make(name: str, directory: int, mode: int) -> int:
    try:
        return os.open(name, _OPEN_DIRECTORY, dir_fd=directory)
    except FileNotFoundError:
        os.mkdir(name, mode, dir_fd=directory)
        descriptor = os.open(name, _OPEN_DIRECTORY, dir_fd=directory)
        os.fchmod(descriptor, mode)  # whatever the umask: rejected/ is for people of the group to look into
        return descriptor


def _rename_noreplace(source: int, target: int, name: str) -> None:
    """rename(2) that fails with FileExistsError instead of replacing. The standard library does not offer it."""
    renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    encoded = os.fsencode(name)
    if renameat2(source, encoded, target, encoded, _RENAME_NOREPLACE) == 0:
        return
    error = ctypes.get_errno()
    if error in {errno.EINVAL, errno.ENOSYS}:  # a file system without it: the next best
        if _exists(name, target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
        return
    raise OSError(error, os.strerror(error), name)
