"""``status``: what is acknowledged, pending, parked, dead, and why."""

import sys
import time
from collections.abc import Iterator
from typing import Final

import click
import msgspec

from ssm_status_reporter.cli.exit_codes import ExitCode
from ssm_status_reporter.cli.invocation import load_configuration
from ssm_status_reporter.domain.rfc3339 import milliseconds
from ssm_status_reporter.host.clock import SystemClock, monotonic_ms
from ssm_status_reporter.outbox.database import OutboxError
from ssm_status_reporter.outbox.snapshot import AssociationView, Snapshot, snapshot

WATCH_SECONDS: Final = 2.0
ROWS_MAX: Final = 50
"""Associations shown; those that need attention come first, and the rest is in --json."""
_ORDER: Final = {"dead": 0, "parked": 1, "in_flight": 2, "pending": 3, "acknowledged": 4}
_COLOURS: Final = {
    "dead": "red",
    "parked": "yellow",
    "in_flight": "cyan",
    "pending": "cyan",
    "acknowledged": "green",
}
_CLEAR: Final = "\x1b[H\x1b[2J"


@click.command
@click.option("--json", "as_json", is_flag=True, help="The whole state as one JSON object.")
@click.option("--watch", is_flag=True, help="Show it anew every two seconds until interrupted.")
@click.pass_context
def status(ctx: click.Context, *, as_json: bool, watch: bool) -> None:
    """Show what is acknowledged, pending, parked and dead, and why.

    Works whether or not the daemon runs, for root and for members of the group; needs no network.
    """
    path = load_configuration(ctx).outbox.path
    clock = SystemClock()
    try:
        while True:
            now = clock.now()
            state = snapshot(path, now, monotonic_ms())
            if watch and sys.stdout.isatty() and not as_json:
                click.echo(_CLEAR, nl=False)
            click.echo(msgspec.json.encode(state) if as_json else "\n".join(_lines(state, now.wall_ms)))
            if not watch:
                return
            time.sleep(WATCH_SECONDS)
    except OutboxError as error:
        click.echo(str(error), err=True)
        ctx.exit(ExitCode.FAILED)
    except KeyboardInterrupt:
        if not watch:
            raise


def _lines(state: Snapshot, now_ms: int) -> Iterator[str]:
    node, daemon, outbox = state.node, state.daemon, state.outbox
    who = (node.instance_id or "not known yet") + (f" in {node.region}" if node.region else "")
    runs = f"running, process {daemon.pid} since {daemon.started_at}" if daemon.running else "not running"
    yield f"node          {who}"
    yield f"daemon        {click.style(runs, fg='green' if daemon.running else 'red')}"
    oldest = f"; oldest pending for {outbox.oldest_pending_seconds:.0f} s" if outbox.pending else ""
    yield (
        f"outbox        {len(state.associations)} associations: {outbox.pending} pending, "
        f"{outbox.in_flight} in flight, {outbox.parked} parked, {outbox.dead} dead letters{oldest}"
    )
    counters = state.counters
    yield (
        f"results       {counters['received']} received: {counters['delivered']} delivered, "
        f"{counters['already_held']} already held, {counters['suppressed_unchanged']} unchanged, "
        f"{counters['suppressed_stale']} stale, {counters['coalesced']} coalesced, {counters['dead']} dead"
    )
    yield (
        f"calls         {counters['calls']} made, {counters['retried']} of them retried, besides the probes of holds; "
        f"{counters['refused']} inputs refused"
    )
    if state.comparison is not None:
        yield f"comparison    learnt: the service compares {state.comparison}"
    for hold in state.holds:
        whom = " ".join(part for part in (hold.document, hold.instance_id) if part) or "everything"
        yield click.style(f"hold          {hold.scope}, {whom}, since {hold.since}", fg="yellow")
        yield f"              {hold.reason}"
        yield f"              {_when('probe due', 'next probe', hold.next_probe_at, now_ms)}"
    if state.associations:
        yield ""
        yield from _table(state.associations, now_ms)


def _table(associations: list[AssociationView], now_ms: int) -> Iterator[str]:
    ranked = sorted(associations, key=lambda row: (_ORDER[row.state], row.instance_id, row.document))
    shown = ranked[:ROWS_MAX]
    document_width = max(len("DOCUMENT"), *(len(row.document) for row in shown))
    node_width = max(len("NODE"), *(len(row.instance_id) for row in shown))
    yield f"{'STATE':<13} {'DOCUMENT':<{document_width}} {'NODE':<{node_width}} STATUS"
    for row in shown:
        state = click.style(f"{row.state:<13}", fg=_COLOURS[row.state])
        yield f"{state} {row.document:<{document_width}} {row.instance_id:<{node_width}} {_held(row)}"
        yield from (f"{'':<13} {line}" for line in _details(row, now_ms))
    if len(ranked) > len(shown):
        yield f"… and {len(ranked) - len(shown)} more; status --json has them all"


def _held(row: AssociationView) -> str:
    if row.acknowledged is None:
        return "nothing acknowledged"
    return f"{row.acknowledged.status} at {row.acknowledged.observed_at}"


def _details(row: AssociationView, now_ms: int) -> Iterator[str]:
    if row.pending is not None:
        attempts = "1 failed attempt" if row.attempts == 1 else f"{row.attempts} failed attempts"
        due = (
            "" if row.next_attempt_at is None else f", {_when('due', 'next attempt', row.next_attempt_at, now_ms)}"
        )
        yield f"to deliver: {row.pending.status} at {row.pending.observed_at}, {attempts}{due}"
    if row.last_error is not None:
        error = row.last_error
        request = f" [request {error.request_id}]" if error.request_id else ""
        yield f"last error: {error.code}: {error.message}{request} at {error.at}"
        if error.hint:
            yield f"            {error.hint}"


def _when(due: str, ahead: str, moment: str, now_ms: int) -> str:
    """What is due waits for its turn (for the rate, or a free call), or for a daemon."""
    return f"{due} since {moment}" if milliseconds(moment) <= now_ms else f"{ahead} {moment}"
