"""``run``: the daemon, in the foreground."""

import asyncio
import random
import traceback
from collections.abc import Iterator

import click

from ssm_status_reporter.cli.exit_codes import ExitCode
from ssm_status_reporter.cli.invocation import Invocation, complain, load_configuration
from ssm_status_reporter.config import load_or_default
from ssm_status_reporter.daemon import Daemon, Surroundings
from ssm_status_reporter.host import logs
from ssm_status_reporter.host.clock import SystemClock
from ssm_status_reporter.host.identity import NoIdentityError
from ssm_status_reporter.host.threads import DispensableThreads
from ssm_status_reporter.outbox.database import OutboxError


@click.command
@click.pass_context
def run(ctx: click.Context) -> None:
    """Run the daemon in the foreground.

    SIGTERM and SIGINT: take nothing new, finish the calls that are out, exit 0. SIGHUP: read the configuration
    anew; a bad one changes nothing.
    """
    configuration = load_configuration(ctx)
    path = ctx.ensure_object(Invocation).config_path
    logs.configure(configuration.log.level, configuration.log.format)
    # Jitter, not secrets.
    surroundings = Surroundings(SystemClock(), random.random, lambda: load_or_default(path))
    threads = DispensableThreads()
    code = ExitCode.DONE
    try:
        asyncio.run(_run(Daemon(configuration, surroundings), threads))
    except* (NoIdentityError, OutboxError) as group:
        for error in _each(group):
            complain(f"ssm-status-reporter: {error}")
        code = ExitCode.UNAVAILABLE
    except* Exception as group:  # noqa: BLE001 - said with its place and an error's priority, then started anew
        complain("".join(traceback.format_exception(group)))
        # What the machine refuses where nobody counts on it tells nothing without its place.
        code = ExitCode.UNAVAILABLE if group.subgroup(OSError) is not None else ExitCode.FAILED
    threads.leave(code)
    ctx.exit(code)


def _each(group: BaseExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _each(error)
        else:
            yield error


async def _run(daemon: Daemon, threads: DispensableThreads) -> None:
    asyncio.get_running_loop().set_default_executor(threads)
    await daemon.run()
