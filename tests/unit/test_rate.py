"""Rate: a bucket of tokens that gives way while the service throttles, and climbs back (rule 12)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssm_status_reporter.domain.limits import RATE_FLOOR_PER_SECOND
from ssm_status_reporter.domain.rate import CLIMB_SHARE, RAMP_SHARE, Rate

FULL = Rate.full(5.0, 10, 0)
EMPTY = FULL.taken(10)


def test_a_quiet_time_is_paid_back_with_a_burst() -> None:
    """After a quiet time ten calls may go out at once, and then none."""
    assert FULL.available == 10
    assert EMPTY.available == 0
    assert EMPTY.at(3_600_000).available == 10


def test_tokens_come_at_the_rate() -> None:
    """At 5 calls a second the next one may go out after 200 ms."""
    assert EMPTY.wait_ms in {200, 201}
    assert EMPTY.at(EMPTY.wait_ms).available == 1
    assert EMPTY.at(199).available == 0
    assert EMPTY.at(1000).available == 5


def test_a_call_that_was_not_optional_is_owed() -> None:
    """The call after a question goes out in its slot, and the next one waits the longer."""
    owing = EMPTY.taken(1)
    assert owing.available == 0
    assert owing.at(200).available == 0
    assert owing.at(owing.wait_ms).available == 1


def test_a_throttled_answer_halves_the_rate_and_spends_the_burst() -> None:
    """A service that throttles gets half as many calls, from now on."""
    slower = FULL.throttled(0)
    assert slower.per_second == 2.5
    assert slower.available == 0


def test_the_answers_to_one_burst_are_one_sign() -> None:
    """Ten calls throttled together halve the rate once; a second later they would halve it again."""
    slower = FULL.throttled(0).throttled(1).throttled(999)
    assert slower.per_second == 2.5
    assert slower.throttled(1000).per_second == 1.25


def test_the_rate_never_falls_below_its_floor() -> None:
    """A service that throttles for hours still gets a call every ten seconds."""
    rate = FULL
    for second in range(100):
        rate = rate.throttled(second * 1000)
    assert rate.per_second == RATE_FLOOR_PER_SECOND
    assert rate.at(200_000).available >= 1


def test_a_configured_rate_at_the_floor_is_not_raised_by_throttling() -> None:
    """Whoever configured the lowest rate there is keeps it."""
    assert Rate.full(RATE_FLOOR_PER_SECOND, 1, 0).throttled(0).per_second == RATE_FLOOR_PER_SECOND


def test_the_rate_climbs_back_with_each_call_that_was_not_throttled() -> None:
    """After a throttle the configured rate is reached again after 25 calls, and not exceeded."""
    rate = FULL.throttled(0)
    for _ in range(24):
        rate = rate.accepted()
    assert rate.per_second < 5.0
    assert rate.accepted().per_second == pytest.approx(5.0)
    for _ in range(10):
        rate = rate.accepted()
    assert rate.per_second == 5.0
    assert CLIMB_SHARE == 0.02


def test_a_backlog_ramps_up_when_a_hold_opens() -> None:
    """What waited behind an outage does not come all at once."""
    ramp = FULL.ramped(0)
    assert ramp.per_second == RAMP_SHARE * 5.0
    assert ramp.available <= 1


def test_a_ramp_never_speeds_up_a_rate_that_gave_way_already() -> None:
    """A throttled rate is not raised by the end of an outage."""
    slow = Rate.full(5.0, 10, 0).throttled(0).throttled(1000).throttled(2000).throttled(3000)
    assert slow.ramped(3000).per_second == slow.per_second


def test_a_changed_configuration_is_taken_at_once() -> None:
    """A reload that lowers the rate lowers it now; one that raises it lets a slowed rate climb."""
    assert FULL.relimited(2.0, 3).per_second == 2.0
    assert FULL.relimited(2.0, 3).available == 3
    assert FULL.relimited(50.0, 20).per_second == 50.0
    assert FULL.throttled(0).relimited(50.0, 20).per_second == 2.5
    assert FULL.throttled(0).relimited(1.0, 1).per_second == 1.0


@given(
    st.floats(RATE_FLOOR_PER_SECOND, 1000),
    st.integers(1, 100),
    st.lists(
        st.tuples(st.integers(0, 5000), st.sampled_from(["take", "throttled", "accepted", "ramped"])), max_size=60
    ),
)
def test_over_any_time_no_more_calls_go_out_than_burst_and_rate_allow(
    per_second: float, burst: int, steps: list[tuple[int, str]]
) -> None:
    """Whatever the service answers, it never sees more calls than the configuration allows."""
    rate, now_ms, calls = Rate.full(per_second, burst, 0), 0, 0
    for pause_ms, step in steps:
        now_ms += pause_ms
        rate = rate.at(now_ms)
        match step:
            case "take":
                calls += rate.available
                rate = rate.taken(rate.available)
            case "throttled":
                rate = rate.throttled(now_ms)
            case "accepted":
                rate = rate.accepted()
            case _:
                rate = rate.ramped(now_ms)
        assert RATE_FLOOR_PER_SECOND <= rate.per_second <= per_second
    assert calls <= burst + per_second * now_ms / 1000 + 0.001
