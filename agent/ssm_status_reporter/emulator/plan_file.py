"""The faults file: a YAML text as a `FaultPlan`, or everything that is wrong with it, as with a configuration.

Rules:
  * All errors at once, each with its line and key path; a mistyped key or value is told what it is close to.
  * The text is composed as a configuration is: no aliases, no tags, and no key twice. A section or list with
    nothing under it is as good as absent.
  * msgspec stops at the first error, so each part is converted on its own.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from types import UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Struct

from ssm_status_reporter.config.document import (
    MalformedError,
    Mapping,
    Node,
    Position,
    Scalar,
    Sequence,
    compose,
)
from ssm_status_reporter.config.errors import BadConfiguration, ConfigurationError
from ssm_status_reporter.config.kinds import shown
from ssm_status_reporter.emulator.faults import (
    Code,
    CodeOrKind,
    Duration,
    FaultPlan,
    Kind,
    SignedDuration,
    skew_ms,
)

_DURATIONS: Final = (Duration, SignedDuration)
_KINDS: Final = tuple(str(kind) for kind in Kind if kind is not Kind.ERROR)


def load_plan(path: Path) -> FaultPlan:
    """The plan in the file at ``path``. Raises `BadConfiguration`, also when it cannot be read."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise _bad(path, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise _bad(path, f"not UTF-8: byte 0x{error.object[error.start]:02x}") from error
    return parse_plan(text, str(path))


def parse_plan(text: str, name: str) -> FaultPlan:
    """The plan that ``text`` describes; an empty one is the default plan. Raises `BadConfiguration`."""
    try:
        root = compose(text)
    except MalformedError as error:
        raise BadConfiguration(name, [error.error]) from error
    reading = _Reading()
    data = {} if root is None else reading.value(root, FaultPlan, "")
    if reading.errors:
        raise BadConfiguration(name, sorted(reading.errors, key=lambda error: error.line or 0))
    return msgspec.convert(data, FaultPlan)


class _Reading:
    """One walk of the tree along the plan's types; ``errors`` grows as it goes."""

    def __init__(self) -> None:
        self.errors: list[ConfigurationError] = []

    def value(self, node: Node, wanted: Any, path: str) -> object:
        """What the node holds, as plain data; of something bad, no matter what."""
        shapes = _alternatives(wanted)
        if isinstance(node, Scalar):
            return self._scalar(node, wanted, path)
        for shape in shapes:
            if isinstance(node, Mapping) and _is_structure(shape):
                return self._structure(node, shape, path)
            if isinstance(node, Sequence) and _is_list(shape):
                item = get_args(shape)[0]
                return [self.value(child, item, f"{path}[{i}]") for i, child in enumerate(node.items)]
        what = "a section" if isinstance(node, Mapping) else "a list"
        self._error(path, f"must be {_wanted(shapes)}, not {what}", None, node.position)
        return None

    def _structure(self, node: Mapping, shape: type[Struct], path: str) -> dict[str, object]:
        fields = {field.encode_name: field for field in msgspec.structs.fields(shape)}
        before = len(self.errors)
        data: dict[str, object] = {}
        for entry in node.entries:
            key = f"{path}.{entry.key}" if path else entry.key
            if entry.key not in fields:
                self._error(key, "unknown key", _near(entry.key, fields, "here are only "), entry.position)
            elif entry.key in data:
                self._error(key, "set twice", "remove one of them", entry.position)
            elif not (isinstance(entry.node, Scalar) and entry.node.value is None):
                data[entry.key] = self.value(entry.node, fields[entry.key].type, key)
        for name, field in fields.items():
            if field.required and name not in data:
                self._error(f"{path}.{name}", "required", None, node.position)
        if len(self.errors) == before:
            try:
                msgspec.convert(data, shape)
            except msgspec.ValidationError as error:
                self._error(path, str(error), None, node.position)
        return data

    def _scalar(self, scalar: Scalar, wanted: Any, path: str) -> object:
        try:
            msgspec.convert(scalar.value, wanted)
        except msgspec.ValidationError as error:
            reason = re.sub(r" - at `\$.*`$", "", str(error))
            self._error(path, *_explained(scalar, _alternatives(wanted), reason), scalar.position)
        return scalar.value

    def _error(self, key: str, reason: str, hint: str | None, position: Position) -> None:
        self.errors.append(ConfigurationError(key, reason, hint, position.line, position.column))


def _explained(scalar: Scalar, shapes: tuple[Any, ...], reason: str) -> tuple[str, str | None]:
    """What is wrong with a value, and what to write; msgspec's ``reason`` where the plan has no word of its own."""
    if any(shape in _DURATIONS for shape in shapes):
        return _not_a_duration(scalar)
    if str in shapes:
        return f"must be a text, and YAML reads it as {shown(scalar)}", "quote it"
    if any(_word(shape) is None for shape in shapes):
        return f"{reason}, and this is {shown(scalar)}", None
    names = [name for shape in shapes for name in _names(shape)]
    return f"must be {_wanted(shapes)}, not {shown(scalar)}", _near(scalar.text, names)


def _not_a_duration(scalar: Scalar) -> tuple[str, str | None]:
    if not isinstance(scalar.value, str):
        hint = f"write {scalar.text}s or {scalar.text}ms" if scalar.text.lstrip("-").isdigit() else None
        return f"must be a duration with its unit, not {shown(scalar)}", hint
    try:
        skew_ms(scalar.text)
    except ValueError as error:
        reason, _, hint = str(error).partition("; ")
        return reason, hint
    return f"must not be negative: {scalar.text}", None


def _wanted(shapes: tuple[Any, ...]) -> str:
    """What would be right, in words."""
    return " or ".join(_word(shape) or "one value" for shape in shapes)


def _word(shape: Any) -> str | None:
    if shape == CodeOrKind:
        return f"an error code, such as InternalServerError, or one of {', '.join(_KINDS)}"
    if shape == Code:
        return "an error code, such as InternalServerError"
    if _is_structure(shape):
        return "a section"
    if _is_list(shape):
        return "a list"
    if get_origin(shape) is Literal:
        return " or ".join(get_args(shape))
    return f"one of {', '.join(_names(shape))}" if _names(shape) else None


def _names(shape: Any) -> tuple[str, ...]:
    """What may be written there, where that is one of a few names."""
    if shape == CodeOrKind:
        return _KINDS
    return tuple(shape) if isinstance(shape, type) and issubclass(shape, StrEnum) else ()


def _is_structure(shape: Any) -> bool:
    return isinstance(shape, type) and issubclass(shape, Struct)


def _is_list(shape: Any) -> bool:
    return get_origin(shape) is tuple


def _alternatives(wanted: Any) -> tuple[Any, ...]:
    """The members of a union but for None, or the type itself."""
    if get_origin(wanted) not in {Union, UnionType}:
        return (wanted,)
    return tuple(member for member in get_args(wanted) if member is not type(None))


def _near(written: str, known: Iterable[str], otherwise: str | None = None) -> str | None:
    names = list(known)
    near = get_close_matches(written.lower().replace("-", "_"), names, n=1)
    if near:
        return f"did you mean `{near[0]}`?"
    return None if otherwise is None else otherwise + ", ".join(names)


def _bad(path: Path, reason: str) -> BadConfiguration:
    return BadConfiguration(str(path), [ConfigurationError("", reason)])
