"""``ssm-status-reporter submit``: write one result into the results directory.

Rules:
  * Nothing is written before the whole result has been judged, by the daemon's own decoding.
  * A reader of the directory sees no file or the whole one: written under a hidden name, on disk, then renamed.
"""

import json
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ssm_status_reporter.cli.exit_codes import ExitCode
from ssm_status_reporter.cli.invocation import load_configuration
from ssm_status_reporter.domain.quantity import size_text
from ssm_status_reporter.domain.report import RUN_STATUSES
from ssm_status_reporter.domain.result import Result
from ssm_status_reporter.sources import strict_json
from ssm_status_reporter.sources.decode import Origin, Undecodable, decode

if TYPE_CHECKING:
    from ssm_status_reporter.config import Node

_MODE: Final = 0o640
_OPEN_DRAFT: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_TOKEN_BYTES: Final = 8


@click.command
@click.option("--document", required=True, help="The SSM document's name or ARN.")
@click.option("--status", required=True, help=f"One of {', '.join(RUN_STATUSES)}.")
@click.option("--message", help="What people read. [default: <document>: <status>]")
@click.option("--additional-info", help="A text; the text of a JSON object is taken as an object.")
@click.option("--observed-at", help="RFC 3339 with an offset: 2026-11-22T13:23:57Z. [default: now]")
@click.option("--instance-id", help="Another node, which node.allow names. [default: this node]")
@click.pass_context
def submit(
    ctx: click.Context,
    document: str,
    status: str,
    message: str | None,
    additional_info: str | None,
    observed_at: str | None,
    instance_id: str | None,
) -> None:
    """Write one result into the results directory and print the file's path.

    The daemon reports it at once when it runs, and at its start when it does not.

    Exit codes: 0 written, 1 the directory cannot be written to, 2 a bad value (nothing is written),
    78 bad configuration.
    """
    configuration = load_configuration(ctx)
    given = {
        "document": document,
        "status": status,
        "message": message,
        "additional_info": None if additional_info is None else _object_or_text(additional_info),
        "observed_at": observed_at,
        "instance_id": instance_id,
    }
    payload = json.dumps({name: value for name, value in given.items() if value is not None}).encode()
    _refuse_bad(payload, _origin(configuration.node, instance_id))
    directory = configuration.sources.results_directory
    if len(payload) > directory.max_file_size_bytes:
        limit = size_text(directory.max_file_size_bytes)
        raise click.UsageError(f"The result is larger than {limit} (sources.results_directory.max_file_size).")
    if not directory.enabled:
        click.echo("warning: sources.results_directory.enabled is false: the daemon will not read it", err=True)
    try:
        path = _write(directory.path, payload)
    except OSError as error:
        click.echo(f"submit: cannot write into {directory.path}: {error.strerror}; {_remedy(error)}", err=True)
        ctx.exit(ExitCode.FAILED)
    click.echo(path)


def _object_or_text(text: str) -> dict[str, object] | str:
    """The object that the daemon would send, by its own reading; else the text as it is."""
    try:
        value = strict_json.parse(text.encode("utf-8", "surrogateescape"))
        strict_json.compact(value)  # finds what is wrong below the top
    except (strict_json.IncompleteError, strict_json.UnacceptableError):
        return text
    return value


def _origin(node: "Node", instance_id: str | None) -> Origin:
    """As the daemon's, as far as it is known here: who ``auto`` is, only the daemon finds out."""
    from ssm_status_reporter.config.texts import AUTO  # noqa: PLC0415 - load_configuration has brought it

    named = node.instance_id if node.instance_id != AUTO else instance_id or ""
    return Origin(source="results_directory", instance_id=named, observed_at_ms=0, allow=node.allow)


def _refuse_bad(payload: bytes, origin: Origin) -> None:
    verdict = decode(payload, origin)
    if isinstance(verdict, Result):
        return
    refusal = verdict.refusal if isinstance(verdict, Undecodable) else verdict
    option = None if refusal.field is None else f"--{refusal.field.replace('_', '-')}"
    raise click.BadParameter(refusal.reason, param_hint=option)


def _write(directory: Path, payload: bytes) -> Path:
    """Write a new file atomically and durably. Raises OSError, nothing left behind."""
    name = f"submit-{secrets.token_hex(_TOKEN_BYTES)}.json"
    draft = f".{name}"
    spool = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        descriptor = os.open(draft, _OPEN_DRAFT, _MODE, dir_fd=spool)
        try:
            with os.fdopen(descriptor, "wb") as file:
                _let_read(descriptor, spool)
                file.write(payload)
                file.flush()
                os.fsync(descriptor)
            os.rename(draft, name, src_dir_fd=spool, dst_dir_fd=spool)
        except BaseException:
            os.unlink(draft, dir_fd=spool)
            raise
        os.fsync(spool)
    finally:
        os.close(spool)
    return directory / name


def _let_read(descriptor: int, spool: int) -> None:
    """The directory's group, which is the daemon's, may read the file, whatever the umask."""
    group = os.fstat(spool).st_gid
    if os.fstat(descriptor).st_gid != group:
        try:
            os.fchown(descriptor, -1, group)
        except PermissionError:
            click.echo(
                "warning: not a member of the directory's group: the daemon may not be able to read the file",
                err=True,
            )
    os.fchmod(descriptor, _MODE)


def _remedy(error: OSError) -> str:
    match error:
        case FileNotFoundError():
            return "create it (systemd-tmpfiles --create), or name another in sources.results_directory.path"
        case PermissionError():
            return "run this as root or as a member of the group ssm-status-reporter"
        case NotADirectoryError():
            return "sources.results_directory.path must name a directory"
        case _:
            return "mend that and submit again"
