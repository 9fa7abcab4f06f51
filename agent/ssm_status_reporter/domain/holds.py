"""Holds: what concerns everything is charged to nothing.

A failure that is not the report's own shuts its *scope*: the reports behind it wait unharmed, and one *probe*
at a time goes out with backoff until an answer shows the scope to be in order again.

Rules:
  * Credentials and clock shut everything; so do the endpoint and a permission once a streak shows that they are
    everybody's (`streaks`). An invalid node shuts that node; a permission denied shuts that association.
  * Any answer that shows a scope to be in order opens it (`_proven_by`), not success alone: a probe that fails
    for its own sake does not keep the scope shut. But a question with an update to follow at once opens nothing: a
    service that answers questions and refuses updates would open the scope before each probe, and the backoff would
    begin anew. What it showed counts with the update's outcome, but for the scope that the update fails of.
  * A failure within a shut scope moves the next probe out; a failure of a call that was already in flight when
    the scope was shut does not.

Source of the distinction between scopes: the error tables of the API and of IAM, see ``ssm/answer.py``.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from ssm_status_reporter.domain.association import Association
from ssm_status_reporter.domain.backoff import Backoff
from ssm_status_reporter.domain.entry import Step
from ssm_status_reporter.domain.outcome import (
    Answer,
    Busy,
    Delivered,
    Failure,
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
from ssm_status_reporter.domain.streaks import Streaks
from ssm_status_reporter.domain.time import Now


@dataclass(frozen=True, slots=True)
class Everything:
    """The subject of a hold that shuts all."""


@dataclass(frozen=True, slots=True)
class Node:
    """The subject of a hold that shuts one managed node."""

    instance_id: str

    def __str__(self) -> str:
        return self.instance_id


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
class Remaining:
    """A probe found a scope still shut; the next one comes later."""

    hold: Hold


@dataclass(frozen=True, slots=True)
class Turned:
    """A probe found a scope still shut, for another reason than before."""

    hold: Hold


@dataclass(frozen=True, slots=True)
class Opening:
    """A scope is in order again."""

    hold: Hold


Change = Shutting | Remaining | Turned | Opening

EVERYTHING: Final = Everything()
_Key = tuple[Scope, Subject]


class HoldBoard:
    """All that is shut, and the streaks of failures that may shut more."""

    def __init__(self, backoff: Backoff) -> None:
        self.backoff = backoff
        self._holds: dict[_Key, Hold] = {}
        self._streaks = Streaks()
        self._asked: dict[Association, tuple[_Key, ...]] = {}

    def __iter__(self) -> Iterator[Hold]:
        return iter(self._holds.values())

    def __len__(self) -> int:
        return len(self._holds)

    def admission(self, now: Now) -> Admission:
        """Whether calls may go out, as far as everything is concerned."""
        shut_until = [hold.next_probe_ms for hold in self if hold.subject == EVERYTHING]
        if not shut_until:
            return Open()
        return Probe() if now.steady_ms >= max(shut_until) else Shut(max(shut_until))

    def shut_nodes(self) -> Iterator[tuple[Node, Hold]]:
        """The nodes that are shut."""
        return ((hold.subject, hold) for hold in self if isinstance(hold.subject, Node))

    def find(self, scope: Scope, subject: Subject) -> Hold | None:
        """The hold of that scope on that subject."""
        return self._holds.get((scope, subject))

    def hurry(self, scope: Scope, now: Now) -> bool:
        """Make the scope's next probe due at once: something changed that may have mended it."""
        late = [hold for hold in self if hold.scope is scope and hold.next_probe_ms > now.steady_ms]
        for hold in late:
            self._holds[hold.scope, hold.subject] = replace(hold, next_probe_ms=now.steady_ms)
        return bool(late)

    def record(
        self,
        association: Association,
        outcome: Outcome | Answer,
        now: Now,
        chance: float,
        next_step: Step | None = None,
    ) -> tuple[Change, ...]:
        """Take note of an answer, and of the call that follows it at once; returns what it shut or opened."""
        asked = self._asked.pop(association, ())
        if isinstance(outcome, Delivered) and not self._holds and self._streaks.are_over:
            return ()
        proven = (*asked, *_proven_by(association, outcome), *self._proven_by_a_call(outcome))
        self._streaks.extend(association, outcome, permitted=(Scope.PERMISSION, EVERYTHING) in proven)
        if next_step is Step.SEND:
            # The question has a permission of its own: only the update tells of the update's.
            shown = tuple(key for key in proven if key in self._holds and key[0] is not Scope.PERMISSION)
            if shown:
                self._asked[association] = shown
            return ()
        blamed = self._blame(association, outcome)
        shut = None if blamed is None else blamed[0]
        openings = tuple(Opening(self._holds.pop(key)) for key in proven if key in self._holds and key != shut)
        if blamed is None:
            return openings
        key, problem = blamed
        standing = self._holds.get(key)
        if standing is not None and now.steady_ms < standing.next_probe_ms:
            return openings  # this call was in flight already when the scope was shut
        failures = 1 if standing is None else standing.failures + 1
        retry_after_ms = outcome.retry_after_ms if isinstance(outcome, Unavailable) else None
        hold = Hold(
            *key,
            problem,
            since_ms=now.wall_ms if standing is None else standing.since_ms,
            failures=failures,
            next_probe_ms=now.steady_ms + self.backoff.delay_ms(failures, chance, retry_after_ms),
        )
        self._holds[key] = hold
        if standing is None:
            return (*openings, Shutting(hold))
        return (*openings, Remaining(hold) if standing.problem.code == problem.code else Turned(hold))

    def for_the_report(self, association: Association, failure: Failure) -> Failure:
        """The failure as it concerns the report: what a shut scope answers is charged to nothing."""
        match failure:
            case Unreachable(problem) if self.find(Scope.ENDPOINT, EVERYTHING) is not None:
                return Withheld(Scope.ENDPOINT, problem)
            case Unavailable(problem, effect) if self.find(Scope.ENDPOINT, EVERYTHING) is not None:
                return Withheld(Scope.ENDPOINT, problem, effect)
            case Withheld(Scope.PERMISSION, problem, effect):
                hold = self.find(Scope.PERMISSION, association)
                return Withheld(Scope.PERMISSION, problem, effect, None if hold is None else hold.next_probe_ms)
            case _:
                return failure

    def _proven_by_a_call(self, outcome: Outcome | Answer) -> tuple[_Key, ...]:
        """A call that went out was signed: keys that were missing here are here, whatever came of the call."""
        key = (Scope.CREDENTIALS, EVERYTHING)
        standing = self._holds.get(key)
        missing_here = standing is not None and standing.problem.request_id is None
        went_out = not (isinstance(outcome, Withheld) and outcome.problem.request_id is None)
        return (key,) if missing_here and went_out else ()

    def _blame(self, association: Association, outcome: Outcome | Answer) -> tuple[_Key, Problem] | None:
        match outcome:
            case Withheld(Scope.NODE, problem):
                return (Scope.NODE, Node(association.instance_id)), problem
            case Withheld(Scope.PERMISSION, problem):
                subject = EVERYTHING if self._streaks.blame_the_permission else association
                return (Scope.PERMISSION, subject), problem
            case Withheld(scope, problem):
                return (scope, EVERYTHING), problem
            case Unreachable(problem) | Unavailable(problem):
                key = (Scope.ENDPOINT, EVERYTHING)
                return (key, problem) if self._streaks.blame_the_endpoint(outcome) or key in self._holds else None
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
            # DescribeAssociation has a permission of its own: its success says nothing of the update's. But no update
            # follows: nothing of the association waits for a permission.
            proven = (*trusted, *own, *node)
        case Withheld(Scope.NODE):
            proven = permitted
        case Unserved():
            proven = (*trusted, *own)
        case Withheld(Scope.PERMISSION) | NotToBeHad():
            proven = trusted
        case Withheld(Scope.CREDENTIALS, Problem(request_id=None)) | Withheld(Scope.ENDPOINT):
            proven = ()  # nothing was asked of the service: the credentials were missing here, or no call can be made
        case Refused():
            # The report is dead: nothing of the association waits for a permission.
            proven = (*reached, *own)
        case Withheld() | Throttled():
            proven = reached
        case Unreachable() | Unavailable():
            proven = ()
    return proven
