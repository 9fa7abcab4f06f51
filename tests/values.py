"""Values of either kind, a dataclass or a msgspec struct, changed in a test."""

import dataclasses
from typing import TypeVar

import msgspec

T = TypeVar("T")


def replace(value: T, **changes: object) -> T:
    """The value with other members."""
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.replace(value, **changes)
    return dataclasses.replace(value, **changes)  # type: ignore[type-var]  # what else a test changes is a dataclass
