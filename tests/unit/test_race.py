"""The race: what ends the waiting, and that nothing of it is left running."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

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
    raise OSError


async def nothing() -> None:
    """Is over at once."""


@pytest.mark.parametrize("first", [nothing, failing])
async def test_the_first_to_end_ends_the_others(first: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Whatever it ends with, a failure included, the others are cancelled and have ended."""
    slow = Runner()
    await race(slow.run(), first())
    assert slow.began.is_set()
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
