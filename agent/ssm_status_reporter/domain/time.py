"""The two clocks, as one value.

Rules:
  * Dates (when a run was observed, when something was delivered) are *wall* time.
  * Deadlines (the end of a debounce window, the next attempt) are *steady* time: wall time as it was when
    the process started plus what the monotonic clock counted since. Setting the clock moves no deadline.
  * A stored deadline is only as good as the clock that wrote it: :func:`brought_back` bounds it.
"""

from msgspec import Struct


class Now(Struct, frozen=True):
    """One moment, read once and passed on; both in milliseconds since 1970-01-01T00:00:00Z."""

    wall_ms: int
    steady_ms: int


def brought_back(deadline_ms: int, now: Now, at_most_ms: int) -> int:
    """The deadline, but no further ahead than ``at_most_ms`` from now.

    A deadline stored before the clock was put back would otherwise lie arbitrarily far ahead.
    """
    return min(deadline_ms, now.steady_ms + at_most_ms)
