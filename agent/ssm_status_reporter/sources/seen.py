"""The memory of files that stay where they are (``after_accept: keep``): what has not changed is no result.

The memory is durable and belongs to whoever commits results, so that a sighting is remembered in the very
commit that stores its result: a crash between the two would otherwise lose the result or repeat it.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from hashlib import blake2b
from typing import Final, Protocol

from ssm_status_reporter.domain.result import Result
from ssm_status_reporter.domain.sighting import Sighting
from ssm_status_reporter.sources.spool import Content

DIGEST_BYTES: Final = 16
_INODE_BITS: Final = (1 << 63) - 1


def sighting(content: Content) -> Sighting:
    """The sighting of a file's content."""
    state = content.state
    digest = blake2b(content.payload, digest_size=DIGEST_BYTES).digest()
    return Sighting(name_bytes(content.name), state.inode & _INODE_BITS, state.mtime_ns, state.size_bytes, digest)


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
