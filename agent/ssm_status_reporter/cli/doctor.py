"""``doctor``: live preflight, one line a finding with its remedy."""

import asyncio
from collections.abc import Iterator

import click
import msgspec

from ssm_status_reporter.cli.exit_codes import ExitCode
from ssm_status_reporter.cli.invocation import load_configuration
from ssm_status_reporter.config import Configuration
from ssm_status_reporter.host import logs
from ssm_status_reporter.host.clock import SystemClock
from ssm_status_reporter.preflight.finding import Finding
from ssm_status_reporter.preflight.run import preflight


class _Report(msgspec.Struct, frozen=True):
    """What ``--json`` prints."""

    ok: bool
    findings: list[Finding]


@click.command
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.pass_context
def doctor(ctx: click.Context, *, as_json: bool) -> None:
    """Look whether this machine has what the daemon needs: one line a finding, with its remedy.

    Identity, credentials and their expiry, endpoint, clock, permission, directories, broker, outbox. Changes nothing,
    here or at the service. Run it as root, or as the daemon's user.

    Exit codes: 0 all is well, 1 something is amiss, 78 bad configuration.
    """
    configuration = load_configuration(ctx)
    logs.configure("error", configuration.log.format)  # what the libraries warn of is in the findings
    findings = asyncio.run(_findings(configuration, quiet=as_json))
    ok = all(finding.ok for finding in findings)
    if as_json:
        click.echo(msgspec.json.encode(_Report(ok, findings)))
    if not ok:
        ctx.exit(ExitCode.FAILED)


async def _findings(configuration: Configuration, *, quiet: bool) -> list[Finding]:
    findings = []
    async for finding in preflight(configuration, SystemClock()):
        findings.append(finding)
        for line in () if quiet else _lines(finding):
            click.echo(line)
    return findings


def _lines(finding: Finding) -> Iterator[str]:
    word = click.style("ok   ", fg="green") if finding.ok else click.style("amiss", fg="red", bold=True)
    yield f"{word}  {finding.check:<18} {finding.detail}"
    if finding.remedy is not None:
        yield f"{'':<26}{finding.remedy}"
