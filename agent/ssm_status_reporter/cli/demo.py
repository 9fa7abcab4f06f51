"""``demo``: the main job end to end on this machine with nothing configured, told as it happens."""

import asyncio
import os
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

COLUMNS: Final = 80
INDENT: Final = 16
"""Time and actor stand in front of what happens."""
INTRODUCTION: Final = (
    "A runner writes results, the daemon reports them to SSM State Manager, and the service makes trouble. "
    "Runner, daemon and files are real; the service is the emulator. Nothing leaves this machine, "
    "no AWS account is used."
)
NEXT: Final = "Next: ssm-status-reporter --help, or your own runner against ssm-status-reporter emulator."

_ACTORS: Final = {Actor.RUNNER: "cyan", Actor.DAEMON: "blue", Actor.SERVICE: "magenta", Actor.OPERATOR: "cyan"}
_TONES: Final = {Tone.PLAIN: None, Tone.ARRIVED: "green", Tone.SAVED: "green", Tone.TROUBLE: "yellow"}


@click.command
def demo() -> None:
    """Watch the daemon do its job on this machine, against an emulated service that makes trouble.

    Needs no configuration, no AWS account and no network; ends by itself within 20 seconds. Exits 0 only when
    everything arrived.
    """
    _say("\n".join(textwrap.wrap(INTRODUCTION, COLUMNS)))
    try:
        directory = Path(tempfile.mkdtemp(prefix="ssm-status-reporter-demo-"))
    except OSError as error:
        raise _failed([f"no temporary directory: {error}"], None) from None
    keep = False
    try:
        done = asyncio.run(_play(directory))
        keep = bool(done.missing)
    except (DemoFailedError, OSError) as error:
        keep = True
        raise _failed([str(error)], directory) from None
    except asyncio.CancelledError:
        _say("\ninterrupted: everything was ended and removed")
        raise SystemExit(ExitCode.FAILED) from None
    finally:
        if not keep:
            shutil.rmtree(directory, ignore_errors=True)
    _say("\n".join(_table(done)))
    if done.missing:
        raise _failed(done.missing, directory)
    _say(click.style(f"\nEverything arrived, nothing was lost, in {done.seconds:.1f} s.", fg="green", bold=True))
    _say(NEXT)


async def _play(directory: Path) -> Account:
    """The demo as a task that signals cancel: what runs is ended in any case."""
    loop = asyncio.get_running_loop()
    playing = asyncio.ensure_future(perform(directory, Teller()))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, playing.cancel)
    return await playing


class Teller:
    """Tells the story on standard output."""

    def __init__(self) -> None:
        self._scene = 0

    def heading(self, text: str) -> None:
        """A new scene."""
        self._scene += 1
        _say("\n" + click.style(f"{self._scene}. {text}", bold=True))

    def line(self, seconds: float, line: Line) -> None:
        """Something happened."""
        actor = click.style(f"{line.actor:<8}", fg=_ACTORS[line.actor])
        _say(f"{seconds:5.2f} {actor}  " + f"\n{'':{INDENT}}".join(_texts(line)))


def _texts(line: Line) -> Iterator[str]:
    """What, and why: behind it where there is room, else below."""
    width = COLUMNS - INDENT
    *above, last = textwrap.wrap(line.what, width)
    styled = [click.style(text, fg=_TONES[line.tone]) for text in (*above, last)]
    if line.why and len(f"{last} ({line.why})") <= width:
        styled[-1] += click.style(f" ({line.why})", dim=True)
        yield from styled
        return
    yield from styled
    yield from (click.style(text, dim=True) for text in textwrap.wrap(f"({line.why})" if line.why else "", width))


def _table(done: Account) -> Iterator[str]:
    width = max(len(row.document) for row in done.rows)
    yield ""
    yield click.style(f"{'document':<{width}}  results  - saved  + again  = calls  service holds", bold=True)
    for row in done.rows:
        figures = f"{row.results:7}  {row.saved:7}  {row.again:7}  {row.calls:7}"
        yield f"{row.document:<{width}}  {figures}  {row.held}"
    figures = f"{done.received:7}  {done.saved:7}  {done.again:7}  {done.calls:7}"
    yield click.style(f"{'all':<{width}}  {figures}", bold=True)
    yield ""
    became = " + ".join(f"{count} {name}" for name, count in done.ends)
    yield from _entry("files", f"{done.files} written, {done.refused} refused with its reason")
    yield from _entry("results", f"{done.received} = {became}")
    yield from _entry("calls", f"{done.calls} made, {done.saved} saved; {done.questions} questions asked besides")
    yield from _entry("left over", f"{done.left}")
    yield from _entry("lost", f"{done.lost}")


def _entry(name: str, text: str) -> Iterator[str]:
    yield from textwrap.wrap(text, COLUMNS, initial_indent=f"{name:<12}", subsequent_indent=" " * 12)


def _failed(reasons: Sequence[str], directory: Path | None) -> SystemExit:
    """Say what is wrong; the exit to raise."""
    for reason in reasons:
        _say(click.style(f"\nfailed: {reason}", fg="red"))
    if directory is not None:
        _say(f"kept for a look: {directory} (config.yaml, daemon.log, ledger.jsonl, outbox.db, results)")
    return SystemExit(ExitCode.FAILED)


def _say(text: str) -> None:
    click.echo(text, color=False if os.environ.get("NO_COLOR") else None)
