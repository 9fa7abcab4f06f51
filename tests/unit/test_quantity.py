"""Durations and sizes as operators write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssm_status_reporter.domain.quantity import duration_ms, duration_text, size_bytes, size_text

MILLISECONDS_MAX = 10**11


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("250ms", 250), ("2s", 2_000), ("5m", 300_000), ("24h", 86_400_000), ("0s", 0), ("007s", 7_000)],
)
def test_a_duration_is_read_in_milliseconds(text: str, milliseconds: int) -> None:
    """``5m`` is five minutes, not five metres and not five milliseconds."""
    assert duration_ms(text) == milliseconds


@pytest.mark.parametrize(("text", "count"), [("512B", 512), ("64KiB", 65_536), ("1MiB", 1_048_576), ("0B", 0)])
def test_a_size_is_read_in_bytes(text: str, count: int) -> None:
    """``64KiB`` is 65,536 bytes."""
    assert size_bytes(text) == count


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2",
        "s",
        "2 s",
        " 2s",
        "2s ",
        "2s\n",
        "1.5s",
        "-1s",
        "+1s",
        "2S",
        "2sec",
        "1h30m",
        "2d",
        "٢s",
        "9" * 13 + "s",
    ],
)
def test_what_is_no_duration_is_refused_with_the_units(text: str) -> None:
    """A duration that could be misread is refused, and the error lists what to write."""
    with pytest.raises(ValueError, match=r"not a duration: .*; write a whole number and one of ms, s, m, h"):
        duration_ms(text)


@pytest.mark.parametrize(
    "text", ["", "64", "64K", "64kb", "64KB", "64kib", "1 MiB", "1.5MiB", "-1B", "1GiB", "1MiB\n"]
)
def test_what_is_no_size_is_refused_with_the_units(text: str) -> None:
    """``64KB``, which may be 64,000 or 65,536, is refused, and the error lists what to write."""
    with pytest.raises(ValueError, match=r"not a size: .*; write a whole number and one of B, KiB, MiB"):
        size_bytes(text)


def test_a_long_text_is_not_quoted_whole() -> None:
    """Whatever stands in the file, the error stays readable."""
    with pytest.raises(ValueError, match="not a duration") as refused:
        duration_ms("x" * 100_000)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("milliseconds", "text"), [(0, "0s"), (1, "1ms"), (1_500, "1500ms"), (90_000, "90s"), (86_400_000, "24h")]
)
def test_a_duration_is_written_in_the_largest_unit_that_divides_it(milliseconds: int, text: str) -> None:
    """``config show`` says 24h and not 86400000ms."""
    assert duration_text(milliseconds) == text


@given(st.integers(0, MILLISECONDS_MAX))
def test_a_duration_written_is_read_back_as_the_same(milliseconds: int) -> None:
    """What ``config show`` prints means what was configured."""
    assert duration_ms(duration_text(milliseconds)) == milliseconds


@given(st.integers(0, MILLISECONDS_MAX))
def test_a_size_written_is_read_back_as_the_same(count: int) -> None:
    """As for durations."""
    assert size_bytes(size_text(count)) == count


def test_a_negative_quantity_has_no_text() -> None:
    """A negative duration is a defect of the program, and is not printed as if it were one."""
    with pytest.raises(ValueError, match="not negative"):
        duration_text(-1)
