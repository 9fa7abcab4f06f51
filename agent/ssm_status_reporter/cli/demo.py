"""``demo``: the main job end to end on this machine with nothing configured, told as it happens."""

import asyncio
import shutil
import signal
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import click

from ssm_status_reporter.cli.exit_codes import ExitCode
from ssm_status_reporter.demo.account import Account
from ssm_status_reporter.demo.daemon_process import DemoFailedError
from ssm_status_reporter.demo.narration import Actor, Line, Tone
from ssm_status_reporter.demo.story import perform
from ssm_status_reporter.outbox.database import OutboxError

COLUMNS: Final = 80
DOCUMENT_COLUMNS: Final = 14
INDENT: Final = 32
"""Time, actor and document stand in front of what happens."""
INTRODUCTION: Final = (
    "A runner writes results, each a file such as "
    '{"document": "Acme-Patch", "status": "InProgress"}; the daemon reports them to SSM State Manager; the '
    "service makes trouble. Runner, files and daemon are real, the service is the emulator, and the SSM Agent a "
    "player that writes its files. Nothing leaves this machine, no AWS account is used."
)
NEXT: Final = (
    "Next: let your own runner write against the emulator (ssm-status-reporter emulator), "
    "or see what can be configured (ssm-status-reporter config show)."
)

_ACTORS: Final = {
    Actor.RUNNER: "cyan",
    Actor.AGENT: "cyan",
    Actor.DAEMON: "bright_blue",
    Actor.SERVICE: "magenta",
    Actor.OPERATOR: "cyan",
}
_TONES: Final = {Tone.ARRIVED: "green", Tone.SAVED: "green", Tone.TROUBLE: "yellow"}


@click.command
def demo() -> None:
    """Watch the daemon do its job on this machine, against an emulated service that makes trouble.

    Needs no configuration, no AWS account and no network; ends by itself within 20 seconds.

    Exits 0 only when everything arrived. A demo that failed says why and leaves its files for a look.
    """
    click.echo(_wrapped(INTRODUCTION))
    try:
        directory = Path(tempfile.mkdtemp(prefix="ssm-status-reporter-demo-"))
    except OSError as error:
        _say_failed([f"no temporary directory: {error}"])
        raise SystemExit(ExitCode.FAILED) from None
    try:
        failures = _demonstrate(directory)
    except asyncio.CancelledError:
        shutil.rmtree(directory, ignore_errors=True)
        click.echo("\ninterrupted: everything was ended and removed", err=True)
        raise SystemExit(ExitCode.FAILED) from None
    except BrokenPipeError:
        shutil.rmtree(directory, ignore_errors=True)
        raise  # nobody reads on; click knows what to do
    if failures:
        _say_failed(failures)
        kept = f"Kept for a look: {directory} (config.yaml, daemon.log, ledger.jsonl, outbox.db, results)"
        click.echo(_wrapped(kept))
        raise SystemExit(ExitCode.FAILED)
    shutil.rmtree(directory, ignore_errors=True)
    click.echo(_wrapped(NEXT))


def _demonstrate(directory: Path) -> Sequence[str]:
    """Play, and show the account; returns what is wrong."""
    try:
        account = asyncio.run(_play(directory))
    except BrokenPipeError:
        raise
    except (DemoFailedError, OutboxError, OSError) as error:
        return [str(error)]
    click.echo("\n".join(_table(account)))
    if not account.missing:
        done = (
            f"Everything arrived: the service holds the newest result of all {len(account.rows)} documents, and "
            f"nothing was lost. It took {account.seconds:.1f} s."
        )
        click.echo("")
        click.echo(click.style(_wrapped(done), fg="green", bold=True))
    return account.missing


async def _play(directory: Path) -> Account:
    """The demo as a task that signals cancel: what runs is ended in any case."""
    loop = asyncio.get_running_loop()
    playing = asyncio.ensure_future(perform(directory, Teller()))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, playing.cancel)
    return await playing


class Teller:
    """Tells the story on standard output."""

    def heading(self, text: str) -> None:
        """A new scene."""
        click.echo("\n" + click.style(text, bold=True))

    def line(self, seconds: float, line: Line) -> None:
        """Something happened."""
        actor = click.style(f"{line.actor:<8}", fg=_ACTORS[line.actor])
        click.echo(
            f"{seconds:5.2f}  {actor} {line.document:<{DOCUMENT_COLUMNS}}  "
            + f"\n{'':{INDENT}}".join(_texts(line))
        )


def _texts(line: Line) -> Iterator[str]:
    """What, and why: behind it where there is room, else below."""
    width = COLUMNS - INDENT
    *above, last = textwrap.wrap(line.what, width, break_on_hyphens=False)
    why = f"({line.why})" if line.why else ""
    yield from (_toned(text, line.tone) for text in above)
    if len(f"{last} {why}") <= width:
        yield " ".join(filter(None, (_toned(last, line.tone), _dimmed(why))))
        return
    yield _toned(last, line.tone)
    yield from map(_dimmed, textwrap.wrap(why, width, break_on_hyphens=False))


def _toned(text: str, tone: Tone) -> str:
    return text if tone is Tone.PLAIN else click.style(text, fg=_TONES[tone])


def _dimmed(text: str) -> str:
    return click.style(text, dim=True) if text else ""


def _table(account: Account) -> Iterator[str]:
    width = max(len(row.document) for row in account.rows)
    yield ""
    yield click.style(f"{'document':<{width}}  results  - saved  + again  = calls  service holds", bold=True)
    for row in account.rows:
        figures = f"{row.results:7}  {row.saved:7}  {row.again:7}  {row.calls:7}"
        yield f"{row.document:<{width}}  {figures}  {row.held}"
    figures = f"{account.received:7}  {account.saved:7}  {account.again:7}  {account.calls:7}"
    yield click.style(f"{'all':<{width}}  {figures}", bold=True)
    yield ""
    became = " + ".join(f"{count} {name}" for name, count in account.ends)
    yield from _entry("results", f"{account.received} = {became}")
    yield from _entry(
        "calls",
        f"{account.calls} UpdateAssociationStatus; {account.saved} saved, {account.again} repeated after trouble",
    )
    yield from _entry("questions", f"{account.questions} DescribeAssociation, those that met the outage included")
    for run in account.agents_runs:
        yield from _entry(
            "SSM Agent",
            f"1 run, of {run.document}: its own report was lost in {run.lost} calls, the daemon delivered it",
        )
    yield from _entry("refused", f"{account.refused} file, now in rejected/ with the reason beside it")
    yield from _entry("left over", f"{account.left}")
    yield from _entry("lost", f"{account.lost}")


def _entry(name: str, text: str) -> Iterator[str]:
    yield from textwrap.wrap(text, COLUMNS, initial_indent=f"{name:<11}", subsequent_indent=" " * 11)


def _say_failed(reasons: Sequence[str]) -> None:
    for reason in reasons:
        click.echo("")
        click.echo(click.style(_wrapped(f"failed: {reason}"), fg="red"))


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, COLUMNS, break_on_hyphens=False, break_long_words=False))
