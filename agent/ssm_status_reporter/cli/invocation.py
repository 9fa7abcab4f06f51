"""What every command is told by the options that stand before its name."""

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
        click.echo(str(error), err=True)
        ctx.exit(ExitCode.BAD_CONFIGURATION)
