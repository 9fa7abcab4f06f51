"""Logs: one event a line on standard error, readable on a terminal, JSON elsewhere, with fields in the journal.

Time stamps are UTC. Warnings of the libraries come through the same format, and nothing below a warning whatever
our own level is: at debug they log request headers, keys and tokens. Nothing is logged here that the callers did
not name, and they name no secrets. A line that cannot be written (a full disk under the log) is lost, and nothing else:
delivering does not depend on who reads.
"""

import logging
import os
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any, Final, TextIO

import structlog

from ssm_status_reporter.host.journald import SOCKET, JournalLogger, is_journal, json_text

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}

TEXT: Final = "text"
JSON: Final = "json"


def configure(level: str, form: str, stream: TextIO | None = None, journal: str = SOCKET) -> None:
    """Log from now on from ``level`` up, as ``text``, as ``json``, or as the stream is (``auto``).

    Events go to the stream; if that is the journal, they are entered through its socket ``journal``.
    """
    out = sys.stderr if stream is None else stream
    readable = form == TEXT or (form != JSON and out.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    renderer: structlog.typing.Processor
    if readable:
        renderer = structlog.dev.ConsoleRenderer(
            colors=out.isatty() and not os.environ.get("NO_COLOR"),
            exception_formatter=structlog.dev.plain_traceback,
        )
    else:
        shared.append(structlog.processors.format_exc_info)
        renderer = _json
    logger: _Lines | JournalLogger = _Lines(out)
    if is_journal(out):
        renderer = _with_fields(renderer)
        logger = JournalLogger(out, journal)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=lambda *_: logger,  # called for each logger, with its name or without
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [_Library()]
    root.setLevel(logging.WARNING)


def _json(_logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
    first = {name: event.pop(name) for name in ("timestamp", "level", "event")}
    return json_text({**first, **event})


def _with_fields(renderer: structlog.typing.Processor) -> structlog.typing.Processor:
    """The rendered line, and the fields it was made of."""

    def render(logger: object, method: str, event: MutableMapping[str, Any]) -> tuple[tuple[Any], dict[str, Any]]:
        fields = dict(event)
        return (renderer(logger, method, event),), {"fields": fields}

    return render


class _Lines(structlog.WriteLogger):
    """What structlog hands rendered events to, elsewhere than in the journal."""

    def msg(self, message: str) -> None:
        with suppress(OSError):
            super().msg(message)

    log = debug = info = warning = error = critical = exception = msg


class _Library(logging.Handler):
    """Hands the libraries' warnings over."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            structlog.get_logger().log(
                record.levelno, record.getMessage(), library=record.name, exc_info=record.exc_info or None
            )
        except Exception:  # noqa: BLE001 (as every handler: a mistake in a warning must not end what warned)
            self.handleError(record)
