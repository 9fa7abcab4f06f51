"""The threads in which is waited for what blocks: the resolver's answer, a file system that hangs.

Rules:
  * Nothing can cancel what blocks in them, and nothing needs its end: a stop does not wait for it.
"""

import os
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import ParamSpec, TypeVar

from ssm_status_reporter.domain.limits import BLOCKING_THREADS_MAX

P = ParamSpec("P")
T = TypeVar("T")


class DispensableThreads(ThreadPoolExecutor):
    """An event loop's default executor that can be left behind."""

    def __init__(self) -> None:
        super().__init__(BLOCKING_THREADS_MAX, thread_name_prefix="blocking")
        self._busy: set[Future[object]] = set()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As every executor's."""
        future: Future[T] = super().submit(fn, *args, **kwargs)
        self._busy.add(future)  # type: ignore[arg-type] # what it yields is not looked at
        future.add_done_callback(self._busy.discard)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - the executor's signature
        """Take nothing more; what is under way is left to itself, whatever ``wait`` says."""
        super().shutdown(wait=False, cancel_futures=True)

    def leave(self, code: int) -> None:
        """End the process if something still blocks: the interpreter's own end would wait for it."""
        if self._busy:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError):  # a full disk below them: what is left is lost, and the process ends
                    stream.flush()
            os._exit(code)
