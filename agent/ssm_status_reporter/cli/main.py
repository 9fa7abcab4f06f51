"""The command ``ssm-status-reporter``: its global options, and where each subcommand is.

Rules:
  * A subcommand's module is imported when it is called and not before; the help of the whole needs none of
    them, which is why the table holds the one-line help.
  * Module and attribute are named as the command, with ``_`` for ``-``.
  * Whatever the streams are (closed, full, of an encoding that lacks what is said), no command ends in a traceback.
"""

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Final

import click

from ssm_status_reporter import __version__
from ssm_status_reporter.cli.exit_codes import ExitCode
from ssm_status_reporter.cli.invocation import Invocation

COMMANDS: Final[Mapping[str, str]] = {
    "run": "Run the daemon in the foreground.",
    "check": "Validate the configuration: every error at once.",
    "config": "Show the effective configuration, or its JSON Schema.",
    "doctor": "Look whether this machine has what the daemon needs.",
    "submit": "Write one result into the results directory.",
    "status": "Show what is acknowledged, pending, parked and dead, and why.",
    "dead-letters": "List, show, send again or drop what was refused for good.",
    "emulator": "Run a local SSM endpoint.",
    "demo": "Watch the daemon do its job against a local endpoint.",
}
"""Each subcommand and its one-line help, in the order of the list."""


class LazyGroup(click.Group):
    """A group whose subcommands are in `COMMANDS`."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """As click does it, on streams that take everything; what cannot be written is said, and exits 1."""
        _mend_streams()
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            # Output on a full disk, as a rule: what a command expects to meet, it says itself.
            with suppress(OSError):
                click.echo(f"ssm-status-reporter: {error}", err=True)
            sys.exit(ExitCode.FAILED)
        finally:
            _leave_streams()

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The names, in the table's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        """The subcommand, imported now; None when there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        command = getattr(import_module(f"ssm_status_reporter.cli.{name}"), name)
        if not isinstance(command, click.Command):
            raise TypeError(f"cli/{name}.py: {name} is no click command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it; a mistyped name is told the nearest one."""
        near = get_close_matches(args[0], COMMANDS, n=1)
        if args[0] not in COMMANDS and near:
            ctx.fail(f"No such command {args[0]!r}: did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        """The list of subcommands, from the table."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _mend_streams() -> None:
    """Put the null device in the place of closed ones, and say what an encoding does not have as its escape."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - as long as the process
        elif isinstance(stream, TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _leave_streams() -> None:
    """What cannot be written goes nowhere: at the interpreter's end it would make an exit code of its own, 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ssm-status-reporter", message="%(prog)s %(version)s")
@click.option(
    "--config",
    "config_path",
    metavar="PATH",
    type=click.Path(path_type=Path),
    envvar="SSM_STATUS_REPORTER_CONFIG",
    show_envvar=True,
    help="Configuration file; without it /etc/ssm-status-reporter/config.yaml, and without that the defaults.",
)
@click.pass_context
def main(ctx: click.Context, config_path: Path | None) -> None:
    """Deliver the status of SSM association runs to AWS Systems Manager State Manager."""
    ctx.obj = Invocation(config_path)
    ctx.color = False if os.environ.get("NO_COLOR") else None  # None: on a terminal
