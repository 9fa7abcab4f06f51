"""The schema as data: for each section its keys, as the reader, the renderer and the JSON Schema want them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from types import NoneType
from typing import Annotated, get_args, get_origin

import msgspec.structs

from ssm_status_reporter.config.schema import Configuration, Key, Section


@dataclass(frozen=True, slots=True)
class Leaf:
    """A key with a value. ``name`` is the key in YAML, ``attribute`` that of the struct."""

    name: str
    attribute: str
    key: Key
    nullable: bool


@dataclass(frozen=True, slots=True)
class Branch:
    """A key with a section under it; where the section is ``nullable``, null means that there is none."""

    name: str
    attribute: str
    section: type[Section]
    nullable: bool


@cache
def keys(section: type[Section]) -> tuple[Leaf | Branch, ...]:
    """The section's keys, in order."""
    return tuple(_key(info) for info in msgspec.structs.fields(section))


def paths(section: type[Section] = Configuration, prefix: str = "") -> Iterator[str]:
    """Every key path, such as ``delivery.backoff.initial``; sections first, then what is in them."""
    for key in keys(section):
        yield prefix + key.name
        if isinstance(key, Branch):
            yield from paths(key.section, f"{prefix}{key.name}.")


def _key(info: msgspec.structs.FieldInfo) -> Leaf | Branch:
    if get_origin(info.type) is Annotated:
        plain, key = get_args(info.type)
        return Leaf(info.encode_name, info.name, key, NoneType in get_args(plain))
    members = get_args(info.type) or (info.type,)
    return Branch(info.encode_name, info.name, members[0], NoneType in members)
