"""What is to be published: kept from one connection to the next, and not for ever."""

from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from ssm_status_reporter.domain.limits import (
    MQTT_POSTING_ATTEMPTS_MAX,
    MQTT_POSTING_SILENCES_MAX,
    MQTT_POSTINGS_OUT_MAX,
)
from ssm_status_reporter.sources.mqtt_postings import Postings
from ssm_status_reporter.sources.mqtt_topics import Posting

BAD = tuple(Posting("bad", str(number).encode()) for number in range(MQTT_POSTINGS_OUT_MAX))
GOOD = Posting("good", b"")


@pytest.fixture
def postings() -> Postings:
    """A full hand, and one behind it."""
    made = Postings()
    for posting in (*BAD, GOOD):
        made.add(posting)
    return made


@pytest.mark.parametrize(
    ("end", "ends_max"),
    [(Postings.interrupt, MQTT_POSTING_ATTEMPTS_MAX), (Postings.give_up, MQTT_POSTING_SILENCES_MAX)],
)
def test_what_was_out_goes_out_again_and_not_for_ever(
    end: Callable[[Postings], None], ends_max: int, postings: Postings
) -> None:
    """What ended the connection, or is never confirmed, makes room for the others in the end, and it is said."""
    with capture_logs() as logs:
        for _ in range(ends_max):
            assert postings.at_hand() == BAD
            end(postings)
    assert postings.at_hand() == (GOOD,)
    (said,) = logs
    assert said["topics"] == ["bad"]


def test_what_is_confirmed_in_between_begins_anew(postings: Postings) -> None:
    """Connections end for many reasons: only ends in a row, with the same out, speak against what was published."""
    with capture_logs() as logs:
        for _ in range(MQTT_POSTING_SILENCES_MAX):
            postings.at_hand()
            postings.give_up()
            postings.confirm()
            postings.add(GOOD)
    assert logs == []


def test_an_end_with_nothing_out_tells_nothing(postings: Postings) -> None:
    """Nothing was being published: whatever comes next is not to blame."""
    with capture_logs() as logs:
        for _ in range(MQTT_POSTING_SILENCES_MAX):
            postings.give_up()
            postings.interrupt()
    assert postings.at_hand() == BAD
    assert logs == []
