"""Dates as RFC 3339 writes them, with an offset, to milliseconds since 1970-01-01T00:00:00Z and back.

Rules:
  * The offset is required: a local time is no date. ``Z`` and ``T`` may be lower case, and a blank may stand
    for ``T``, as ``date --rfc-3339`` prints it.
  * Exact: any number of fractional digits is read, and what is finer than a millisecond is cut off, never rounded.
  * A leap second (23:59:60 UTC on the last day of a month) is the last millisecond of its day: it is not
    before anything in that day and not after anything in the next.
  * From 1970 to 9999: the service's dates count from 1970.

Source: RFC 3339, section 5.6 and appendix D.
"""

import re
from datetime import UTC, date, datetime
from typing import Final

_DATE: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII
)
_WITHOUT_OFFSET: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d)?(\.\d+)?", re.ASCII)
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()
_DAY_MS: Final = 24 * 60 * 60 * 1000
_AFTER_MS: Final = (date.max.toordinal() + 1 - _EPOCH_DAY) * _DAY_MS
_LEAP_SECOND: Final = 60


def milliseconds(text: str) -> int:
    """The date in ``text``. Raises ValueError, whose text says what is wrong with it."""
    match = _DATE.fullmatch(text)
    if match is None:
        if _WITHOUT_OFFSET.fullmatch(text):
            raise ValueError("has no offset: append Z for UTC, or one such as +02:00")
        raise ValueError("is not an RFC 3339 date such as 2026-11-22T13:23:57Z")
    year, month, day, hour, minute, second, fraction, sign, offset_hour, offset_minute = match.groups("0")
    try:
        days = date(int(year), int(month), int(day)).toordinal() - _EPOCH_DAY
    except ValueError as error:
        raise ValueError(f"is not in the calendar: {error}") from None
    minutes = _below(24, hour) * 60 + _below(60, minute)
    offset_minutes = _below(24, offset_hour) * 60 + _below(60, offset_minute)
    utc_minutes = minutes + (offset_minutes if sign == "-" else -offset_minutes)
    leap = int(second) == _LEAP_SECOND
    second_ms = (_below(60, second) if not leap else 59) * 1000
    utc_ms = days * _DAY_MS + utc_minutes * 60_000 + second_ms + int(fraction[:3].ljust(3, "0"))
    if not 0 <= utc_ms < _AFTER_MS:
        raise ValueError("is not between the years 1970 and 9999")
    return _last_ms_of_month(utc_ms) if leap else utc_ms


def date_text(ms: int) -> str:
    """The date in UTC, to the millisecond: ``2026-11-22T13:23:57.041Z``."""
    moment = datetime.fromtimestamp(ms // 1000, UTC).replace(microsecond=ms % 1000 * 1000)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _below(bound: int, digits: str) -> int:
    number = int(digits)
    if number >= bound:
        raise ValueError(f"is not a time of day: {digits} is not below {bound}")
    return number


def _last_ms_of_month(utc_ms: int) -> int:
    """The end of the day that a leap second belongs to; ``utc_ms`` lies in the second before it."""
    days, in_day_ms = divmod(utc_ms, _DAY_MS)
    ordinal = _EPOCH_DAY + days
    last_of_month = ordinal == date.max.toordinal() or date.fromordinal(ordinal + 1).day == 1
    if in_day_ms < _DAY_MS - 1000 or not last_of_month:
        raise ValueError("is no leap second: those are 23:59:60 UTC on the last day of a month")
    return (days + 1) * _DAY_MS - 1
