"""Reload: which keys of the configuration a running daemon takes, and which need a restart.

What is not named in `TAKEN` needs a restart, and the log names it, at each reload until there was one.
"""

from collections.abc import Iterator
from typing import Final, TypeVar

from msgspec import structs

from ssm_status_reporter.config import Configuration
from ssm_status_reporter.config.keys import keys
from ssm_status_reporter.config.schema import Section

SomeSection = TypeVar("SomeSection", bound=Section)

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
        "reconcile.on_start",  # by its name nothing for a daemon that runs, but that it may ask at all
        "log.level",
        "log.format",
    }
)


def taken(running: Configuration, read: Configuration) -> Configuration:
    """What runs once the configuration that was read is taken: it, but for what needs a restart."""
    return _taken(running, read, "")


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


def _taken(running: SomeSection, read: Section, prefix: str) -> SomeSection:
    changes: dict[str, object] = {}
    for key in keys(type(running)):
        old, new = getattr(running, key.attribute), getattr(read, key.attribute)
        path = f"{prefix}{key.name}"
        if isinstance(old, Section) and isinstance(new, Section):
            changes[key.attribute] = _taken(old, new, f"{path}.")
        elif path in TAKEN:
            changes[key.attribute] = new
    return structs.replace(running, **changes)
