"""Reload: which keys of the configuration a running daemon takes, and which need a restart.

What is not named in `TAKEN` needs a restart, and the log names it.
"""

from collections.abc import Iterator
from typing import Final

from ssm_status_reporter.config import Configuration
from ssm_status_reporter.config.keys import keys
from ssm_status_reporter.config.schema import Section

TAKEN: Final = frozenset(
    {
        "debounce.window",
        "debounce.compare",
        "delivery.concurrency",
        "delivery.rate",
        "delivery.burst",
        "delivery.backoff.initial",
        "delivery.backoff.max",
        "delivery.park.retry_every",
        "delivery.park.give_up_after",
        "outbox.max_dead_letters",
        "reconcile.interval",
        "log.level",
        "log.format",
    }
)


def changed_keys(before: Configuration, after: Configuration) -> tuple[str, ...]:
    """The paths of the keys whose values differ, in the configuration's order."""
    return tuple(_changed(before, after, ""))


def _changed(before: Section, after: Section, prefix: str) -> Iterator[str]:
    for key in keys(type(after)):
        old, new = getattr(before, key.attribute), getattr(after, key.attribute)
        path = f"{prefix}{key.name}"
        if isinstance(old, Section) and isinstance(new, Section):
            yield from _changed(old, new, f"{path}.")
        elif old != new:
            yield path
