"""The runs of the SSM Agent that are held open: opened, read, judged, let go. No waiting.

Rules:
  * A run is held from the first sight of its file until the file has gone, and is read once more then: that last
    read decides. Torn contents before it mean wait; only at the last read is it said that a status is not known.
  * What is none of ours (Run Command, sessions, unwanted associations) is let go as soon as it is known.
  * A final status becomes a result when it is seen, and once: what says the same again (the last read, a scan, the
    agent's restart) is no news.
  * No content of a state file is logged: its name, and what a final run says of itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

import structlog

from ssm_status_reporter.config import AgentAssociations
from ssm_status_reporter.domain.limits import AGENT_RUNS_HELD_MAX, AGENT_STATE_BYTES_MAX
from ssm_status_reporter.domain.quantity import size_text
from ssm_status_reporter.domain.result import Result
from ssm_status_reporter.ports import Clock
from ssm_status_reporter.sources.agent_run import NoRun, Run, decode, is_run_name, result, wanted
from ssm_status_reporter.sources.agent_state import StateDirectory, StateFile
from ssm_status_reporter.sources.quoting import printable

_TOO_LARGE: Final = f"the state file is larger than {size_text(AGENT_STATE_BYTES_MAX)}"
_TORN: Final = "the state file was removed before it was whole"
_UNSEEN: Final = "the state file was removed before this daemon came to open it"

log = structlog.get_logger()


class Absence(Enum):
    """What to make of an SSM Agent that is not there."""

    EXPECTED = "it may come later, or never"
    COMPLAINED_OF = "it should be there"


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """What the configuration and the node's identity say about the SSM Agent."""

    path: str
    """The agent's data directory, absolute."""
    instance_id: str
    """This node's own."""
    associations: AgentAssociations
    absence: Absence

    @property
    def state_path(self) -> str:
        """Where the agent keeps the state of this node's runs."""
        return f"{self.path}/{self.instance_id}/document/state"


@dataclass(slots=True)
class _Held:
    file: StateFile
    complained: bool = False
    """Whether it was said that its content is none that can be read."""


class AgentReader:
    """The held runs, by the names of their files. Never raises; what the file system does not do is `trouble`."""

    def __init__(
        self,
        settings: AgentSettings,
        clock: Clock,
        hand_in: Callable[[Result], None],
        count_refused: Callable[[int], None],
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._hand_in = hand_in
        self._count_refused = count_refused
        self._held: dict[str, _Held] = {}
        self._final: dict[str, Run] = {}
        self._gone_since_pending: dict[str, None] = {}
        self._crowded = False
        self.trouble: OSError | None = None
        """The last thing that the file system refused; for the caller to set to None before a survey."""
        self.unfinished = 0
        """Runs that went without a final status: the agent was stopped, or gave them up."""

    def __len__(self) -> int:
        return len(self._held)

    def meet(self, name: str, directory: StateDirectory) -> bool:
        """Hold the file of that name, if it is not held already. False: there was none to be held."""
        held = self._held.get(name)
        try:
            if held is not None:
                if directory.inode(name) in {None, held.file.inode}:
                    return True
                self.leave(name)  # another file took its name
            file = directory.open(name)
        except OSError as error:
            self.trouble = error
            return True  # there, and met again by a survey
        if file is None:
            return False
        self._make_room()
        self._held[name] = _Held(file)
        return True

    def read(self, name: str) -> None:
        """Look at a held file, which stays. Torn contents wait for another event."""
        held = self._held.get(name)
        if held is None:
            return
        match look := self._look(held):
            case Run() if not wanted(look, self._settings.associations):
                self._let_go(name)
            case Run():
                if look.is_final:
                    self._finish(name, look)
            case NoRun.NOT_A_RUN:
                self._let_go(name)
            case NoRun.UNKNOWN_FORMAT | str():
                self._complain(name, held, look)

    def leave(self, name: str) -> None:
        """The file has gone, or another took its name: the last read."""
        held = self._held.get(name)
        if held is None:
            return
        look = self._look(held)
        self._let_go(name)
        match look:
            case Run() if not wanted(look, self._settings.associations):
                pass
            case Run() if look.is_final:
                self._finish(name, look)
            case Run():
                self.unfinished += 1
                log.debug(
                    "a run of the SSM Agent went without a final status",
                    run=printable(name),
                    so_far=self.unfinished,
                )
            case NoRun.NOT_A_RUN:
                pass
            case NoRun.TORN:
                self._complain(name, held, _TORN)
            case _:
                self._complain(name, held, look)

    def leave_for(self, name: str, directory: StateDirectory) -> None:
        """The file has gone from where it was; in ``directory`` it may go on, under the same name."""
        try:
            goes_on = directory.has(name)
        except OSError as error:
            self.trouble = error
            goes_on = True
        if not goes_on and name in self._held:
            self.leave(name)
            # That it was there in between is told next, and is no news of a file that nobody opened.
            self._gone_since_pending[name] = None
            if len(self._gone_since_pending) > AGENT_RUNS_HELD_MAX:
                del self._gone_since_pending[next(iter(self._gone_since_pending))]

    def miss(self, name: str) -> None:
        """The file had gone before it could be opened there."""
        if name in self._gone_since_pending:
            del self._gone_since_pending[name]
        elif is_run_name(name):
            self._say_unknown(name, _UNSEEN)

    def survey(self, directories: Sequence[StateDirectory]) -> None:
        """Look everywhere: hold and read what is there, take leave of what is not."""
        try:
            listed = [(directory, directory.names()) for directory in directories]
        except OSError as error:
            self.trouble = error
            return
        there = {name for _, names in listed for name in names}
        for name in self._held.keys() - there:
            self.leave(name)
        for directory, names in listed:
            for name in names:
                if self.meet(name, directory):
                    self.read(name)

    def leave_all_but(self, directories: Sequence[StateDirectory]) -> None:
        """A directory has gone. What lies in one of these is not over: it is held on, and met there again."""
        for name, held in list(self._held.items()):
            try:
                lies_there = any(directory.inode(name) == held.file.inode for directory in directories)
            except OSError as error:
                self.trouble = error
                lies_there = True
            if not lies_there:
                self.leave(name)

    def stop(self) -> None:
        """Read what is held and let it go; what is not over then is met again at the next start."""
        for name in list(self._held):
            self.read(name)
            self._let_go(name)

    def _look(self, held: _Held) -> Run | NoRun | str:
        """What the file holds; a text says why that cannot be told."""
        try:
            payload = held.file.read()
        except OSError as error:
            self.trouble = error
            return f"the state file cannot be read: {error.strerror}"
        return _TOO_LARGE if payload is None else decode(payload)

    def _let_go(self, name: str) -> None:
        held = self._held.pop(name, None)
        if held is not None:
            held.file.close()

    def _make_room(self) -> None:
        if len(self._held) < AGENT_RUNS_HELD_MAX:
            self._crowded = False
            return
        oldest = next(iter(self._held))
        self.read(oldest)
        self._let_go(oldest)
        if not self._crowded:
            self._crowded = True
            log.warning(
                "more runs of the SSM Agent at once than are held open: those held longest are let go, and met "
                "again when they are written to; their status may be missed",
                held=AGENT_RUNS_HELD_MAX,
                let_go=printable(oldest),
                hint="look for state files that the agent left behind",
            )

    def _finish(self, name: str, run: Run) -> None:
        if self._final.get(name) == run:
            return
        self._final.pop(name, None)
        self._final[name] = run
        if len(self._final) > AGENT_RUNS_HELD_MAX:
            del self._final[next(iter(self._final))]
        if not run.is_reportable:
            self._say_unknown(name, "its document's name is none that the API takes")
            return
        settings = self._settings
        seen_at_ms = self._clock.now().wall_ms
        self._hand_in(result(run, settings.instance_id, settings.associations, seen_at_ms))
        log.debug("a run of the SSM Agent is over", run=printable(name), document=run.document, status=run.status)

    def _complain(self, name: str, held: _Held, look: NoRun | str) -> None:
        if not held.complained and is_run_name(name):
            held.complained = True
            self._say_unknown(name, look.value if isinstance(look, NoRun) else look)

    def _say_unknown(self, name: str, reason: str) -> None:
        self._count_refused(1)
        log.warning(
            "the final status of a run of the SSM Agent cannot be reported",
            run=printable(name),
            reason=reason,
            hint="what the agent itself reported stands; see its log",
        )
