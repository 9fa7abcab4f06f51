"""Backoff: full jitter within a doubling bound, for ever at the cap; a hint of the service is a lower bound."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssm_status_reporter.domain.backoff import Backoff
from ssm_status_reporter.domain.limits import RETRY_AFTER_MS_MAX

BACKOFF = Backoff(initial_ms=1000, max_ms=300_000)
ALMOST_ONE = 1 - 2**-53


@pytest.mark.parametrize(
    ("failures", "ceiling_ms"),
    [(1, 1000), (2, 2000), (3, 4000), (9, 256_000), (10, 300_000), (11, 300_000), (1_000_000, 300_000)],
)
def test_the_bound_doubles_with_each_failure_and_stays_at_the_cap_for_ever(failures: int, ceiling_ms: int) -> None:
    """A service that stays away is tried less and less often, but every five minutes for as long as it takes."""
    assert BACKOFF.delay_ms(failures, ALMOST_ONE) == ceiling_ms
    assert BACKOFF.delay_ms(failures, 0.5) == ceiling_ms // 2


def test_the_jitter_is_full() -> None:
    """A fleet that failed together comes back spread over the whole interval, its first members at once."""
    assert BACKOFF.delay_ms(10, 0.0) == 0


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True), st.none() | st.integers(0, 10**9))
def test_no_delay_is_longer_than_its_bounds(failures: int, chance: float, hint_ms: int | None) -> None:
    """Nobody waits for more than the configured maximum, or an hour when the service asked for it."""
    delay_ms = BACKOFF.delay_ms(failures, chance, hint_ms)
    assert 0 <= delay_ms <= max(BACKOFF.max_ms, min(hint_ms or 0, RETRY_AFTER_MS_MAX))


def test_a_hint_of_the_service_is_a_lower_bound() -> None:
    """A service that asks for 30 s is left alone for 30 s, whatever the jitter says."""
    assert BACKOFF.delay_ms(1, 0.0, 30_000) == 30_000


def test_a_hint_shorter_than_the_jitter_shortens_nothing() -> None:
    """A hint of one second does not make a daemon hurry that waits for minutes already."""
    assert BACKOFF.delay_ms(10, 0.5, 1000) == 150_000


def test_a_hint_is_itself_bounded() -> None:
    """A service (or a proxy) that asks for a year is asked again within an hour."""
    assert BACKOFF.delay_ms(1, 0.0, 365 * 24 * 3_600_000) == RETRY_AFTER_MS_MAX


def test_a_capped_backoff_grows_no_further_than_its_cap() -> None:
    """TooManyUpdates, over within seconds, is not waited out for minutes."""
    assert BACKOFF.capped(500) == Backoff(500, 500)
    assert BACKOFF.capped(10_000) == Backoff(1000, 10_000)
