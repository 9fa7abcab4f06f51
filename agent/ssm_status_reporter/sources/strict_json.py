"""JSON as RFC 8259 has it, and nothing that parsers take besides: one object, in UTF-8, without surprises.

Rules:
  * Refused: a byte order mark, duplicate keys at any depth, NaN and Infinity, numbers that a reader elsewhere
    would change, halves of surrogate pairs, depth.
  * What may be an incomplete text (`IncompleteError`) is told from what no further byte can mend
    (`UnacceptableError`).
  * A fault below the top stands in the parsed object as a `Fault`, so that the member it spoils can be named.
"""

import json
from dataclasses import dataclass
from typing import Any, Final

from ssm_status_reporter.domain.limits import JSON_DEPTH_MAX
from ssm_status_reporter.sources.quoting import quoted

TOO_DEEP: Final = f"nested deeper than {JSON_DEPTH_MAX} levels"
_BYTE_ORDER_MARK: Final = "\ufeff"


@dataclass(frozen=True, slots=True)
class Fault:
    """Stands where the text has something that JSON does not allow. ``key`` is a duplicate key."""

    reason: str
    key: str | None = None


class IncompleteError(Exception):
    """The bytes are no JSON text, perhaps not yet. ``str`` is the reason."""


class UnacceptableError(Exception):
    """The bytes are, and will remain, none that is taken. ``str`` is the reason, ``key`` the member at fault."""

    def __init__(self, reason: str, key: str | None = None) -> None:
        self.key = key
        super().__init__(reason)


def parse(payload: bytes) -> dict[str, Any]:
    """The object. Raises `IncompleteError` and `UnacceptableError`."""
    try:
        text = payload.decode()
    except UnicodeDecodeError as error:
        raise IncompleteError(f"not UTF-8: byte {error.start} ({error.reason}); save it as UTF-8") from None
    if text.startswith(_BYTE_ORDER_MARK):
        raise UnacceptableError("starts with a byte order mark; save it as UTF-8 without one")
    try:
        document = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise IncompleteError(_syntax(text, error)) from None
    except RecursionError:
        raise UnacceptableError(TOO_DEEP) from None
    if isinstance(document, Fault):
        raise UnacceptableError(document.reason, document.key)
    if not isinstance(document, dict):
        raise UnacceptableError(f"is {kind(document)}; a result is one JSON object")
    return document


def compact(value: dict[str, Any]) -> str:
    """The object as JSON without blanks. Raises `UnacceptableError` for a `Fault` in it, and for depth."""
    if _deeper_than(JSON_DEPTH_MAX - 1, value):
        raise UnacceptableError(TOO_DEEP)
    try:
        text = _ENCODER.encode(value)
    except ValueError:  # 1e999 is JSON, and infinity here
        raise UnacceptableError("holds a number out of range; write it as a text") from None
    return whole(text)


def whole(text: str) -> str:
    """The text itself. Raises `UnacceptableError` when it holds half of a surrogate pair."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = quoted(text[error.start])
            raise UnacceptableError(f"holds {half}, half of a surrogate pair, which is no character") from None
    return text


def kind(value: object) -> str:
    """What a JSON value is, in words."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return "a text"
        case int() | float():
            return "a number"
        case list():
            return "an array"
        case _:
            return "an object"


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any] | Fault:
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    names = [name for name, _ in pairs]
    twice = next(name for name in names if names.count(name) > 1)
    return Fault(f"the key {quoted(twice)} stands there more than once", twice)


def _constant(literal: str) -> Fault:
    return Fault(f"{literal} is not JSON")


def _integer(literal: str) -> int | Fault:
    try:
        return int(literal)
    except ValueError:  # beyond the digits that Python converts
        return Fault(f"a number of {len(literal)} digits; write it as a text")


def _refuse(value: object) -> Any:
    raise UnacceptableError(value.reason if isinstance(value, Fault) else f"is {type(value).__name__}")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_without_duplicates, parse_constant=_constant, parse_int=_integer
)
_ENCODER: Final = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":"), default=_refuse
)


def _syntax(text: str, error: json.JSONDecodeError) -> str:
    if not text.strip():
        return "is empty; a result is one JSON object"
    place = f"line {error.lineno}, column {error.colno}"
    if error.msg == "Extra data":
        return f"goes on behind the end of the JSON object, at {place}; one result stands alone"
    return f"not JSON: {error.msg.removesuffix(' at')}, at {place}"


def _deeper_than(levels: int, value: dict[str, Any]) -> bool:
    """Whether objects and arrays are nested deeper; level by level, so that no depth exhausts the stack."""
    level: list[Any] = [value]
    for _ in range(levels):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True
