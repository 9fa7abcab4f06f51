"""Refused files: moved, unchanged, to ``rejected/`` beside a text that says why.

Rules:
  * ``x.json`` lies beside ``x.json.error``, and the text is there first. A name so long that ``.error`` does not
    fit behind it gets a text under a shortened name with a digest.
  * A later refused file of the same name takes the place of the earlier.
  * Bounded: beyond `REJECTED_FILES_MAX` the oldest go first, by the time they came here (a rename sets ctime).
  * No text is waited for until the disk has it: bad files would make everybody wait. A file whose text a power
    loss emptied or cut is judged anew at the start.
"""

import os
import stat
from contextlib import suppress
from hashlib import blake2b
from typing import Final

from ssm_status_reporter.domain.limits import REJECTED_FILES_MAX
from ssm_status_reporter.domain.result import Refusal
from ssm_status_reporter.sources.spool import Spool, is_result_name

ERROR_ENDING: Final = ".error"
_NAME_BYTES_MAX: Final = 255
_DIGEST_BYTES: Final = 8
_ERROR_MODE: Final = 0o640
_DRAFT: Final = ".error"
_OPEN_DRAFT: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_TEXT: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_TEXT_END: Final = "\n"


def error_name(name: str) -> str:
    """The name of the text beside a refused file."""
    encoded = os.fsencode(name)
    if len(encoded) + len(ERROR_ENDING) <= _NAME_BYTES_MAX:
        return name + ERROR_ENDING
    mark = f"-{blake2b(encoded, digest_size=_DIGEST_BYTES).hexdigest()}{ERROR_ENDING}"
    return os.fsdecode(encoded[: _NAME_BYTES_MAX - len(mark)]) + mark


class Rejected:
    """The ``rejected/`` of one spool. Remembers what lies there as long as nobody else changes it."""

    def __init__(self, spool: Spool, files_max: int = REJECTED_FILES_MAX) -> None:
        self._spool = spool
        self._files_max = files_max
        self._oldest_first: dict[str, None] = {}
        self._left_as: tuple[int, int] | None = None

    def add(self, name: str, refusal: Refusal) -> int:
        """Move a claimed file here. Returns how many earlier ones went. Raises OSError; then it is not moved."""
        directory = self._spool.open_rejected()
        try:
            self._recall(directory)
            removed = self._evict(directory, self._files_max - (name not in self._oldest_first))
            replaced = name in self._oldest_first
            _write(error_name(name), f"{refusal}{_TEXT_END}", directory)
            try:
                os.rename(name, name, src_dir_fd=self._spool.make_taken(), dst_dir_fd=directory)
            except OSError:
                if not replaced:
                    _unlink(error_name(name), directory)
                raise
            self._oldest_first.pop(name, None)
            self._oldest_first[name] = None
            self._left_as = _identity(directory)
            return removed + replaced
        finally:
            os.close(directory)

    def take_back(self) -> int:
        """Claim again the files whose texts lack their end. Returns how many: those that cannot be moved stay."""
        directory = self._spool.find_rejected()
        if directory is None:
            return 0
        moved = 0
        try:
            for name in filter(is_result_name, os.listdir(directory)):  # noqa: PTH208 (of a descriptor)
                if _is_cut(error_name(name), directory):
                    with suppress(OSError):
                        self._spool.claim_again(name, directory)
                        moved += 1
                        _unlink(error_name(name), directory)
        finally:
            os.close(directory)
        return moved

    def _recall(self, directory: int) -> None:
        """Look again if somebody else was here."""
        if _identity(directory) == self._left_as:
            return
        arrived: dict[str, int] = {}
        with os.scandir(directory) as entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if stat.S_ISREG(status.st_mode) and entry.name != _DRAFT:
                    # A text without its file counts too: otherwise those could pile up.
                    name = entry.name.removesuffix(ERROR_ENDING)
                    arrived[name] = max(status.st_ctime_ns, arrived.get(name, 0))
        self._oldest_first = dict.fromkeys(sorted(arrived, key=lambda name: (arrived[name], name)))

    def _evict(self, directory: int, files_max: int) -> int:
        """Remove the oldest until there are at most so many. Returns how many went."""
        excess = max(0, len(self._oldest_first) - files_max)
        for name in list(self._oldest_first)[:excess]:
            _unlink(name, directory)
            _unlink(error_name(name), directory)
            del self._oldest_first[name]
        return excess


def _write(name: str, text: str, directory: int) -> None:
    """Write the text, whole or not at all, whatever stood under the name."""
    _unlink(_DRAFT, directory)
    descriptor = os.open(_DRAFT, _OPEN_DRAFT, _ERROR_MODE, dir_fd=directory)
    try:
        os.fchmod(descriptor, _ERROR_MODE)  # whatever the umask
        os.write(descriptor, text.encode("utf-8", "backslashreplace"))
    finally:
        os.close(descriptor)
    os.rename(_DRAFT, name, src_dir_fd=directory, dst_dir_fd=directory)


def _is_cut(text: str, directory: int) -> bool:
    """Whether the text is there without its end. One that is not there was removed by somebody."""
    try:
        descriptor = os.open(text, _OPEN_TEXT, dir_fd=directory)
    except OSError:
        return False
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return False
        return os.pread(descriptor, 1, max(0, status.st_size - 1)) != _TEXT_END.encode()
    finally:
        os.close(descriptor)


def _unlink(name: str, directory: int) -> None:
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return


def _identity(directory: int) -> tuple[int, int]:
    status = os.fstat(directory)
    return status.st_ino, status.st_mtime_ns
