"""What every command is told by the options that stand before its name."""

import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ssm_status_reporter.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from ssm_status_reporter.config import Configuration


@dataclass(frozen=True, slots=True)
class Invocation:
    """The global options. ``config_path`` is None when nobody named a configuration file."""

    config_path: Path | None = None


def complain(text: str, level: str = "error") -> None:
    """Say on standard error what is wrong; where that is the journal, with the level's priority."""
    # Only a command that finds something wrong needs it.
    from ssm_status_reporter.host.journald import is_journal, marked  # noqa: PLC0415 - see above

    with suppress(OSError):  # nobody can be told; the exit code tells
        click.echo(marked(text, level) if is_journal(sys.stderr) else text, err=True)


def load_configuration(ctx: click.Context) -> "Configuration":
    """The configuration this invocation names, or the default one, or the defaults.

    A bad one is said on standard error, ``FILE:LINE: key.path: reason (hint)`` for each error, and ends the
    process with 78.
    """
    # Not every command needs it, and it brings PyYAML and msgspec.
    from ssm_status_reporter.config import BadConfiguration, load_or_default  # noqa: PLC0415 - see above

    try:
        return load_or_default(ctx.ensure_object(Invocation).config_path)
    except BadConfiguration as error:
        complain(str(error))
        ctx.exit(ExitCode.BAD_CONFIGURATION)
