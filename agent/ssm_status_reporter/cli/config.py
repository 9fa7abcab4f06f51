"""``config show`` and ``config schema``: what is in effect, and what there is."""

import json

import click

from ssm_status_reporter.cli.invocation import load_configuration
from ssm_status_reporter.config.rendering import json_schema, render


@click.group
def config() -> None:
    """Show the effective configuration, or its JSON Schema."""


@config.command
@click.pass_context
def show(ctx: click.Context) -> None:
    """Print every key with its value in effect, as YAML.

    Secrets are masked.
    """
    click.echo(render(load_configuration(ctx)).encode(), nl=False)


@config.command
def schema() -> None:
    """Print the JSON Schema of the configuration file."""
    click.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False).encode())
