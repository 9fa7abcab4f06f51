"""The race: several things are waited for, and the first to end ends the waiting.

What lost has ended by then, and so has all of it when the waiting itself is cancelled: nothing is left running.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any


async def race(*runners: Coroutine[Any, Any, object]) -> None:
    """Return once one has ended, whatever with: a failure ends the waiting as well. The others are cancelled."""
    tasks = [asyncio.ensure_future(runner) for runner in runners]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
