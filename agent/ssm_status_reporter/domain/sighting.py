"""The sighting: one state of one file that stays where it is (``after_accept: keep``).

Two that are equal are the same result, which is then no result at all: nothing has changed.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sighting:
    """A file as it was seen."""

    name: bytes
    """The file's name as the file system holds it, which need not be UTF-8."""
    inode: int
    """In 63 bits: what stores it may know only signed integers."""
    mtime_ns: int
    size_bytes: int
    digest: bytes
    """BLAKE2b of the content, 16 bytes: a rewrite within one tick of the file system's clock shows only here."""
