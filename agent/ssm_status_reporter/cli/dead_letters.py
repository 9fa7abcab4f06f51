"""``dead-letters``: look at what the service refused for good, send it again, or drop it."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import click
import msgspec

from ssm_status_reporter import tuning
from ssm_status_reporter.cli.exit_codes import ExitCode
from ssm_status_reporter.cli.invocation import load_configuration
from ssm_status_reporter.domain.rfc3339 import date_text
from ssm_status_reporter.host.clock import SystemClock
from ssm_status_reporter.outbox import letters
from ssm_status_reporter.outbox.database import OutboxError
from ssm_status_reporter.outbox.dead_letters import DeadLetter
from ssm_status_reporter.sources.quoting import printable

T = TypeVar("T")


class _LetterView(msgspec.Struct, frozen=True):
    """A dead letter as ``--json`` prints it."""

    id: int
    instance_id: str
    document: str
    status: str
    message: str
    observed_at: str
    code: str
    error: str
    request_id: str | None
    at: str


_IDS = click.argument("ids", nargs=-1, type=int)
_ALL = click.option("--all", "every", is_flag=True, help="Every dead letter.")
_JSON = click.option("--json", "as_json", is_flag=True, help="As JSON.")


@click.group
def dead_letters() -> None:
    """List, show, retry or discard what the service refused for good."""


@dead_letters.command("list")
@_JSON
@click.pass_context
def list_(ctx: click.Context, *, as_json: bool) -> None:
    """Every dead letter, oldest first."""
    found = _letters(ctx)
    if as_json:
        _print_json(found)
    elif not found:
        click.echo("no dead letters")
    for letter in () if as_json else found:
        click.echo(
            f"{letter.id:>6}  {date_text(letter.at_ms)}  {letter.problem.code}  "
            f"{letter.association.document} on {letter.association.instance_id}: {letter.report.status}"
        )


@dead_letters.command
@_IDS
@_JSON
@click.pass_context
def show(ctx: click.Context, ids: tuple[int, ...], *, as_json: bool) -> None:
    """All that is known of the dead letters IDS."""
    _need_ids(ctx, ids)
    by_id = {letter.id: letter for letter in _letters(ctx)}
    found = [by_id[letter_id] for letter_id in ids if letter_id in by_id]
    if as_json:
        _print_json(found)
    elif found:
        click.echo("\n\n".join("\n".join(_described(letter)) for letter in found))
    _end(ctx, ids, [letter.id for letter in found])


@dead_letters.command
@_IDS
@_ALL
@_JSON
@click.pass_context
def retry(ctx: click.Context, ids: tuple[int, ...], *, every: bool, as_json: bool) -> None:
    """Send the dead letters IDS again; a running daemon does it at once, another at its start.

    What is older than the newest status known of its association is not sent.
    """
    configuration = load_configuration(ctx)
    chosen = _chosen(ctx, ids, every=every)
    path = configuration.outbox.path
    policy = tuning.policy(configuration, _guarded(ctx, lambda: letters.learnt_comparison(path)))
    tried = _guarded(ctx, lambda: letters.retry(path, chosen, SystemClock().now(), policy)) if chosen else []
    if as_json:
        _print_json([each.letter for each in tried])
    else:
        for each in tried:
            click.echo(f"{each.letter.id}: {each.letter.association}: {each.fate.value}")
    _end(ctx, chosen, [each.letter.id for each in tried])


@dead_letters.command
@_IDS
@_ALL
@_JSON
@click.pass_context
def discard(ctx: click.Context, ids: tuple[int, ...], *, every: bool, as_json: bool) -> None:
    """Drop the dead letters IDS for good."""
    path = load_configuration(ctx).outbox.path
    chosen = _chosen(ctx, ids, every=every)
    dropped = _guarded(ctx, lambda: letters.discard(path, chosen)) if chosen else []
    if as_json:
        _print_json(dropped)
    else:
        for letter in dropped:
            click.echo(f"{letter.id}: {letter.association}: discarded")
    _end(ctx, chosen, [letter.id for letter in dropped])


def _letters(ctx: click.Context) -> list[DeadLetter]:
    path = load_configuration(ctx).outbox.path
    return _guarded(ctx, lambda: letters.letters(path))


def _guarded(ctx: click.Context, work: Callable[[], T]) -> T:
    try:
        return work()
    except OutboxError as error:
        click.echo(str(error), err=True)
        ctx.exit(ExitCode.FAILED)


def _chosen(ctx: click.Context, ids: tuple[int, ...], *, every: bool) -> tuple[int, ...]:
    if every and ids:
        raise click.UsageError("name ids or --all, not both", ctx)
    if every:
        return tuple(letter.id for letter in _letters(ctx))
    _need_ids(ctx, ids)
    return ids


def _need_ids(ctx: click.Context, ids: tuple[int, ...]) -> None:
    if not ids:
        raise click.UsageError("name at least one id (dead-letters list shows them)", ctx)


def _end(ctx: click.Context, wanted: tuple[int, ...], found: list[int]) -> None:
    unknown = [letter_id for letter_id in wanted if letter_id not in found]
    for letter_id in unknown:
        click.echo(f"{letter_id}: no such dead letter (dead-letters list shows them)", err=True)
    if unknown:
        ctx.exit(ExitCode.FAILED)


def _described(letter: DeadLetter) -> Iterator[str]:
    yield f"dead letter   {letter.id}, since {date_text(letter.at_ms)}"
    yield f"association   {letter.association}"
    yield f"status        {letter.report.status}, observed {date_text(letter.report.observed_at_ms)}"
    yield f"message       {printable(letter.report.message)}"
    yield f"error         {letter.problem.code}: {letter.problem.message}"
    if letter.problem.request_id:
        yield f"request       {letter.problem.request_id}"
    if letter.problem.hint:
        yield f"what to do    {letter.problem.hint}"


def _print_json(found: list[DeadLetter]) -> None:
    views = [
        _LetterView(
            letter.id,
            letter.association.instance_id,
            letter.association.document,
            letter.report.status,
            letter.report.message,
            date_text(letter.report.observed_at_ms),
            letter.problem.code,
            letter.problem.message,
            letter.problem.request_id,
            date_text(letter.at_ms),
        )
        for letter in found
    ]
    click.echo(msgspec.json.encode(views))
