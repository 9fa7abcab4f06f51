"""Debounce: the first change at once, the others at the window's end (rule 4)."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain_support import START_MS, at
from ssm_status_reporter.domain.debounce import Schedule, schedule
from ssm_status_reporter.domain.result import Edge

WINDOW_MS = 2000
YEAR_MS = 365 * 24 * 3_600_000


def test_the_first_change_of_a_quiet_association_goes_out_at_once() -> None:
    """A run that ends after a quiet hour is reported without delay."""
    now = at()
    assert schedule(0, None, Edge.LEADING, now, WINDOW_MS) == Schedule(START_MS, START_MS + WINDOW_MS)


def test_a_change_within_the_window_waits_for_its_end_which_opens_the_next_one() -> None:
    """A burst of changes makes a call at its start and one a window later, not one a change."""
    first = schedule(0, None, Edge.LEADING, at(), WINDOW_MS)
    second = schedule(first.window_end_ms, None, Edge.LEADING, at(500), WINDOW_MS)
    assert second == Schedule(START_MS + WINDOW_MS, START_MS + 2 * WINDOW_MS)


def test_a_change_that_replaces_a_waiting_one_takes_its_time() -> None:
    """An association that never rests is still reported once a window."""
    second = schedule(START_MS + WINDOW_MS, None, Edge.LEADING, at(500), WINDOW_MS)
    third = schedule(second.window_end_ms, second.release_at_ms, Edge.LEADING, at(1900), WINDOW_MS)
    assert third == second


def test_a_change_that_replaces_an_overdue_one_does_not_wait_again() -> None:
    """While the rate is spent, the newest report is as overdue as the one it replaces: it waits no longer."""
    second = schedule(START_MS + WINDOW_MS, None, Edge.LEADING, at(500), WINDOW_MS)
    later = at(WINDOW_MS + 700)
    third = schedule(second.window_end_ms, second.release_at_ms, Edge.LEADING, later, WINDOW_MS)
    assert third.release_at_ms == second.release_at_ms
    assert third.window_end_ms == later.steady_ms + WINDOW_MS


def test_a_redelivered_result_is_never_the_leading_edge() -> None:
    """What may be an old message delivered again waits a window for the newer ones behind it."""
    now = at()
    expected = Schedule(START_MS + WINDOW_MS, START_MS + 2 * WINDOW_MS)
    assert schedule(0, None, Edge.TRAILING, now, WINDOW_MS) == expected


def test_a_redelivered_result_does_not_go_out_at_once_in_the_place_of_an_overdue_one() -> None:
    """An old message delivered again after an outage waits a window, whatever it replaces."""
    now = at(10_000)
    when = schedule(START_MS, START_MS, Edge.TRAILING, now, WINDOW_MS)
    assert when.release_at_ms == now.steady_ms + WINDOW_MS


@pytest.mark.parametrize("edge", list(Edge))
def test_without_a_window_everything_goes_out_at_once(edge: Edge) -> None:
    """`debounce.window: 0s` delays nothing."""
    assert schedule(START_MS, START_MS, edge, at(), 0).release_at_ms == START_MS


@given(
    st.integers(0, 2 * YEAR_MS),
    st.none() | st.integers(0, 2 * YEAR_MS),
    st.sampled_from(Edge),
    st.integers(0, 3_600_000),
)
def test_no_change_waits_longer_than_the_windows_ahead_of_it(
    end_ms: int, waiting_ms: int | None, edge: Edge, window_ms: int
) -> None:
    """Deadlines stored before the clock was put back by a year do not silence an association for it (rule 14)."""
    now = at()
    base_ms = START_MS - YEAR_MS
    waiting_until = None if waiting_ms is None else base_ms + waiting_ms
    when = schedule(base_ms + end_ms, waiting_until, edge, now, window_ms)
    assert when.release_at_ms <= START_MS + (window_ms if waiting_until is None else 2 * window_ms)


@given(st.lists(st.tuples(st.integers(0, 5000), st.sampled_from(Edge)), min_size=1, max_size=30))
def test_two_releases_are_never_less_than_a_window_apart(steps: list[tuple[int, Edge]]) -> None:
    """However results arrive, the service sees at most one change of an association a window."""
    now_ms, end_ms, waiting, releases = 0, 0, None, []
    for pause_ms, edge in steps:
        now_ms += pause_ms
        if waiting is not None and START_MS + now_ms >= waiting:  # it went out when it was due
            releases.append(waiting)
            waiting = None
        when = schedule(end_ms, waiting, edge, at(now_ms), WINDOW_MS)
        end_ms, waiting = when.window_end_ms, when.release_at_ms
    assert all(later - earlier >= WINDOW_MS for earlier, later in pairwise(releases))
