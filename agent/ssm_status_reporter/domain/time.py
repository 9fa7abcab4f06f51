"""The two clocks, as one value.

Rules:
  * Dates (when a run was observed, when something was delivered) are *wall* time.
  * Deadlines (the end of a debounce window, the next attempt) are *steady* time: wall time as it was when
    the process started plus what the monotonic clock counted since. Setting the clock moves no deadline.
  * A stored deadline is only as good as the clock that wrote it: :func:`brought_back` bounds it.
  * A date is only as good as the clock that wrote it: :func:`is_evidence` says when it is held against another one.
"""

from msgspec import Struct

from ssm_status_reporter.domain.limits import CLOCK_AHEAD_MS_MAX


class Now(Struct, frozen=True):
    """One moment, read once and passed on; both in milliseconds since 1970-01-01T00:00:00Z."""

    wall_ms: int
    steady_ms: int


def brought_back(deadline_ms: int, now: Now, at_most_ms: int) -> int:
    """The deadline, but no further ahead than ``at_most_ms`` from now.

    A deadline stored before the clock was put back would otherwise lie arbitrarily far ahead.
    """
    return min(deadline_ms, now.steady_ms + at_most_ms)


def is_evidence(date_ms: int, against_ms: int, now: Now) -> bool:
    """Whether a date, which is no earlier than another one, shows that it is no older.

    Not in the future of our clock, which may have been put back since. But where the other date is in the future too,
    it is our clock that is behind theirs, and dates that would be taken as they are decide.
    """
    if date_ms <= now.wall_ms:
        return True
    return against_ms > now.wall_ms and date_ms <= now.wall_ms + CLOCK_AHEAD_MS_MAX
