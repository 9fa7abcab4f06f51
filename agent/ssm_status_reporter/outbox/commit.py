"""Group commit: one thread owns the store and commits what has come together since its last commit.

Rules:
  * An operation is a function of the `Tables`; all operations of a batch share one transaction and one fsync.
    Nobody learns the result of an operation before its batch is committed; then they are told in their order, for
    a source that lets go of the newer result before the older one meets the older one after a crash.
  * One operation may stand by: it is done last in the next batch that is fsynced, and costs no commit of its own.
    It is told first, for it is in a hurry; a batch that fails lets go of it.
  * A transaction that fails for the machine's sake (disk full, I/O error, locked) is tried again, whole, for as
    long as it takes: callers wait, which is the backpressure. Operations must therefore change nothing but the
    tables. It is said once, and so is the recovery.
  * A batch that the store has made a way for (a new file for a broken one, room in the journal) is done again at once.
  * An operation that raises anything else is a defect: its batch is rolled back and every caller gets the error.
"""

import asyncio
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import structlog

from ssm_status_reporter.domain.limits import OUTBOX_BATCH_MAX, OUTBOX_GATHER_SECONDS, OUTBOX_RETRY_SECONDS
from ssm_status_reporter.outbox.database import WRITE_REMEDY, Durability, Migration, OutboxError
from ssm_status_reporter.outbox.store import Store
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
        self._store = Store(path, versions, timestamp)
        self._loop = asyncio.get_running_loop()
        self._jobs: deque[_Job[Any]] = deque()
        self._standing: _Job[Any] | None = None
        self.ends_standing = False
        """Whether the batch in hand ends with what stood by; for the operations before it."""
        self._wake = threading.Condition()
        self._closing = False
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

    def let_adopt(self, adopt: Operation[object], on_adopted: Callable[[], None]) -> None:
        """What is done first with a file that takes the place of the one in use, and on the event loop after that."""
        self._store.adopt = adopt
        self._store.on_adopted = partial(self._deliver, on_adopted)

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
        self._store.close()

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
                if not self._commit(batch):
                    continue
            except (sqlite3.OperationalError, OSError, OutboxError) as error:
                self._let_stand_down(batch)
                if not failing:
                    log.error(  # noqa: TRY400 (an operator needs the reason, not where in this code it met us)
                        "outbox cannot be written: nothing is acknowledged until it can, nothing is lost",
                        path=str(self._path),
                        error=str(error),
                        hint=f"{_remedy(error)}; it recovers by itself",
                    )
                failing = True
                if self._pause():
                    return False
            else:
                if failing:
                    log.info("outbox can be written again", path=str(self._path))
                return True

    def _let_stand_down(self, batch: list[_Job[Any]]) -> None:
        """Nobody waits for a failing disk because of a claim that it might have brought."""
        if self.ends_standing:
            self.ends_standing = False
            self._deliver(batch.pop().future.cancel)

    def _commit(self, batch: list[_Job[Any]]) -> bool:
        """As `Store.transact`."""
        durable = _is_durable(batch)
        committed = self._store.transact(
            partial(_do, batch), Durability.POWER_LOSS if durable else Durability.PROCESS_DEATH
        )
        if committed and durable:
            self._committed_at = time.monotonic()
            self._crowded = self._in_hand > 1
        return committed

    def _pause(self) -> bool:
        """Wait before the next attempt; True when there is to be none because the outbox closes."""
        with self._wake:
            if not self._closing:
                self._wake.wait_for(lambda: self._closing, timeout=OUTBOX_RETRY_SECONDS)
            return self._closing


def _do(batch: list[_Job[Any]], tables: Tables) -> None:
    for job in batch:
        job.result = job.operation(tables)


def _remedy(error: Exception) -> str:
    return "do what the error says" if isinstance(error, OutboxError) else WRITE_REMEDY


def _is_durable(batch: list[_Job[Any]]) -> bool:
    return any(job.durability is Durability.POWER_LOSS for job in batch)


def _heard(standing: "asyncio.Future[Any]") -> None:
    """A defect is told by those who brought the commit; who stood by may be gone already."""
    if not standing.cancelled():
        standing.exception()
