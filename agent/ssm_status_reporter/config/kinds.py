"""The kinds of values a key takes: how each is read from YAML, written back, and described.

Rules:
  * A kind reads one `Scalar` and returns what the program works with, or raises `UnacceptableError` with
    the reason and, where there is one, what to write instead.
  * What ``write`` returns is read back as the same value.
  * A bound has its reason, and the administrator who meets the bound is told it.
  * YAML 1.1's surprises are refused, not guessed at: ``017`` (octal), ``1:30`` (sexagesimal), ``no`` for a name.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Protocol

from ssm_status_reporter.config.document import Scalar
from ssm_status_reporter.config.errors import UnacceptableError
from ssm_status_reporter.domain.quantity import (
    DURATION_PATTERN,
    SIZE_PATTERN,
    duration_ms,
    duration_text,
    size_bytes,
    size_text,
)

Plain = str | int | float | bool | None
JsonSchema = dict[str, object]

QUOTED_CHARS_MAX: Final = 60
"""What an error quotes of a value."""
TEXT_CHARS_MAX: Final = 1024
"""A name, a host, a path or a URL; far above any in use."""

_WHOLE: Final = re.compile(r"-?(0|[1-9][0-9]*)", re.ASCII)
_DECIMAL: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?", re.ASCII)


class Kind(Protocol):
    """How the value of a key is read, written and described."""

    def read(self, scalar: Scalar) -> object:
        """The value the program works with. Raises `UnacceptableError`."""
        ...

    def write(self, value: Any) -> Plain:
        """The value as it stands in YAML."""
        ...

    def json_schema(self) -> JsonSchema:
        """The value as JSON Schema, as far as that can say it."""
        ...

    def remark(self) -> str:
        """What the key's description ends in: bounds and their reason. Empty when there are none."""
        ...


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with its unit; held in the smallest unit. Made by :func:`duration` and :func:`size`."""

    noun: str
    least: int
    most: int
    why: str
    pattern: str
    units: tuple[str, str]
    read_text: Callable[[str], int]
    write_text: Callable[[int], str]

    def read(self, scalar: Scalar) -> int:
        """The amount. The text decides, not YAML's value: ``1:30`` must not pass as 90."""
        if _is_number(scalar) and re.fullmatch("[0-9]+", scalar.text, re.ASCII):
            text = scalar.text[:QUOTED_CHARS_MAX]
            hint = f"write {' or '.join(text + unit for unit in self.units)}"
            raise UnacceptableError(f"a number without a unit where a {self.noun} is due", hint)
        if scalar.value is None or isinstance(scalar.value, bool):
            raise UnacceptableError(f"must be a {self.noun}, not {shown(scalar)}")
        try:
            amount = self.read_text(scalar.text)
        except ValueError as error:
            reason, _, hint = str(error).partition("; ")
            raise UnacceptableError(reason, hint) from error
        if not self.least <= amount <= self.most:
            raise UnacceptableError(f"{scalar.text} is out of range, {self._range()}")
        return amount

    def write(self, value: Any) -> str:
        """In the largest unit that divides it."""
        return self.write_text(value)

    def json_schema(self) -> JsonSchema:
        """A text with a unit; bounds of such are beyond JSON Schema."""
        return {"type": "string", "pattern": self.pattern}

    def remark(self) -> str:
        """The bounds."""
        return f"From {self._range()}."

    def _range(self) -> str:
        return f"{self.write_text(self.least)} to {self.write_text(self.most)}: {self.why}"


def duration(least: str, most: str, why: str) -> Quantity:
    """``250ms``, ``2s``, ``5m``, ``24h``; held in milliseconds."""
    bounds = (duration_ms(least), duration_ms(most))
    return Quantity("duration", *bounds, why, DURATION_PATTERN, ("s", "ms"), duration_ms, duration_text)


def size(least: str, most: str, why: str) -> Quantity:
    """``512B``, ``64KiB``, ``1MiB``; held in bytes."""
    bounds = (size_bytes(least), size_bytes(most))
    return Quantity("size", *bounds, why, SIZE_PATTERN, ("KiB", "B"), size_bytes, size_text)


@dataclass(frozen=True, slots=True)
class Number:
    """A number without a unit. Made by :func:`whole` and :func:`decimal`."""

    noun: str
    json_type: str
    pattern: re.Pattern[str]
    held_as: type[int] | type[float]
    least: float
    most: float
    why: str

    def read(self, scalar: Scalar) -> float:
        """The number, written in plain decimal digits."""
        if not _is_number(scalar):
            quoted = isinstance(scalar.value, str) and self.pattern.fullmatch(scalar.value)
            hint = "write it without quotes" if quoted else None
            raise UnacceptableError(f"must be {self.noun}, not {shown(scalar)}", hint)
        if not self.pattern.fullmatch(scalar.text):
            raise UnacceptableError(f"must be {self.noun} in plain decimal digits, not {shown(scalar)}")
        if len(scalar.text) > QUOTED_CHARS_MAX or not self.least <= float(scalar.text) <= self.most:
            raise UnacceptableError(f"{scalar.text[:QUOTED_CHARS_MAX]} is out of range, {self._range()}")
        return self.held_as(scalar.text)

    def write(self, value: Any) -> Plain:
        """Itself; a whole number without a fraction."""
        return int(value) if math.floor(value) == value else float(value)

    def json_schema(self) -> JsonSchema:
        """A number within its bounds."""
        return {"type": self.json_type, "minimum": self.least, "maximum": self.most}

    def remark(self) -> str:
        """The bounds."""
        return f"From {self._range()}."

    def _range(self) -> str:
        return f"{self.least} to {self.most}: {self.why}"


def whole(least: int, most: int, why: str) -> Number:
    """A number without a fraction."""
    return Number("a whole number", "integer", _WHOLE, int, least, most, why)


def decimal(least: float, most: float, why: str) -> Number:
    """A number with or without a fraction."""
    return Number("a number", "number", _DECIMAL, float, least, most, why)


@dataclass(frozen=True, slots=True)
class Switch:
    """``true`` or ``false`` in any of YAML's spellings, or one of ``others``."""

    others: tuple[str, ...] = ()

    def read(self, scalar: Scalar) -> bool | str:
        """The truth, or the other name."""
        if isinstance(scalar.value, bool):
            return scalar.value
        if isinstance(scalar.value, str) and scalar.value in self.others:
            return scalar.value
        hint = "write it without quotes" if scalar.text in {"true", "false"} else None
        wanted = "".join(f"{other}, " for other in self.others) + "true or false"
        raise UnacceptableError(f"must be {wanted}, not {shown(scalar)}", hint)

    def write(self, value: Any) -> Plain:
        """Itself."""
        return bool(value) if isinstance(value, bool) else str(value)

    def json_schema(self) -> JsonSchema:
        """A boolean, or one of the names."""
        return {"enum": [*self.others, True, False]} if self.others else {"type": "boolean"}

    def remark(self) -> str:
        """Nothing."""
        return ""


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few names."""

    names: type[StrEnum]

    def read(self, scalar: Scalar) -> StrEnum:
        """The member of that name."""
        names = [str(name) for name in self.names]
        if isinstance(scalar.value, str) and scalar.value in names:
            return self.names(scalar.value)
        near = get_close_matches(scalar.text.lower(), names, n=1)
        hint = f"did you mean `{near[0]}`?" if near else None
        raise UnacceptableError(f"must be one of {', '.join(names)}, not {shown(scalar)}", hint)

    def write(self, value: Any) -> str:
        """The name."""
        return str(value)

    def json_schema(self) -> JsonSchema:
        """One of the names."""
        return {"enum": [str(name) for name in self.names]}

    def remark(self) -> str:
        """Nothing: the schema lists the names."""
        return ""


@dataclass(frozen=True, slots=True)
class Text:
    """A text on one line, held as ``held_as``. ``check`` raises `UnacceptableError` for one of the wrong sort."""

    check: Callable[[str], None]
    held_as: type[str] | type[Path] = str

    def read(self, scalar: Scalar) -> str | Path:
        """The text, checked."""
        text = _one_line(scalar)
        self.check(text)
        return self.held_as(text)

    def write(self, value: Any) -> str:
        """Itself."""
        return str(value)

    def json_schema(self) -> JsonSchema:
        """A text that is not empty; what it must look like is beyond a schema."""
        return {"type": "string", "minLength": 1, "maxLength": TEXT_CHARS_MAX}

    def remark(self) -> str:
        """Nothing."""
        return ""


def _one_line(scalar: Scalar) -> str:
    """A text that may stand in a log line."""
    text = scalar.value
    if text is None or text == "":
        raise UnacceptableError("must not be empty", "remove the line to keep the default")
    if not isinstance(text, str):
        quoted = scalar.text[:QUOTED_CHARS_MAX]
        raise UnacceptableError(
            f"must be a text, and YAML reads {quoted} as {_type_name(scalar)}", f'quote it: "{quoted}"'
        )
    if len(text) > TEXT_CHARS_MAX:
        raise UnacceptableError(f"longer than {TEXT_CHARS_MAX} characters")
    if not text.isprintable():
        raise UnacceptableError("holds a control character, or another that does not print")
    return text


def shown(scalar: Scalar) -> str:
    """The scalar for an error text: short, and plain about what YAML made of it."""
    if scalar.value is None:
        return "empty (null)"
    if isinstance(scalar.value, str):
        text = scalar.value if len(scalar.value) <= QUOTED_CHARS_MAX else scalar.value[:QUOTED_CHARS_MAX] + "…"
        return repr(text)
    return f"{scalar.text[:QUOTED_CHARS_MAX]} ({_type_name(scalar)} to YAML)"


def _type_name(scalar: Scalar) -> str:
    if isinstance(scalar.value, bool):
        return "true" if scalar.value else "false"
    return "a number"


def _is_number(scalar: Scalar) -> bool:
    return isinstance(scalar.value, int | float) and not isinstance(scalar.value, bool)
