"""The database file: opened, checked, migrated, and set aside when it is broken.

Rules:
  * WAL. Every commit that acknowledges something to somebody is synchronous=FULL (rule 1).
  * The schema has a version (``PRAGMA user_version``). An older one is migrated in one transaction; a newer one
    is left alone: an older program must not write what it does not understand, nor say what it means.
  * A broken file is set aside, never deleted (rule 13), nor is one overwritten that was set aside before.
  * Files are 0640: `status` works for the group.
"""

import os
import sqlite3
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import Final, NamedTuple, Self

from ssm_status_reporter.domain.limits import (
    OUTBOX_BUSY_SECONDS_MAX,
    OUTBOX_JOURNAL_BYTES_MAX,
    OUTBOX_SET_ASIDE_PER_SECOND_MAX,
)

SCHEMA_VERSION: Final = 1
"""The latest there is."""
FILE_MODE: Final = 0o640
DIRECTORY_MODE: Final = 0o750
_ENDINGS: Final = ("", "-wal", "-shm")
"""Of the files that are a database."""
_NOT_UTF_8: Final = "Could not decode to UTF-8"
"""The sqlite3 module's own error, of a text that is none: SQLite has no sums of what it stores, and no name for it."""
WRITE_REMEDY: Final = "make room on the disk, and its file system writable"


class Durability(StrEnum):
    """What a commit survives; the value is SQLite's name for it."""

    POWER_LOSS = "FULL"
    PROCESS_DEATH = "NORMAL"


class OutboxError(Exception):
    """The outbox cannot be used; the message says why and what to do."""


class OutboxTooNewError(OutboxError):
    """A later version of the program wrote this file: its schema is not known here."""

    remedy: Final = "install that version again, or move the file away to start with an empty outbox"

    def __init__(self, path: Path, schema: int, known: int) -> None:
        self.finding = (
            f"{path}: written by a later version of ssm-status-reporter (schema {schema}; known here: {known})"
        )
        super().__init__(f"{self.finding}: {self.remedy}")


@dataclass(frozen=True, slots=True)
class Migration:
    """The statements that lead to a version."""

    version: int
    script: str


class Files(NamedTuple):
    """Which files have an outbox's names: their inodes, None for none."""

    database: int | None
    journal: int | None

    @classmethod
    def at(cls, path: Path) -> Self:
        """Those that have them now."""
        return cls(_inode(str(path)), _inode(f"{path}-wal"))


def migrations() -> tuple[Migration, ...]:
    """Every version there has been, oldest first."""
    schema = resources.files("ssm_status_reporter.outbox").joinpath("schema.sql").read_text("utf-8")
    return (Migration(SCHEMA_VERSION, schema),)


def is_broken(error: sqlite3.Error) -> bool:
    """Whether the file itself is damaged, as opposed to the disk being full or busy."""
    name = getattr(error, "sqlite_errorname", "") or ""
    return name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or str(error).startswith(_NOT_UTF_8)


def damage(found: str) -> sqlite3.DatabaseError:
    """The error of a file that SQLite reads, and that cannot be what was written; for which `is_broken`."""
    error = sqlite3.DatabaseError(found)
    error.sqlite_errorname = "SQLITE_CORRUPT"
    return error


def is_full(error: sqlite3.Error) -> bool:
    """Whether there was no room on the disk."""
    return getattr(error, "sqlite_errorname", None) == "SQLITE_FULL"


def opened(path: Path, versions: tuple[Migration, ...]) -> sqlite3.Connection:
    """A connection to a sound database of the latest version; the file and its directory are made if missing.

    Raises `OutboxTooNewError`, `OutboxError` for a file of somebody else's (SQLite would open it read-only, for good),
    and `sqlite3.DatabaseError` for which `is_broken` tells whether to set it aside.
    """
    if not path.parent.exists():
        path.parent.mkdir(mode=DIRECTORY_MODE, parents=True)
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, FILE_MODE))
        path.chmod(FILE_MODE)  # whatever the umask says
    for part in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
        if part.exists() and not os.access(part, os.W_OK):
            raise OutboxError(f"{part}: may not be written: chown it to the user that the daemon runs as")
    connection = sqlite3.connect(
        path, timeout=OUTBOX_BUSY_SECONDS_MAX, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={Durability.POWER_LOSS}")
        connection.execute(f"PRAGMA journal_size_limit={OUTBOX_JOURNAL_BYTES_MAX}")
        connection.execute("PRAGMA temp_store=MEMORY")
        _check(connection)
        _migrate(connection, path, versions)
    except BaseException:
        connection.close()
        raise
    return connection


def version_of(connection: sqlite3.Connection, path: Path, latest: int = SCHEMA_VERSION) -> int:
    """The schema's version. Raises `OutboxTooNewError` for a later one than is known here."""
    (present,) = connection.execute("PRAGMA user_version").fetchone()
    if present > latest:
        raise OutboxTooNewError(path, present, latest)
    return int(present)


def set_aside(path: Path, suffix: str) -> Path:
    """Move a broken database, with its journal, out of the way, of one suffix a few; returns where it is now.

    Raises `OutboxError` when there are more: what breaks every file is not mended by a new one at once.
    """
    aside = _free_name(path.with_name(f"{path.name}.corrupt-{suffix}"))
    for ending in _ENDINGS:
        part = path.with_name(path.name + ending)
        if part.exists():
            part.rename(aside.with_name(aside.name + ending))
    return aside


def rewrite(connection: sqlite3.Connection, path: Path) -> None:
    """Write a database whose file or -wal was removed to that path again; the connection still has its content."""
    path.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.draft")
    draft.unlink(missing_ok=True)
    for ending in ("-wal", "-shm"):  # what is left of the old file must not be taken for the new one's
        path.with_name(path.name + ending).unlink(missing_ok=True)
    connection.execute("VACUUM INTO ?", (str(draft),))
    draft.chmod(FILE_MODE)
    draft.rename(path)


def _free_name(first: Path) -> Path:
    """That name, or it with a number: no part of a database has it."""
    for number in range(1, OUTBOX_SET_ASIDE_PER_SECOND_MAX + 1):
        name = first if number == 1 else first.with_name(f"{first.name}.{number}")
        if not any(os.path.lexists(f"{name}{ending}") for ending in _ENDINGS):
            return name
    raise OutboxError(
        f"{first}: {OUTBOX_SET_ASIDE_PER_SECOND_MAX} broken outboxes were set aside within a second: check the disk"
    )


def _check(connection: sqlite3.Connection) -> None:
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise damage(f"quick_check: {verdict}")


def _migrate(connection: sqlite3.Connection, path: Path, versions: tuple[Migration, ...]) -> None:
    present = version_of(connection, path, versions[-1].version)
    for migration in versions:
        if migration.version > present:
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{migration.script}\nPRAGMA user_version={migration.version};\nCOMMIT;"
            )


def _inode(path: str) -> int | None:
    try:
        return os.stat(path).st_ino  # noqa: PTH116 (twice a commit: Path.stat costs twice as much)
    except FileNotFoundError:
        return None
