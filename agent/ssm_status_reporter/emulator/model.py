"""Requests against botocore's own service model: what the service would refuse, and in which words.

Rules:
  * The model of the installed botocore is the only source: required members, types, lengths, patterns,
    enumerations. Nothing about a shape is written down here.
  * A value of a wrong JSON type is a SerializationException, told before any constraint. Constraints are
    all told in one ValidationException, in the model's order. Unknown members are ignored, null is absence.
  * Compiled once, at load, into closures: a check costs microseconds.

Source: botocore/data/ssm/2014-11-06/service-2.json; the texts are those the service answers.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, NoReturn

import msgspec

from ssm_status_reporter.emulator.errors import ServiceError, validation_error

OPERATIONS: Final = (
    "UpdateAssociationStatus",
    "DescribeAssociation",
    "ListAssociations",
    "CreateAssociation",
    "DeleteAssociation",
)

DATE_S_MIN: Final = -62_135_596_800
DATE_S_MAX: Final = 253_402_300_799
"""The years 1 to 9999, in seconds since 1970: dates outside cannot be told."""

Check = Callable[[Any, str, list[str]], None]
"""Looks at (value, path) and appends violations; raises `ServiceError` for a wrong type."""

Shape = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Model:
    """What the emulator needs of the service model."""

    inputs: Mapping[str, Check]
    errors: Mapping[str, int]
    """HTTP status by code, of the errors that the operations document."""

    def check(self, operation: str, members: object) -> dict[str, Any]:
        """The request's members if the service would take them; raises `ServiceError` as it would answer."""
        if not isinstance(members, dict):
            raise ServiceError("SerializationException")
        violations: list[str] = []
        self.inputs[operation](members, "", violations)
        if violations:
            plural = "" if len(violations) == 1 else "s"
            raise validation_error(f"{len(violations)} validation error{plural} detected: {'; '.join(violations)}")
        return members


def load_model() -> Model:
    """The installed botocore's model of SSM, compiled. Takes about 0.2 s and tens of MiB: load it once."""
    from botocore.loaders import Loader  # noqa: PLC0415 - only who runs an emulator pays for the import

    document = Loader().load_service_model("ssm", "service-2")
    shapes: Mapping[str, Shape] = document["shapes"]
    operations: Mapping[str, Mapping[str, Any]] = {name: document["operations"][name] for name in OPERATIONS}
    return Model(
        inputs={name: _compiled(shapes, operation["input"]["shape"]) for name, operation in operations.items()},
        errors={
            error["shape"]: _http_status(shapes[error["shape"]])
            for operation in operations.values()
            for error in operation["errors"]
        },
    )


def decode(body: bytes) -> object:
    """The body as JSON; raises SerializationException for anything else."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise ServiceError("SerializationException") from None


def _http_status(shape: Shape) -> int:
    default = HTTPStatus.INTERNAL_SERVER_ERROR if shape.get("fault") else HTTPStatus.BAD_REQUEST
    return int(shape.get("error", {}).get("httpStatusCode", default))


def _compiled(shapes: Mapping[str, Shape], name: str) -> Check:
    shape = shapes[name]
    kind = shape["type"]
    if kind == "structure":
        return _structure(shapes, shape)
    if kind == "list":
        return _list(_compiled(shapes, shape["member"]["shape"]), _sizes(shape, "length"))
    if kind == "map":
        key = _compiled(shapes, shape["key"]["shape"])
        return _map(key, _compiled(shapes, shape["value"]["shape"]), _sizes(shape, "length"))
    if kind == "string":
        return _string(shape)
    scalars: Mapping[str, Check] = {
        "integer": _integer(_sizes(shape, "value")),
        "boolean": _boolean,
        "timestamp": _date,
    }
    return scalars[kind]


def _structure(shapes: Mapping[str, Shape], shape: Shape) -> Check:
    required = frozenset(shape.get("required", ()))
    members: Sequence[tuple[str, str, bool, Check]] = tuple(
        (name, name[0].lower() + name[1:], name in required, _compiled(shapes, member["shape"]))
        for name, member in shape["members"].items()
    )

    def check(value: Any, path: str, violations: list[str]) -> None:
        if not isinstance(value, dict):
            _refuse("Unexpected field type")
        for name, spelled, must, inner in members:
            found = value.get(name)
            if found is not None:
                inner(found, f"{path}.{spelled}" if path else spelled, violations)
            elif must:
                at = f"{path}.{spelled}" if path else spelled
                violations.append(f"Value null at '{at}' failed to satisfy constraint: Member must not be null")

    return check


def _list(inner: Check, sizes: Sequence["_Size"]) -> Check:
    def check(value: Any, path: str, violations: list[str]) -> None:
        if not isinstance(value, list):
            _refuse("Expected list or null")
        for size in sizes:
            size(len(value), value, path, violations)
        for number, item in enumerate(value, start=1):
            if item is not None:
                inner(item, f"{path}.{number}.member", violations)

    return check


def _map(key: Check, inner: Check, sizes: Sequence["_Size"]) -> Check:
    def check(value: Any, path: str, violations: list[str]) -> None:
        if not isinstance(value, dict):
            _refuse("Unexpected field type")
        for size in sizes:
            size(len(value), value, path, violations)
        for name, item in value.items():
            key(name, f"{path}.key", violations)
            if item is not None:
                inner(item, f"{path}.{name}.member", violations)

    return check


def _string(shape: Shape) -> Check:
    sizes = _sizes(shape, "length")
    allowed = frozenset(shape.get("enum", ()))
    names = ", ".join(shape.get("enum", ()))
    written = shape.get("pattern")
    pattern = None if written is None else _pattern(written)

    def check(value: Any, path: str, violations: list[str]) -> None:
        if not isinstance(value, str):
            _refuse_token(value, "a String")
        for size in sizes:
            size(len(value), value, path, violations)
        if pattern is not None and pattern.fullmatch(value) is None:
            violations.append(_violation(value, path, f"satisfy regular expression pattern: {written}"))
        if allowed and value not in allowed:
            violations.append(_violation(value, path, f"satisfy enum value set: [{names}]"))

    return check


def _integer(sizes: Sequence["_Size"]) -> Check:
    def check(value: Any, path: str, violations: list[str]) -> None:
        if not isinstance(value, int) or isinstance(value, bool):
            _refuse_token(value, "an Integer")
        for size in sizes:
            size(value, value, path, violations)

    return check


def _boolean(value: Any, _path: str, _violations: list[str]) -> None:
    if not isinstance(value, bool):
        _refuse_token(value, "a Boolean")


def _date(value: Any, _path: str, _violations: list[str]) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not DATE_S_MIN <= value <= DATE_S_MAX:
        _refuse_token(value, "milliseconds since epoch")


_Size = Callable[[int, Any, str, list[str]], None]


def _sizes(shape: Shape, what: str) -> Sequence[_Size]:
    """The shape's ``min`` and ``max`` as checks of a length or of a value itself."""
    sizes: list[_Size] = []
    least, most = shape.get("min"), shape.get("max")
    if most is not None:

        def at_most(size: int, value: Any, path: str, violations: list[str]) -> None:
            if size > most:
                violations.append(_violation(value, path, f"have {what} less than or equal to {most}"))

        sizes.append(at_most)
    if least:

        def at_least(size: int, value: Any, path: str, violations: list[str]) -> None:
            if size < least:
                violations.append(_violation(value, path, f"have {what} greater than or equal to {least}"))

        sizes.append(at_least)
    return sizes


def _pattern(written: str) -> re.Pattern[str]:
    """The model's Java pattern in Python's dialect; it is to match in full, as the service has it."""
    if r"\p{" not in written:
        return re.compile(written, re.ASCII)
    # In these classes letters, numbers and the underscore come together, which is what \w means in Unicode.
    separators = " \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
    return re.compile(written.replace(r"\p{L}", r"\w").replace(r"\p{N}", "").replace(r"\p{Z}", separators))


def _violation(value: Any, path: str, constraint: str) -> str:
    return f"Value '{_shown(value)}' at '{path}' failed to satisfy constraint: Member must {constraint}"


def _shown(value: Any) -> str:
    """A value as the service shows it: collections in brackets, nothing quoted."""
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}={_shown(item)}' for key, item in value.items())}}}"
    return str(value)


def _refuse_token(value: object, wanted: str) -> NoReturn:
    if isinstance(value, dict):
        _refuse("Start of structure or map found where not expected.")
    if isinstance(value, list):
        _refuse("Start of list found where not expected")
    token = {str: "STRING", bool: str(value).upper()}.get(type(value), "NUMBER")
    _refuse(f"{token}_VALUE can not be converted to {wanted}")


def _refuse(message: str) -> NoReturn:
    raise ServiceError("SerializationException", message)
