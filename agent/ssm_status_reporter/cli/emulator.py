"""``ssm-status-reporter emulator``: a local SSM endpoint for whoever tests what reports through the daemon."""

import asyncio
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ssm_status_reporter.cli.exit_codes import ExitCode
from ssm_status_reporter.config.errors import BadConfiguration
from ssm_status_reporter.emulator.faults import EXAMPLE, FaultPlan
from ssm_status_reporter.emulator.plan_file import load_plan

if TYPE_CHECKING:
    from ssm_status_reporter.emulator.server import Emulator

_EPILOG = "\b\nA faults file, with every key:\n\n" + "\n".join(
    ["\b", *(f"  {line}" for line in EXAMPLE.splitlines())]
)


@click.command(epilog=_EPILOG)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port to listen at. [default: a free one]")
@click.option("--faults", type=click.Path(path_type=Path), help="Fault plan (YAML), see below.")
@click.option("--ledger", type=click.Path(path_type=Path), help="Append one JSON line a request to this file.")
def emulator(host: str, port: int, faults: Path | None, ledger: Path | None) -> None:
    """Answer SSM's association operations locally, as the service documents them.

    Prints its URL once it accepts connections; ends at SIGTERM or SIGINT. Use the URL as aws.endpoint_url,
    or as --endpoint-url of the AWS CLI. Requests must be signed (any key that the fault plan accepts), signatures
    are not verified.

    SIGHUP reads the fault plan again, such as one by which the old access key has expired; what is held stays. A bad
    one is told on standard error, and the old one stays in force.

    Exit codes: 0 ended, 69 cannot listen there or open the ledger, 78 bad faults file.
    """
    try:
        plan = _read_plan(faults)
    except BadConfiguration as error:
        click.echo(error, err=True)
        raise SystemExit(ExitCode.BAD_CONFIGURATION) from None
    asyncio.run(_serve(plan, faults, host, port, ledger))


def _read_plan(path: Path | None) -> FaultPlan:
    return FaultPlan() if path is None else load_plan(path)


def _replan(endpoint: "Emulator", faults: Path) -> None:
    """Put the plan in force that the file holds now."""
    try:
        endpoint.faults = _read_plan(faults)
    except BadConfiguration as error:
        click.echo(error, err=True)
        click.echo(f"{faults}: not taken, the plan before it stays in force", err=True)
    else:
        click.echo(f"{faults}: read again, in force from now on", err=True)


async def _serve(plan: FaultPlan, faults: Path | None, host: str, port: int, ledger: Path | None) -> None:
    from ssm_status_reporter.emulator.server import Emulator  # noqa: PLC0415 - aiohttp only for who serves

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        try:
            endpoint = await stack.enter_async_context(Emulator(plan, ledger_path=ledger, host=host, port=port))
        except (OSError, UnicodeError) as error:  # the latter for what no name of a host can be
            click.echo(f"emulator: cannot start at {host} port {port}: {error}", err=True)
            raise click.exceptions.Exit(ExitCode.UNAVAILABLE) from None
        if faults is not None:  # without a plan to read, SIGHUP ends it as it ends others
            loop.add_signal_handler(signal.SIGHUP, _replan, endpoint, faults)
        click.echo(endpoint.url)
        await stop.wait()
