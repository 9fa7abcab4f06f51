"""Dates of results: RFC 3339 with an offset, exact to the millisecond."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssm_status_reporter.domain.rfc3339 import date_text, milliseconds

NOON = 1795348800000  # 2026-11-22T12:00:00Z
END_OF_2016 = 1483228799999  # the last millisecond before 2017: there was a leap second


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-22T12:00:00Z",
        "2026-11-22t12:00:00z",
        "2026-11-22 12:00:00+00:00",
        "2026-11-22T12:00:00-00:00",
        "2026-11-22T13:30:00+01:30",
        "2026-11-21T12:01:00-23:59",
        "2026-11-22T12:00:00.0Z",
        "2026-11-22T12:00:00.000999999999999999999Z",
    ],
)
def test_every_way_to_write_one_moment(text: str) -> None:
    """A runner may write the moment in any zone and precision: the service gets the same date."""
    assert milliseconds(text) == NOON


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("9999-12-31T23:59:59.999Z", 253402300799999),
        ("2024-02-29T00:00:00.5Z", 1709164800500),
        ("2026-11-22T12:00:00.1239Z", NOON + 123),
    ],
)
def test_bounds_and_fractions(text: str, expected: int) -> None:
    """The first and last date there is are taken, and what is finer than a millisecond is cut off."""
    assert milliseconds(text) == expected


@pytest.mark.parametrize(
    "text",
    ["2016-12-31T23:59:60Z", "2016-12-31T23:59:60.7Z", "2017-01-01T00:59:60+01:00", "2016-12-31T15:59:60-08:00"],
)
def test_a_leap_second_is_the_end_of_its_day(text: str) -> None:
    """A date in a leap second is neither refused nor later than the next day."""
    assert milliseconds(text) == END_OF_2016


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("2026-11-22T12:00:00", "has no offset"),
        ("2026-11-22T12:00", "has no offset"),
        ("2026-11-22", "is not an RFC 3339 date"),
        ("2026-11-22T12:00Z", "is not an RFC 3339 date"),
        ("2026-11-22T12:00:00.Z", "is not an RFC 3339 date"),
        ("2026-11-22T12:00:00+0100", "is not an RFC 3339 date"),
        ("2026-11-22T12:00:00Z ", "is not an RFC 3339 date"),
        ("2026-11-22T12:00:00Z\n", "is not an RFC 3339 date"),
        ("٢٠٢٦-11-22T12:00:00Z", "is not an RFC 3339 date"),
        ("1795348800", "is not an RFC 3339 date"),
        ("", "is not an RFC 3339 date"),
        ("2026-02-29T12:00:00Z", "is not in the calendar"),
        ("0000-01-01T00:00:00Z", "is not in the calendar"),
        ("2026-11-22T24:00:00Z", "24 is not below 24"),
        ("2026-11-22T12:60:00Z", "60 is not below 60"),
        ("2026-11-22T12:00:61Z", "61 is not below 60"),
        ("2026-11-22T12:00:00+24:00", "24 is not below 24"),
        ("2026-11-22T12:00:00+01:60", "60 is not below 60"),
        ("2026-11-22T12:00:60Z", "is no leap second"),
        ("2026-11-22T23:59:60Z", "is no leap second"),
        ("2016-12-31T23:59:60+01:00", "is no leap second"),
        ("1969-12-31T23:59:59Z", "1970 and 9999"),
        ("1970-01-01T00:00:00+00:01", "1970 and 9999"),
        ("9999-12-31T23:59:59-00:01", "1970 and 9999"),
    ],
)
def test_what_is_no_date_is_told_why(text: str, why: str) -> None:
    """A date that cannot be understood in one way only is refused, with the reason."""
    with pytest.raises(ValueError, match=why):
        milliseconds(text)


@given(
    st.datetimes(datetime(1971, 1, 1), datetime(9998, 12, 31)),  # noqa: DTZ001 - the zone is drawn beside it
    st.integers(-23 * 60 - 59, 23 * 60 + 59),
)
def test_it_agrees_with_the_calendar(local: datetime, offset_minutes: int) -> None:
    """Whatever date a runner's language prints, it arrives as that moment."""
    moment = local.replace(tzinfo=timezone(timedelta(minutes=offset_minutes)))
    expected = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    assert milliseconds(moment.isoformat()) == expected


@given(st.integers(0, 253402300799999))
def test_what_is_written_is_read_back(ms: int) -> None:
    """Every date that is shown or sent is one that is taken, and the same."""
    assert milliseconds(date_text(ms)) == ms
