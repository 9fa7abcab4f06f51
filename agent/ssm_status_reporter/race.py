"""The race: several things are waited for, and the first to end ends the waiting.

What lost has ended by then, and so has all of it when the waiting itself is cancelled: nothing is left running.
A failure is nobody's to swallow: whoever waits in a loop would wait for the same again, at once and in silence.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any


async def race(*runners: Coroutine[Any, Any, object]) -> None:
    """Return once one has ended, or raise what it failed of. The others are cancelled."""
    tasks = [asyncio.ensure_future(runner) for runner in runners]
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in ended:
        task.result()
