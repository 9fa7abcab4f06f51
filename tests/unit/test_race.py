"""The race: what ends the waiting, and that nothing of it is left running."""

import asyncio

import pytest

from ssm_status_reporter.race import race


class Runner:
    """Runs until it is cancelled, and takes a turn to end."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.has_ended = False

    async def run(self) -> None:
        try:
            self.began.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            self.has_ended = True


async def failing() -> None:
    """Fails at once."""
    raise OSError("unreadable")


async def nothing() -> None:
    """Is over at once."""


async def test_the_first_to_end_ends_the_others() -> None:
    """They are cancelled, and have ended."""
    slow = Runner()
    await race(slow.run(), nothing())
    assert slow.began.is_set()
    assert slow.has_ended


async def test_a_failure_ends_the_others_and_is_raised() -> None:
    """A watch that cannot be read any more is not looked for again in a loop that says nothing."""
    slow = Runner()
    with pytest.raises(OSError, match="unreadable"):
        await race(slow.run(), failing())
    assert slow.has_ended


async def test_a_race_that_is_cancelled_leaves_nothing_running() -> None:
    """Cancelling whoever waits ends all that was waited for, and is not swallowed."""
    runners = Runner(), Runner()
    racing = asyncio.ensure_future(race(*(runner.run() for runner in runners)))
    for runner in runners:
        await runner.began.wait()
    racing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await racing
    assert [runner.has_ended for runner in runners] == [True, True]
