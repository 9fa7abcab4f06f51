"""The store: the database in use, whatever becomes of its file. One transaction at a time, in one thread.

Rules:
  * A file that was removed, or whose -wal was, is written anew from the open connection, which still has all of it.
  * A broken file is set aside, and the next transaction goes to a new one (rule 13).
  * On a full disk the journal begins anew once what is in it is in the database: what needs no more room than the two
    have goes on.
  * What another file holds when it takes the place of the one that was open was left by another process: `adopt`
    comes first in the first transaction on it.
"""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import structlog

from ssm_status_reporter.outbox.database import (
    Durability,
    Files,
    Migration,
    OutboxError,
    is_broken,
    is_full,
    opened,
    rewrite,
    set_aside,
)
from ssm_status_reporter.outbox.tables import Tables

log = structlog.get_logger()


class Store:
    """Raises `OutboxError` when the file cannot be opened at first; later that is tried again."""

    def __init__(self, path: Path, versions: tuple[Migration, ...], timestamp: Callable[[], str]) -> None:
        self._path = path
        self._versions = versions
        self._timestamp = timestamp
        self.adopt: Callable[[Tables], object] = _nothing
        """What is done first with a file that took the place of the one that was open."""
        self.on_adopted: Callable[[], None] = _nobody
        """Called once that is committed."""
        self._is_adopted = True
        self._began_anew = False
        self._files: Files | None = None
        self._durability = Durability.POWER_LOSS
        try:
            self._use(self._opened())
        except (sqlite3.Error, OSError) as error:
            raise OutboxError(
                f"{path}: cannot be opened ({error}): it must be a file that this user may write, on a disk with "
                "room; or set another outbox.path"
            ) from error

    def transact(self, work: Callable[[Tables], object], durability: Durability) -> bool:
        """Whether it was committed; False when what was in its way is not there any more, for the next attempt.

        Raises what the machine does not let through, setting aside included, and what the work raises.
        """
        try:
            self._follow_file()
            self._commit(work, durability)
        except BaseException as error:
            self._roll_back()
            if not isinstance(error, sqlite3.Error):
                raise
            if is_broken(error):
                self._let_go()
                self._set_aside(error)
            elif not (is_full(error) and self._begin_journal_anew()):
                raise
            return False
        self._began_anew = False
        return True

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def _commit(self, work: Callable[[Tables], object], durability: Durability) -> None:
        if durability is not self._durability:
            self._connection.execute(f"PRAGMA synchronous={durability}")
            self._durability = durability
        self._connection.execute("BEGIN IMMEDIATE")
        if not self._is_adopted:
            self.adopt(self._tables)
        work(self._tables)
        self._tables.flush_counts()
        self._connection.execute("COMMIT")
        if not self._is_adopted:
            self._is_adopted = True
            self.on_adopted()

    def _roll_back(self) -> None:
        self._tables.forget_counts()
        if self._files is not None and self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def _begin_journal_anew(self) -> bool:
        """Whether the journal has its room to itself again; not twice for one transaction, which needs more."""
        if self._began_anew:
            self._began_anew = False
            return False
        try:
            (busy, *_) = self._connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
        except sqlite3.Error:
            return False  # the database has to grow, and cannot: the disk is full, as is said already
        self._began_anew = not busy
        return self._began_anew

    def _follow_file(self) -> None:
        """Commit to what has our name now: a file that was removed is written anew, from what we still hold."""
        if self._files is None:
            self._reopen()
            return
        found = Files.at(self._path)
        if found == self._files:
            return
        if found.database in {None, self._files.database}:
            rewrite(self._connection, self._path)
            removed = self._path if found.database is None else f"{self._path}-wal"
            log.error("outbox was removed: written anew, nothing is lost", path=str(removed))
            self._let_go()
            self._use(opened(self._path, self._versions))
            return
        if self._files.journal == found.journal:
            # SQLite leaves it behind when its database was moved, and would replay it over the one that is there now.
            Path(f"{self._path}-wal").unlink(missing_ok=True)
        log.critical(
            "outbox was replaced: going on with what is there now",
            path=str(self._path),
            hint="stop the daemon before an outbox is restored; what was pending in the old one is not delivered",
        )
        self._let_go()
        self._reopen()

    def _let_go(self) -> None:
        """Close what is open; the next attempt opens what is there then."""
        self._connection.close()
        self._files = None

    def _reopen(self) -> None:
        """Open what is there, after what was open was let go."""
        self._is_adopted = False
        self._use(self._opened())

    def _use(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._tables = Tables(connection)
        self._durability = Durability.POWER_LOSS
        self._files = Files.at(self._path)

    def _opened(self) -> sqlite3.Connection:
        """A connection to a sound file; a broken one is set aside for it."""
        try:
            return opened(self._path, self._versions)
        except sqlite3.DatabaseError as error:
            if not is_broken(error):
                raise
            self._set_aside(error)
            return opened(self._path, self._versions)

    def _set_aside(self, broken: sqlite3.Error) -> None:
        aside = set_aside(self._path, self._timestamp())
        log.critical(
            "outbox is broken: set aside, going on with a new one",
            path=str(self._path),
            set_aside=str(aside),
            error=str(broken),
            hint="what was pending in it is lost to this daemon until the runners report again; check the disk",
        )


def _nothing(_: Tables) -> None:
    """Nothing is left by another process."""


def _nobody() -> None:
    """Nobody is to be told."""
