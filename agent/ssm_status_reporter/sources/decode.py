"""What a result is: the bytes of a file or a message become a `Result`, or the reason why they are none.

Rules:
  * Pure. What is not in the bytes (who this node is, when they arrived) is in the `Origin`.
  * Strict: everything the result format does not define is refused, so that a misspelt field is not lost in
    silence. Only what is too long is mended, by a visible cut.
  * A refusal is final; `Undecodable` is not: bytes that are no JSON text in UTF-8 may be half of one, whose
    writer is not done.
  * A reason names the field and what to write instead, and quotes no more than a line can hold.

One parser reads the bytes: the standard library's, the only one here that shows duplicate keys. msgspec's
validation (1 µs) would read the same bytes a second time, and where the two disagree neither could be
trusted; a few comparisons do it as well, and decoding takes 7 to 15 µs.
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, Final

from ssm_status_reporter import __version__
from ssm_status_reporter.domain.association import DOCUMENT, INSTANCE_ID, Association
from ssm_status_reporter.domain.limits import NEAR_MISS_CHARS_MAX
from ssm_status_reporter.domain.report import RUN_STATUSES, Report, cut, default_message
from ssm_status_reporter.domain.result import Edge, Refusal, Result, Writer
from ssm_status_reporter.domain.rfc3339 import milliseconds
from ssm_status_reporter.sources import strict_json
from ssm_status_reporter.sources.quoting import quoted, shortened

REQUIRED: Final = ("document", "status")
FIELDS: Final = (*REQUIRED, "message", "additional_info", "observed_at", "instance_id")
"""Every field of a result."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where bytes came from, and what holds for a result that does not say it itself."""

    source: str
    instance_id: str
    """The node of a result that names none."""
    observed_at_ms: int
    """The date of a result that brings none: the file's mtime, or the arrival. Wall time."""
    allow: tuple[str, ...] = ()
    """Patterns of further nodes that a result may name (``node.allow``)."""
    topic_instance_id: str | None = None
    """The node that the topic names; a result that names another is refused. None where there is no topic."""
    writer: Writer = Writer.SOLE
    undated_edge: Edge = Edge.LEADING
    """The edge of a result that brings no date."""


@dataclass(frozen=True, slots=True)
class Undecodable:
    """Bytes that are no JSON text, perhaps not yet. ``refusal`` is what they get once they do not change."""

    refusal: Refusal


Verdict = Result | Refusal | Undecodable


class _RefusedError(Exception):
    """Carries a refusal to `decode`. Never leaves this module."""

    def __init__(self, field: str, reason: str) -> None:
        self.refusal = Refusal(field, reason)
        super().__init__(field, reason)


def decode(payload: bytes, origin: Origin) -> Verdict:
    """The result that ``payload`` holds, or why it holds none. Never raises."""
    try:
        return _result(strict_json.parse(payload), origin)
    except _RefusedError as refused:
        return refused.refusal
    except strict_json.IncompleteError as incomplete:
        return Undecodable(Refusal(None, str(incomplete)))
    except strict_json.UnacceptableError as unacceptable:
        return Refusal(unacceptable.key if unacceptable.key in FIELDS else None, str(unacceptable))


def allowed(instance_id: str, patterns: tuple[str, ...]) -> bool:
    """Whether one of the patterns of ``node.allow`` names the node."""
    return any(fnmatchcase(instance_id, pattern) for pattern in patterns)


def _result(members: dict[str, Any], origin: Origin) -> Result:
    for name in members:
        if name not in FIELDS:
            raise _RefusedError(shortened(name), f"is not a field of a result; {_remedy(name, FIELDS)}")
    document = _document_name(_text(members, "document"))
    run_status = _text(members, "status")
    status = RUN_STATUSES.get(run_status)
    if status is None:
        remedy = _remedy(run_status, tuple(RUN_STATUSES))
        raise _RefusedError("status", f"{quoted(run_status)} is no status; {remedy}")
    dated = "observed_at" in members
    return Result(
        association=Association(_instance_id(members, origin), document),
        report=Report(
            status=status.value,
            message=_message(members) or default_message(document, run_status),
            additional_info=_additional_info(members, origin.source, run_status),
            observed_at_ms=_observed_at_ms(members) if dated else origin.observed_at_ms,
        ),
        source=origin.source,
        writer=origin.writer,
        edge=Edge.LEADING if dated else origin.undated_edge,
    )


def _text(members: dict[str, Any], name: str) -> str:
    """The member, which must be there and be a text."""
    if name not in members:
        raise _RefusedError(name, "is missing; it is required")
    value = members[name]
    if not isinstance(value, str):
        raise _wrong_type(name, value, "a text")
    return _whole(name, value)


def _whole(name: str, text: str) -> str:
    try:
        return strict_json.whole(text)
    except strict_json.UnacceptableError as error:
        raise _RefusedError(name, str(error)) from None


def _document_name(name: str) -> str:
    if DOCUMENT.fullmatch(name) is None:
        pattern = "3 to 128 letters, digits and _ - . : /"
        raise _RefusedError("document", f"{quoted(name)} is not the name or ARN of an SSM document: {pattern}")
    return name


def _message(members: dict[str, Any]) -> str | None:
    return cut(_text(members, "message")) if "message" in members else None


def _additional_info(members: dict[str, Any], source: str, run_status: str) -> str:
    if "additional_info" not in members:
        return _default_additional_info(source, run_status)
    value = members["additional_info"]
    if isinstance(value, str):
        return cut(_whole("additional_info", value))
    if not isinstance(value, dict):
        raise _wrong_type("additional_info", value, "a text or an object")
    try:
        return cut(strict_json.compact(value))
    except strict_json.UnacceptableError as error:
        raise _RefusedError("additional_info", str(error)) from None


@lru_cache(maxsize=64)
def _default_additional_info(source: str, run_status: str) -> str:
    reporter = f"ssm-status-reporter/{__version__}"
    return strict_json.compact({"reporter": reporter, "source": source, "run_status": run_status})


def _observed_at_ms(members: dict[str, Any]) -> int:
    text = _text(members, "observed_at")
    try:
        return milliseconds(text)
    except ValueError as error:
        raise _RefusedError("observed_at", f"{quoted(text)} {error}") from None


def _instance_id(members: dict[str, Any], origin: Origin) -> str:
    if "instance_id" not in members:
        return origin.instance_id
    named = _text(members, "instance_id")
    if INSTANCE_ID.fullmatch(named) is None:
        raise _RefusedError(
            "instance_id", f"{quoted(named)} is not a managed node: i- and 8 or 17 characters, or mi- and 17"
        )
    if origin.topic_instance_id not in {None, named}:
        raise _RefusedError("instance_id", f"{named} is not the node in the topic, {origin.topic_instance_id}")
    if named != origin.instance_id and not allowed(named, origin.allow):
        raise _RefusedError(
            "instance_id", f"{named} is not this node ({origin.instance_id}), and node.allow does not name it"
        )
    return named


def _wrong_type(name: str, value: object, wanted: str) -> _RefusedError:
    if isinstance(value, strict_json.Fault):
        return _RefusedError(name, value.reason)
    remedy = "; leave the field out" if value is None and name not in REQUIRED else ""
    return _RefusedError(name, f"is {strict_json.kind(value)}, not {wanted}{remedy}")


def _remedy(given: str, choices: tuple[str, ...]) -> str:
    """What to write instead of ``given``: the nearest of ``choices``, or all of them."""
    if len(given) <= NEAR_MISS_CHARS_MAX:
        from difflib import get_close_matches  # noqa: PLC0415 - only a refusal needs it; results go by without

        names = {_bare(choice): choice for choice in choices}
        near = get_close_matches(_bare(given), names, n=1)
        if near:
            return f"did you mean {names[near[0]]}?"
    return f"there are {', '.join(choices)}"


def _bare(name: str) -> str:
    """A name without what people vary: case and separators."""
    return name.lower().translate({ord(char): None for char in "_- "})
