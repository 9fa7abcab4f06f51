"""The journal: log events as entries with fields of their own, by its native protocol.

Rules:
  * Used when standard error is the journal (`is_journal`), and only then. ``MESSAGE`` is the line that would have
    been written there; beside it each field of the event is one of the entry, ``document`` as ``SSM_DOCUMENT``.
  * An entry is one datagram, so a field is cut to `FIELD_BYTES_MAX`.
  * What the journal does not take (it restarts, an entry is too large) goes to standard error as a line, its
    priority before it.

Own code because it is one ``sendto``: the packages that offer it need systemd's headers.
Source: https://systemd.io/JOURNAL_NATIVE_PROTOCOL, systemd.exec(5) for $JOURNAL_STREAM.
"""

import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Final, TextIO

import msgspec

SOCKET: Final = "/run/systemd/journal/socket"
IDENTIFIER: Final = "ssm-status-reporter"
FIELD_BYTES_MAX: Final = 16 * 1024
FIELD_NAME_CHARS_MAX: Final = 64
PRIORITIES: Final[Mapping[str, int]] = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""syslog(3)'s number for each level."""

_NOT_IN_NAMES: Final = re.compile("[^A-Z0-9_]")


def is_journal(stream: TextIO, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether what is written to the stream goes to the journal: $JOURNAL_STREAM names its device and inode."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environment.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def marked(text: str, level: str) -> str:
    """The text as the journal takes it from a stream, each line with the level's priority before it.

    Source: sd-daemon(3); a line without counts as information.
    """
    return "\n".join(f"<{PRIORITIES[level]}>{line}" for line in text.splitlines())


class JournalLogger:
    """What structlog hands rendered events to."""

    def __init__(self, stream: TextIO, address: str) -> None:
        self._stream = stream
        self._address = address

    def msg(self, line: str, fields: Mapping[str, object]) -> None:
        """Enter the line and the event's fields, or write the line to the stream."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as journal:
                journal.sendto(entry(line, fields), self._address)
        except OSError:
            level = fields.get("level")
            with suppress(OSError):
                self._stream.write(marked(line, level if isinstance(level, str) else "info") + "\n")
                self._stream.flush()

    debug = info = warning = error = critical = exception = log = msg


def json_text(value: object) -> str:
    """The value as JSON, what it does not have as text; half of a surrogate pair (a file's name) as its escape."""
    try:
        return msgspec.json.encode(value, enc_hook=str).decode()
    except UnicodeEncodeError:
        return json.dumps(value, default=str)


def entry(line: str, fields: Mapping[str, object]) -> bytes:
    """The datagram: the line, its priority, and every field that has a value."""
    level = fields.get("level")
    priority = PRIORITIES.get(level if isinstance(level, str) else "", PRIORITIES["info"])
    parts = [
        _field("MESSAGE", line),
        _field("PRIORITY", str(priority)),
        _field("SYSLOG_IDENTIFIER", IDENTIFIER),
        *(_field(name, text) for name, text in _texts(fields)),
    ]
    return b"".join(parts)


def _texts(fields: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for name, value in fields.items():
        if value is not None and name not in {"timestamp", "level", "exc_info"}:
            safe = _NOT_IN_NAMES.sub("_", f"SSM_{name.upper()}")[:FIELD_NAME_CHARS_MAX]
            yield safe, value if isinstance(value, str) else json_text(value)


def _field(name: str, text: str) -> bytes:
    value = text.encode("utf-8", "replace")[:FIELD_BYTES_MAX]
    if b"\n" not in value:
        return b"%s=%s\n" % (name.encode(), value)
    return b"%s\n%s%s\n" % (name.encode(), len(value).to_bytes(8, "little"), value)
