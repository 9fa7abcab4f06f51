"""The age in the status line: short, true for as long as it stands there, and told ever more rarely."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssm_status_reporter.supervision import age

MINUTE, HOUR, DAY = 60, 3600, 86_400


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (12, "12 s"),
        (119, "119 s"),
        (2 * MINUTE, "2 min"),
        (2 * HOUR - 1, "119 min"),
        (2 * HOUR, "2 h"),
        (2 * DAY - 1, "47 h"),
        (2 * DAY, "2 days"),
        (400 * DAY, "400 days"),
    ],
)
def test_an_age_is_told_in_the_unit_that_an_operator_would_use(seconds: int, text: str) -> None:
    """Seconds for two minutes, minutes for two hours, hours for two days, then days."""
    assert age(seconds).text == text


@given(st.integers(0, 10 * DAY))
def test_an_age_is_told_anew_before_it_is_far_off(seconds: int) -> None:
    """For as long as it stands there it is off by one unit, or by ten seconds, at most; and idleness stays cheap."""
    told = age(seconds)
    unit = {"s": 1, "min": MINUTE, "h": HOUR, "days": DAY}[told.text.split()[1]]
    assert told.fresh_seconds <= max(unit, 10)
    assert told.fresh_seconds >= 10
