"""Debounce: the first change of a quiet association goes out at once, further ones wait and the newest wins.

Rules:
  * A change opens a window. A change within a window waits for its end, and that end opens the next one:
    two reports of one association are never released less than a window apart.
  * While a change waits, later ones take its place and its time: waiting is not prolonged, not even when its
    time has come and it could not go out yet. Only what must not go out at once (`Edge.TRAILING`) waits anew then.
  * Both deadlines are stored with the entry, so a crash within the window forgets nothing.
"""

from dataclasses import dataclass

from ssm_status_reporter.domain.result import Edge
from ssm_status_reporter.domain.time import Now, brought_back


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a change may go out, and until when the association is not quiet; steady milliseconds."""

    release_at_ms: int
    window_end_ms: int


def schedule(window_end_ms: int, waiting_until_ms: int | None, edge: Edge, now: Now, window_ms: int) -> Schedule:
    """When the change that just came may go out.

    ``waiting_until_ms`` is the release time of the report it replaces; None when it replaces none.
    """
    # A report that waits has a window of its own behind the one it waits for.
    end_ms = brought_back(window_end_ms, now, window_ms if waiting_until_ms is None else 2 * window_ms)
    if waiting_until_ms is not None and waiting_until_ms > now.steady_ms:
        return Schedule(brought_back(waiting_until_ms, now, window_ms), end_ms)
    if waiting_until_ms is not None and edge is Edge.LEADING:
        return Schedule(waiting_until_ms, max(end_ms, now.steady_ms + window_ms))
    if now.steady_ms < end_ms:
        return Schedule(end_ms, end_ms + window_ms)
    if edge is Edge.TRAILING:
        release_ms = now.steady_ms + window_ms
        return Schedule(release_ms, release_ms + window_ms)
    return Schedule(now.steady_ms, now.steady_ms + window_ms)
