"""``check``: validate the configuration, every error at once, and point out what is probably not meant."""

import click

from ssm_status_reporter.cli.invocation import Invocation, complain, load_configuration
from ssm_status_reporter.config import DEFAULT_PATH, advice, is_there


@click.command
@click.pass_context
def check(ctx: click.Context) -> None:
    """Validate the configuration: every error at once, with its key and line.

    Exits 0 when the daemon would take it, 78 when not. Warnings do not change that.
    """
    configuration = load_configuration(ctx)
    named = ctx.ensure_object(Invocation).config_path
    path = DEFAULT_PATH if named is None else named
    for finding in advice(configuration):
        complain(f"{path}: warning: {finding}", "warning")
    absent = named is None and not is_there(path)
    click.echo(f"{path}: ok" + (" (no such file: the defaults apply)" if absent else ""))
