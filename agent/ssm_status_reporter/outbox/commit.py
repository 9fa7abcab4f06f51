"""Group commit: one thread owns the connection and commits what has come together since its last commit.

Rules:
  * An operation is a function of the `Tables`; all operations of a batch share one transaction and one fsync.
    Nobody learns the result of an operation before its batch is committed; then they are told in their order, for
    a source that lets go of the newer result before the older one meets the older one after a crash.
  * One operation may stand by: it is done last in the next batch that is fsynced, and costs no commit of its own.
    It is told first, for it is in a hurry; a batch that fails lets go of it.
  * A transaction that fails for the machine's sake (disk full, I/O error, locked) is tried again, whole, for as
    long as it takes: callers wait, which is the backpressure. Operations must therefore change nothing but the
    tables. It is said once, and so is the recovery.
  * A file that was removed, or whose -wal was, is written anew from the open connection, which still has all of it.
  * A broken file is set aside and the batch is committed to a new one (rule 13).
  * What another file holds when it takes the place of the one that was open was left by another process: `adopt`
    is its first operation.
  * An operation that raises anything else is a defect: its batch is rolled back and every caller gets the error.
"""

import asyncio
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import structlog

from ssm_status_reporter.domain.limits import OUTBOX_BATCH_MAX, OUTBOX_GATHER_SECONDS, OUTBOX_RETRY_SECONDS
from ssm_status_reporter.outbox.database import (
    Durability,
    Files,
    Migration,
    OutboxError,
    is_broken,
    opened,
    rewrite,
    set_aside,
)
from ssm_status_reporter.outbox.tables import Tables

log = structlog.get_logger()
T = TypeVar("T")
Operation = Callable[[Tables], T]


@dataclass(slots=True)
class _Job(Generic[T]):
    operation: Operation[T]
    durability: Durability
    future: "asyncio.Future[T]"
    result: T | None = None


class Committer:
    """The thread. `submit` belongs to the event loop that made it; `progress` may be read by anybody.

    Raises `OutboxError` when the file cannot be opened at first; later that is tried again.
    """

    def __init__(self, path: Path, versions: tuple[Migration, ...], timestamp: Callable[[], str]) -> None:
        self._path = path
        self._versions = versions
        self._timestamp = timestamp
        self._loop = asyncio.get_running_loop()
        self._jobs: deque[_Job[Any]] = deque()
        self._standing: _Job[Any] | None = None
        self.ends_standing = False
        """Whether the batch in hand ends with what stood by; for the operations before it."""
        self._wake = threading.Condition()
        self._closing = False
        self._durability = Durability.POWER_LOSS
        self.adopt: Operation[object] = _nothing
        """What is done first with a file that took the place of the one that was open."""
        self.on_adopted: Callable[[], None] = _nobody
        """Called on the event loop once that is committed."""
        self._is_adopted = True
        self._files: Files | None = None
        try:
            self._use(self._opened())
        except (sqlite3.Error, OSError) as error:
            raise OutboxError(
                f"{path}: cannot be opened ({error}): it must be a file that this user may write, on a disk with "
                "room; or set another outbox.path"
            ) from error
        self._committed_at = 0.0
        self._crowded = False
        self.progress = 0
        """Grows with each batch, and with each attempt at one that fails: a stuck thread shows as no growth."""
        self._in_hand = 0
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def submit(
        self, operation: Operation[T], durability: Durability = Durability.POWER_LOSS
    ) -> "asyncio.Future[T]":
        """The operation's result, once it is committed."""
        job = _Job(operation, durability, self._loop.create_future())
        with self._wake:
            self._jobs.append(job)
            self._wake.notify()
        return job.future

    def stand_by(self, operation: Operation[T]) -> "asyncio.Future[T]":
        """The operation's result, once another brought it a commit; cancelled when it is withdrawn, or that fails."""
        job = _Job(operation, Durability.PROCESS_DEATH, self._loop.create_future())
        job.future.add_done_callback(_heard)
        with self._wake:
            self._standing = job
        return job.future

    def withdraw(self) -> None:
        """What stands by is not done, unless its batch is in hand already."""
        with self._wake:
            standing, self._standing = self._standing, None
        if standing is not None:
            standing.future.cancel()

    @property
    def waiting(self) -> int:
        """Operations not yet committed, those being committed included. What stands by waits for nothing."""
        return len(self._jobs) + self._in_hand

    async def close(self) -> None:
        """Commit what was submitted, then end. A transaction that keeps failing is given up."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while batch := self._next_batch():
            try:
                committed = self._commit_until_done(batch)
            except BaseException as error:  # noqa: BLE001 (handed to the callers, who end the daemon with it)
                self._deliver(self._fail, batch, error)
                continue
            finally:
                self._in_hand = 0
            if not committed:
                break
            if self.ends_standing:
                batch.insert(0, batch.pop())
            self._deliver(self._succeed, batch)
        self._connection.close()

    def _deliver(self, how: Callable[..., object], *arguments: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(how, *arguments)

    @staticmethod
    def _succeed(batch: list[_Job[Any]]) -> None:
        for job in batch:
            if not job.future.done():
                job.future.set_result(job.result)

    @staticmethod
    def _fail(batch: list[_Job[Any]], error: BaseException) -> None:
        for job in batch:
            if not job.future.done():
                job.future.set_exception(error)

    def _next_batch(self) -> list[_Job[Any]]:
        with self._wake:
            while not self._jobs and not self._closing:
                self._wake.wait()
            crowded = self._crowded and all(job.durability is Durability.POWER_LOSS for job in self._jobs)
        gather_seconds = self._committed_at + OUTBOX_GATHER_SECONDS - time.monotonic()
        if crowded and gather_seconds > 0:
            time.sleep(gather_seconds)
        with self._wake:
            self._in_hand = min(len(self._jobs), OUTBOX_BATCH_MAX)
            batch = [self._jobs.popleft() for _ in range(self._in_hand)]
            self.ends_standing = self._standing is not None and _is_durable(batch)
            if self._standing is not None and self.ends_standing:
                batch.append(self._standing)
                self._standing = None
            return batch

    def _commit_until_done(self, batch: list[_Job[Any]]) -> bool:
        """Whether the batch was committed; False only when closing while the machine lets nothing through."""
        failing = False
        while True:
            self.progress += 1
            try:
                if not self._attempt(batch):
                    continue
            except (sqlite3.Error, OSError, OutboxError) as error:
                self._roll_back()
                if not isinstance(error, sqlite3.OperationalError | OSError | OutboxError):
                    raise
                self._let_stand_down(batch)
                if not failing:
                    log.error(  # noqa: TRY400 (an operator needs the reason, not where in this code it met us)
                        "outbox cannot be written: nothing is acknowledged until it can, nothing is lost",
                        path=str(self._path),
                        error=str(error),
                        hint="free disk space, or make its file system writable; it recovers by itself",
                    )
                failing = True
                if self._pause():
                    return False
            except BaseException:
                self._roll_back()
                raise
            else:
                if failing:
                    log.info("outbox can be written again", path=str(self._path))
                return True

    def _let_stand_down(self, batch: list[_Job[Any]]) -> None:
        """Nobody waits for a failing disk because of a claim that it might have brought."""
        if self.ends_standing:
            self.ends_standing = False
            self._deliver(batch.pop().future.cancel)

    def _attempt(self, batch: list[_Job[Any]]) -> bool:
        """Whether the batch was committed; False when the file was broken and has been set aside for the next attempt.

        Raises what the machine does not let through, setting aside included.
        """
        try:
            self._follow_file()
            self._commit(batch)
        except sqlite3.Error as error:
            if not is_broken(error):
                raise
            self._roll_back()
            self._let_go(error)
            return False
        return True

    def _commit(self, batch: list[_Job[Any]]) -> None:
        durable = _is_durable(batch)
        self._set_durability(Durability.POWER_LOSS if durable else Durability.PROCESS_DEATH)
        self._connection.execute("BEGIN IMMEDIATE")
        if not self._is_adopted:
            self.adopt(self._tables)
        for job in batch:
            job.result = job.operation(self._tables)
        self._tables.flush_counts()
        self._connection.execute("COMMIT")
        if not self._is_adopted:
            self._is_adopted = True
            self._deliver(self.on_adopted)
        if durable:
            self._committed_at = time.monotonic()
            self._crowded = self._in_hand > 1

    def _set_durability(self, durability: Durability) -> None:
        if durability is not self._durability:
            self._connection.execute(f"PRAGMA synchronous={durability}")
            self._durability = durability

    def _roll_back(self) -> None:
        self._tables.forget_counts()
        if self._files is not None and self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def _pause(self) -> bool:
        """Wait before the next attempt; True when there is to be none because the outbox closes."""
        with self._wake:
            if not self._closing:
                self._wake.wait_for(lambda: self._closing, timeout=OUTBOX_RETRY_SECONDS)
            return self._closing

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
        log.critical(
            "outbox was replaced: going on with what is there now",
            path=str(self._path),
            hint="stop the daemon before an outbox is restored; what was pending in the old one is not delivered",
        )
        journal = self._files.journal
        self._let_go()
        if journal == found.journal:
            # SQLite leaves it behind when its database was moved, and would replay it over the one that is there now.
            Path(f"{self._path}-wal").unlink(missing_ok=True)
        self._reopen()

    def _let_go(self, broken: sqlite3.Error | None = None) -> None:
        """Close what is open; the next attempt opens what is there then."""
        self._connection.close()
        self._files = None
        if broken is not None:
            self._say_broken(broken)

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
            self._say_broken(error)
            return opened(self._path, self._versions)

    def _say_broken(self, error: sqlite3.Error) -> None:
        aside = set_aside(self._path, self._timestamp())
        log.critical(
            "outbox is broken: set aside, going on with a new one",
            path=str(self._path),
            set_aside=str(aside),
            error=str(error),
            hint="what was pending in it is lost to this daemon until the runners report again; check the disk",
        )


def _is_durable(batch: list[_Job[Any]]) -> bool:
    return any(job.durability is Durability.POWER_LOSS for job in batch)


def _heard(standing: "asyncio.Future[Any]") -> None:
    """A defect is told by those who brought the commit; who stood by may be gone already."""
    if not standing.cancelled():
        standing.exception()


def _nothing(_: Tables) -> None:
    """Nothing is left by another process."""


def _nobody() -> None:
    """Nobody is to be told."""
