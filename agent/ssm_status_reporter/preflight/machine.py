"""This machine: the directories, the outbox and the room on its disk. Each is judged as who runs the preflight."""

import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from ssm_status_reporter.config import ResultsDirectory, SsmAgent
from ssm_status_reporter.domain.limits import DISK_FREE_BYTES_ADVISED
from ssm_status_reporter.outbox.database import OutboxError, OutboxTooNewError
from ssm_status_reporter.outbox.lock import find_holder
from ssm_status_reporter.outbox.snapshot import readable, reader, tally
from ssm_status_reporter.preflight.finding import Finding, amiss, fine

RESULTS: Final = "results directory"
AGENT: Final = "ssm agent"
OUTBOX: Final = "outbox"
DISK: Final = "disk"
HOLDS: Final = "holds"
DEAD_LETTERS: Final = "dead letters"
_TMPFILES: Final = "systemd-tmpfiles --create makes it so, or name another in sources.results_directory.path"


def results_finding(section: ResultsDirectory) -> Finding:
    """Whether runners can hand in, and the daemon take."""
    path = section.path
    if not section.enabled:
        return fine(RESULTS, "off: sources.results_directory.enabled is false")
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return amiss(RESULTS, f"{path}: {error.strerror}", _TMPFILES)
    if not stat.S_ISDIR(mode):
        return amiss(RESULTS, f"{path} is no directory", _TMPFILES)
    if mode & stat.S_ISVTX:
        return amiss(
            RESULTS, f"{path} has a sticky bit: the daemon cannot remove what others wrote", f"chmod -t {path}"
        )
    if mode & stat.S_IWOTH:
        return amiss(RESULTS, f"{path} is writable for everybody: anyone may report", f"chmod o-w {path}")
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        return amiss(RESULTS, f"{path} is not to be read and written by this user", _TMPFILES)
    return fine(RESULTS, f"{path}")


def agent_finding(section: SsmAgent, instance_id: str | None) -> Finding:
    """Whether the SSM Agent's runs can be watched."""
    if section.enabled is False:
        return fine(AGENT, "off: sources.ssm_agent.enabled is false")
    path = section.path
    state = path / (instance_id or "") / "document" / "state"
    try:
        os.scandir(state if instance_id else path).close()
    except (FileNotFoundError, NotADirectoryError):
        if section.enabled is True:
            remedy = "install and register the agent, or correct sources.ssm_agent.path or node.instance_id"
            return amiss(AGENT, f"{state}: there is none", remedy)
        return fine(AGENT, f"no agent keeps state of this node's runs below {path}; it is noticed when one does")
    except OSError as error:
        return amiss(
            AGENT, f"{state}: {error.strerror}", "run doctor as root, as whom the unit lets the daemon read"
        )
    return fine(AGENT, f"{state}")


def outbox_findings(path: Path) -> Iterator[Finding]:
    """Whether statuses can be kept, and what the daemon met."""
    try:
        with readable(path):
            holder, made = find_holder(path), path.exists()
        if not made:
            yield _unmade(path)
            return
        damage = _damage(path)
        counted = tally(path)
    except OutboxTooNewError as error:
        yield amiss(OUTBOX, error.finding, error.remedy)
        return
    except OutboxError as error:
        yield amiss(OUTBOX, str(error), "run doctor as root or as a member of the group ssm-status-reporter")
        return
    if damage is not None:
        yield amiss(OUTBOX, f"{path} is damaged: {damage}", "restart the daemon: it sets it aside; check the disk")
        return
    runs = "no daemon runs" if holder is None else f"process {holder.pid} runs as its daemon"
    waiting = sum(counted.states.get(state, 0) for state in ("pending", "in_flight", "parked"))
    yield fine(OUTBOX, f"{path}: {sum(counted.states.values())} associations, {waiting} to deliver; {runs}")
    for scope, instance_id, document in counted.holds if holder is not None else ():
        whom = " ".join(part for part in (document, instance_id) if part) or "everything"
        yield amiss(
            HOLDS, f"{scope} hold on {whom}", "ssm-status-reporter status shows the reason and the next probe"
        )
    if counted.dead_letters:
        yield amiss(DEAD_LETTERS, f"{counted.dead_letters} kept", "look at ssm-status-reporter dead-letters list")


def disk_finding(path: Path) -> Finding:
    """Whether there is room for the outbox."""
    place = _nearest(path)
    free = shutil.disk_usage(place).free
    detail = f"{free // (1024 * 1024):,} MiB free at {place}"
    if free < DISK_FREE_BYTES_ADVISED:
        return amiss(DISK, detail, "make room: on a full disk next to nothing is acknowledged")
    return fine(DISK, detail)


def _nearest(path: Path) -> Path:
    """The directory that it lies in, or would, as far as that is there and may be seen."""
    return next(parent for parent in path.absolute().parents if os.path.exists(parent))  # noqa: PTH110 (never raises)


def _unmade(path: Path) -> Finding:
    place = _nearest(path)
    if not os.access(place, os.W_OK | os.X_OK, effective_ids=True):
        remedy = "install the unit (it makes the directory), or let the daemon's user write there"
        return amiss(OUTBOX, f"{path} does not exist, and {place} is not writable for this user", remedy)
    return fine(OUTBOX, f"{path} does not exist yet; the daemon makes it")


def _damage(path: Path) -> str | None:
    """What SQLite finds wrong with the file; None: nothing."""
    with readable(path), closing(reader(path)) as connection:
        try:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            return str(error)
    return None if found == "ok" else str(found)
