"""The memory of files that stay where they are (``after_accept: keep``): what has not changed is no result.

The memory is durable and belongs to whoever commits results, so that a sighting is remembered in the very
commit that stores its result: a crash between the two would otherwise lose the result or repeat it.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, Protocol, Self

from ssm_status_reporter.domain.result import Result
from ssm_status_reporter.sources.spool import Content

DIGEST_BYTES: Final = 16
_INODE_BITS: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Sighting:
    """One state of one file. Two that are equal are the same result."""

    name: bytes
    """The file's name as the file system holds it, which need not be UTF-8."""
    inode: int
    """In 63 bits: what stores it may know only signed integers."""
    mtime_ns: int
    size_bytes: int
    digest: bytes
    """BLAKE2b of the content, 16 bytes: a rewrite within one tick of the file system's clock shows only here."""

    @classmethod
    def of(cls, content: Content) -> Self:
        """The sighting of a file's content."""
        state = content.state
        digest = blake2b(content.payload, digest_size=DIGEST_BYTES).digest()
        return cls(name_bytes(content.name), state.inode & _INODE_BITS, state.mtime_ns, state.size_bytes, digest)


def name_bytes(name: str) -> bytes:
    """A file's name as the file system holds it."""
    return os.fsencode(name)


class KeptFiles(Protocol):
    """Implemented by the outbox, which also implements `ports.Intake`."""

    async def known(self) -> Mapping[bytes, Sighting]:
        """Every remembered sighting, by its name. Asked once, when the source starts."""
        ...

    async def observe_kept(self, sighted: Sequence[tuple[Result, Sighting]]) -> None:
        """As `Intake.observe`, and each sighting replaces the remembered one of its name in the same commit."""
        ...

    async def forget(self, names: Collection[bytes]) -> None:
        """Files that are gone."""
        ...
