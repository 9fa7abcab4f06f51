"""Holds: what concerns everything is charged to nothing.

A failure that is not the report's own shuts its *scope*: the reports behind it wait unharmed, and one *probe*
at a time goes out with backoff until an answer shows the scope to be in order again.

Rules:
  * Credentials, clock, endpoint, and a permission denied to several distinct associations in a row shut
    everything. An invalid node shuts that node; a permission denied shuts that association.
  * The endpoint is shut after several failures in a row. Failures that may be one association's own count
    only when several associations share them; failing to connect is nobody's own.
  * Any answer that shows a scope to be in order opens it (`_proven_by`), not success alone: a probe that fails
    for its own sake does not keep the scope shut.
  * A failure within a shut scope moves the next probe out; a failure of a call that was already in flight when
    the scope was shut does not.

Source of the distinction between scopes: the error tables of the API and of IAM, see ``ssm/answer.py``.
"""

from dataclasses import dataclass, replace
from typing import Final

from ssm_status_reporter.domain.association import Association
from ssm_status_reporter.domain.backoff import Backoff
from ssm_status_reporter.domain.limits import (
    ENDPOINT_ASSOCIATIONS_MIN,
    ENDPOINT_FAILURES_IN_A_ROW,
    PERMISSION_DENIALS_IN_A_ROW,
)
from ssm_status_reporter.domain.outcome import (
    Answer,
    Busy,
    Delivered,
    Effect,
    Held,
    HeldNothing,
    NotToBeHad,
    Outcome,
    Problem,
    Refused,
    Scope,
    Throttled,
    Unavailable,
    Unchanged,
    Unreachable,
    Unserved,
    Withheld,
)
from ssm_status_reporter.domain.time import Now


@dataclass(frozen=True, slots=True)
class Everything:
    """The subject of a hold that shuts all."""


@dataclass(frozen=True, slots=True)
class Node:
    """The subject of a hold that shuts one managed node."""

    instance_id: str


Subject = Everything | Node | Association


@dataclass(frozen=True, slots=True)
class Hold:
    """One shut scope. ``since_ms`` is wall time, ``next_probe_ms`` steady."""

    scope: Scope
    subject: Subject
    problem: Problem
    since_ms: int
    failures: int
    next_probe_ms: int


@dataclass(frozen=True, slots=True)
class Open:
    """Admission: nothing is shut for everybody."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Admission: everything is shut, and one call may go out now."""


@dataclass(frozen=True, slots=True)
class Shut:
    """Admission: everything is shut until ``until_ms`` (steady), when a probe is due."""

    until_ms: int


Admission = Open | Probe | Shut


@dataclass(frozen=True, slots=True)
class Shutting:
    """A scope was shut."""

    hold: Hold


@dataclass(frozen=True, slots=True)
class Opening:
    """A scope is in order again. ``until_ms`` is wall time."""

    hold: Hold
    until_ms: int


Change = Shutting | Opening

EVERYTHING: Final = Everything()
_Key = tuple[Scope, Subject]


@dataclass(frozen=True, slots=True)
class HoldBoard:
    """All that is shut, and the streaks of failures that may shut more."""

    backoff: Backoff
    holds: tuple[Hold, ...] = ()
    failing: tuple[Association, ...] = ()
    failures_in_a_row: int = 0
    denied: tuple[Association, ...] = ()

    def admission(self, now: Now) -> Admission:
        """Whether calls may go out, as far as everything is concerned."""
        shut = [hold.next_probe_ms for hold in self.holds if hold.subject == EVERYTHING]
        if not shut:
            return Open()
        until_ms = max(shut)
        return Probe() if now.steady_ms >= until_ms else Shut(until_ms)

    def shut_nodes(self) -> tuple[Hold, ...]:
        """The nodes that are shut."""
        return tuple(hold for hold in self.holds if isinstance(hold.subject, Node))

    def find(self, scope: Scope, subject: Subject) -> Hold | None:
        """The hold of that scope on that subject."""
        return next((hold for hold in self.holds if hold.scope is scope and hold.subject == subject), None)

    def hurried(self, scope: Scope, now: Now) -> "HoldBoard":
        """The same, with the scope's next probe due at once: something changed that may have mended it."""
        return replace(
            self,
            holds=tuple(
                replace(hold, next_probe_ms=min(hold.next_probe_ms, now.steady_ms))
                if hold.scope is scope
                else hold
                for hold in self.holds
            ),
        )

    def recorded(
        self, association: Association, outcome: Outcome | Answer, now: Now, chance: float
    ) -> tuple["HoldBoard", tuple[Change, ...]]:
        """The board after an answer, and what it shut or opened."""
        if isinstance(outcome, Delivered) and not (self.holds or self.failures_in_a_row or self.denied):
            return self, ()
        board, openings = self._opened_by(association, outcome, now)
        board = board._streaks_after(association, outcome)  # noqa: SLF001 (its own kind)
        blamed = board._blames(association, outcome)  # noqa: SLF001 (its own kind)
        if blamed is None:
            return board, openings
        (scope, subject), problem = blamed
        standing = board.find(scope, subject)
        if standing is not None and now.steady_ms < standing.next_probe_ms:
            return board, openings  # was in flight when the scope was shut
        failures = 1 if standing is None else standing.failures + 1
        retry_after_ms = getattr(outcome, "retry_after_ms", None)
        delay_ms = self.backoff.delay_ms(failures, chance, retry_after_ms)
        hold = Hold(
            scope,
            subject,
            problem,
            since_ms=now.wall_ms if standing is None else standing.since_ms,
            failures=failures,
            next_probe_ms=now.steady_ms + delay_ms,
        )
        others = tuple(other for other in board.holds if other is not standing)
        changes: tuple[Change, ...] = openings if standing is not None else (*openings, Shutting(hold))
        return replace(board, holds=(*others, hold)), changes

    def translated(self, association: Association, outcome: Outcome | Answer) -> Outcome | Answer:
        """The outcome as it concerns the report: what a shut scope answers is charged to nothing."""
        match outcome:
            case Unreachable(problem) | Unavailable(problem) if self.find(Scope.ENDPOINT, EVERYTHING) is not None:
                effect = outcome.effect if isinstance(outcome, Unavailable) else Effect.NONE
                return Withheld(Scope.ENDPOINT, problem, effect)
            case Withheld(Scope.PERMISSION, problem, effect):
                hold = self.find(Scope.PERMISSION, association)
                return Withheld(Scope.PERMISSION, problem, effect, None if hold is None else hold.next_probe_ms)
            case _:
                return outcome

    def _opened_by(
        self, association: Association, outcome: Outcome | Answer, now: Now
    ) -> tuple["HoldBoard", tuple[Opening, ...]]:
        proven = _proven_by(association, outcome)
        opened = tuple(hold for hold in self.holds if (hold.scope, hold.subject) in proven)
        if not opened:
            return self, ()
        kept = tuple(hold for hold in self.holds if hold not in opened)
        return replace(self, holds=kept), tuple(Opening(hold, now.wall_ms) for hold in opened)

    def _streaks_after(self, association: Association, outcome: Outcome | Answer) -> "HoldBoard":
        board = self
        if isinstance(outcome, Unreachable | Unavailable):
            failing = board.failing if association in board.failing else (*board.failing, association)
            board = replace(
                board,
                failing=failing[:ENDPOINT_ASSOCIATIONS_MIN],
                failures_in_a_row=min(board.failures_in_a_row + 1, ENDPOINT_FAILURES_IN_A_ROW),
            )
        else:
            board = replace(board, failing=(), failures_in_a_row=0)
        match outcome:
            case Withheld(Scope.PERMISSION) if association not in board.denied:
                return replace(board, denied=(*board.denied, association)[:PERMISSION_DENIALS_IN_A_ROW])
            case Delivered() | Unchanged():
                return replace(board, denied=())
            case _:
                return board

    def _blames(self, association: Association, outcome: Outcome | Answer) -> tuple[_Key, Problem] | None:
        match outcome:
            case Withheld(Scope.NODE, problem):
                return (Scope.NODE, Node(association.instance_id)), problem
            case Withheld(Scope.PERMISSION, problem):
                everybody = len(self.denied) >= PERMISSION_DENIALS_IN_A_ROW
                return (Scope.PERMISSION, EVERYTHING if everybody else association), problem
            case Withheld(scope, problem):
                return (scope, EVERYTHING), problem
            case Unreachable(problem) | Unavailable(problem):
                shared = isinstance(outcome, Unreachable) or len(self.failing) >= ENDPOINT_ASSOCIATIONS_MIN
                if (shared and self.failures_in_a_row >= ENDPOINT_FAILURES_IN_A_ROW) or self.find(
                    Scope.ENDPOINT, EVERYTHING
                ):
                    return (Scope.ENDPOINT, EVERYTHING), problem
                return None
            case _:
                return None


def _proven_by(association: Association, outcome: Outcome | Answer) -> tuple[_Key, ...]:
    """The scopes this answer shows to be in order."""
    reached: tuple[_Key, ...] = ((Scope.ENDPOINT, EVERYTHING),)
    trusted: tuple[_Key, ...] = (*reached, (Scope.CREDENTIALS, EVERYTHING), (Scope.CLOCK, EVERYTHING))
    own: tuple[_Key, ...] = ((Scope.PERMISSION, association),)
    permitted: tuple[_Key, ...] = (*trusted, *own, (Scope.PERMISSION, EVERYTHING))
    node: tuple[_Key, ...] = ((Scope.NODE, Node(association.instance_id)),)
    proven: tuple[_Key, ...]
    match outcome:
        case Delivered() | Unchanged() | Busy():
            proven = (*permitted, *node)
        case Held() | HeldNothing():
            # DescribeAssociation has a permission of its own: its success says nothing of the update's.
            proven = (*trusted, *node)
        case Withheld(Scope.NODE):
            proven = permitted
        case Unserved():
            proven = (*trusted, *own)
        case Withheld(Scope.PERMISSION) | NotToBeHad():
            proven = trusted
        case Withheld(Scope.CREDENTIALS, Problem(request_id=None)):
            proven = ()  # nothing was asked of the service: the credentials were missing here
        case Withheld() | Refused() | Throttled():
            proven = reached
        case Unreachable() | Unavailable():
            proven = ()
    return proven
