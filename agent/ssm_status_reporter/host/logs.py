"""Logs: one event a line on standard error, readable on a terminal, JSON elsewhere.

Time stamps are UTC. Warnings of the libraries come through the same format. Nothing is logged here that the
callers did not name, and they name no secrets.
"""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final, TextIO

import msgspec
import structlog

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}

TEXT: Final = "text"
JSON: Final = "json"


def configure(level: str, form: str, stream: TextIO | None = None) -> None:
    """Log from now on from ``level`` up, as ``text``, as ``json``, or as the stream is (``auto``)."""
    out = sys.stderr if stream is None else stream
    readable = form == TEXT or (form != JSON and out.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    renderer: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback)]
        if readable
        else [structlog.processors.format_exc_info, _json]
    )
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [_Library()]
    root.setLevel(logging.WARNING)


def _json(_logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
    first = {name: event.pop(name) for name in ("timestamp", "level", "event")}
    return msgspec.json.encode({**first, **event}, enc_hook=str).decode()


class _Library(logging.Handler):
    """Hands the libraries' warnings over."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(
            record.levelno, record.getMessage(), library=record.name, exc_info=record.exc_info or None
        )
