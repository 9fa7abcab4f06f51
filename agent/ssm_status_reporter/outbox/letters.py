"""Dead letters, as a command handles them: beside a running daemon or without one.

Rules:
  * A change is one transaction on the daemon's own file; a running daemon is then woken through a file beside
    it (`wake_path`), which it watches. What it could not be woken for is not done.
  * A letter that is tried again never overwrites something newer; the domain decides (`settlement.revived`).
  * The command does not leave files behind that the daemon's user could not write: it acts as their owner.
"""

import errno
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ssm_status_reporter.domain.entry import Count, Policy
from ssm_status_reporter.domain.settlement import revived
from ssm_status_reporter.domain.time import Now
from ssm_status_reporter.outbox.database import (
    FILE_MODE,
    WRITE_REMEDY,
    OutboxError,
    is_broken,
    migrations,
    opened,
)
from ssm_status_reporter.outbox.dead_letters import DeadLetter
from ssm_status_reporter.outbox.snapshot import DAMAGED, readable, reader
from ssm_status_reporter.outbox.tables import FACT_COMPARISON, Tables

SOURCE = "dead-letters"


class Fate(StrEnum):
    """What became of a letter that was to be tried again."""

    SENT_AGAIN = "will be sent again"
    NEWER = "not sent: something newer is known of that association"
    HELD = "not sent: the service holds that status"


@dataclass(frozen=True, slots=True)
class Tried:
    """A letter and its fate."""

    letter: DeadLetter
    fate: Fate


def wake_path(outbox: Path) -> Path:
    """The file whose change wakes a running daemon."""
    return outbox.with_name(outbox.name + ".wake")


def letters(outbox: Path) -> list[DeadLetter]:
    """All dead letters, oldest first. Raises `OutboxError` when the outbox cannot be read."""
    with readable(outbox):
        if not outbox.exists():
            return []
        with closing(reader(outbox)) as connection:
            return Tables(connection).dead_letters.all()


def learnt_comparison(outbox: Path) -> str | None:
    """What the daemon learnt of the service's comparison. Raises as `letters`."""
    with readable(outbox):
        if not outbox.exists():
            return None
        with closing(reader(outbox)) as connection:
            return Tables(connection).fact(FACT_COMPARISON)


def retry(outbox: Path, ids: Sequence[int], now: Now, policy: Policy) -> list[Tried]:
    """Put the letters back to be delivered. Unknown ids are passed over: compare with what is returned."""
    tried = []
    with _writing(outbox) as tables:
        # The newest first: older ones of its association are stale then.
        for letter_id in sorted(ids, reverse=True):
            letter = tables.dead_letters.find(letter_id)
            if letter is None:
                continue
            result = revived(tables.entry(letter.association), letter.report, SOURCE, now, policy)
            tables.store(result.entry)
            tables.count(result.counts)
            tables.dead_letters.remove(letter_id)
            ends = [name for name, change in result.counts if change > 0]
            if Count.SUPPRESSED_STALE in ends:
                fate = Fate.NEWER
            elif Count.SUPPRESSED_UNCHANGED in ends:
                fate = Fate.HELD
            else:
                fate = Fate.SENT_AGAIN
            tried.append(Tried(letter, fate))
    return tried[::-1]


def discard(outbox: Path, ids: Sequence[int]) -> list[DeadLetter]:
    """Drop the letters for good. Unknown ids are passed over: compare with what is returned."""
    dropped = []
    with _writing(outbox) as tables:
        for letter_id in ids:
            letter = tables.dead_letters.find(letter_id)
            if letter is None:
                continue
            tables.dead_letters.remove(letter_id)
            entry = tables.entry(letter.association)
            if entry.dead is not None and entry.dead.report == letter.report:
                forgotten = entry.without_dead()
                if forgotten.is_blank:
                    tables.remove(letter.association)
                else:
                    tables.store(forgotten)
            dropped.append(letter)
    return dropped


@contextmanager
def _writing(outbox: Path) -> Iterator[Tables]:
    versions = migrations()  # read as who we are: the owner need not be able to read the program
    try:
        if not outbox.exists():
            raise OutboxError(f"{outbox}: there is no outbox yet, so there are no dead letters")
        with _as_owner(outbox), _waking(outbox), closing(opened(outbox, versions)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            tables = Tables(connection)
            yield tables
            tables.flush_counts()
            connection.execute("COMMIT")
    except (sqlite3.Error, OSError) as error:
        remedy = f"{WRITE_REMEDY}; then try again" if os.geteuid() == 0 else "run as root"
        if isinstance(error, sqlite3.Error) and is_broken(error):
            remedy = DAMAGED
        raise OutboxError(f"{outbox}: cannot be written ({error}): {remedy}") from error


@contextmanager
def _as_owner(outbox: Path) -> Iterator[None]:
    """Act as the owner of the file, as root: what SQLite creates beside it must stay the daemon's to write."""
    owner = outbox.stat()
    if os.geteuid() != 0:
        if os.geteuid() != owner.st_uid:
            raise PermissionError(errno.EPERM, "only its owner and root may")
        yield
        return
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@contextmanager
def _waking(outbox: Path) -> Iterator[None]:
    """Open the file first, for that may fail; closing it is what a running daemon is told of."""
    descriptor = os.open(wake_path(outbox), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        yield
    finally:
        os.close(descriptor)
