"""The bounds of every number in the configuration, each with the reason that an administrator is told.

What nobody should have to choose is in ``domain/limits.py``.
"""

from typing import Final

from ssm_status_reporter.config.kinds import decimal, duration, size, whole
from ssm_status_reporter.config.texts import PORT_MAX
from ssm_status_reporter.domain.limits import RATE_FLOOR_PER_SECOND

NODES_ALLOWED_MAX: Final = 1000
"""Patterns in node.allow: each is tried for each result."""

FILE_SIZE: Final = size("64B", "1MiB", "a file is read whole, and many at a time")
WINDOW: Final = duration("0s", "1h", "0s is no debounce, and a status older than an hour is no status")
CONCURRENCY: Final = whole(1, 256, "each call in flight holds a connection and its memory")
RATE: Final = decimal(RATE_FLOOR_PER_SECOND, 100_000, "throttling goes no lower, and no endpoint answers faster")
BURST: Final = whole(1, 100_000, "a call needs one, and beyond this a rate limits nothing")
CALL_TIMEOUT: Final = duration(
    "100ms", "5m", "less is less than a TLS handshake, more blocks a sender for nothing"
)
BACKOFF_INITIAL: Final = duration("1ms", "1h", "0 would retry without pause")
BACKOFF_MAX: Final = duration("1ms", "24h", "a service that is back must be noticed within a day")
RETRY_EVERY: Final = duration("10ms", "24h", "an association that appears must be noticed within a day")
GIVE_UP_AFTER: Final = duration("10ms", "8760h", "within a year somebody looks")
DEAD_LETTERS: Final = whole(1, 100_000, "at least the last one must be there to look at, and the disk is finite")
RECONCILE_INTERVAL: Final = duration("0s", "8760h", "0s is never")
PORT: Final = whole(1, PORT_MAX, "TCP has no others")
