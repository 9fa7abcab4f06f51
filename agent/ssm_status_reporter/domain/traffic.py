"""The traffic: which calls are out, what all of them go by, and what an answer to one changes for the others.

Rules (numbers as in ARCHITECTURE.md):
  9. At most ``concurrency`` calls are out at a time.
 10. When everything opens again, the rate restarts low. What may have been mended is probed at once; and once more if
     the probe fails of it that was out meanwhile, for it may have gone before.
 12. A call takes a token of the rate, which gives way while the service throttles. Reconciliation takes its share of
     the rate.
"""

from dataclasses import dataclass

from ssm_status_reporter.domain.association import Association
from ssm_status_reporter.domain.backoff import Backoff
from ssm_status_reporter.domain.entry import Claim, Step
from ssm_status_reporter.domain.holds import EVERYTHING, Admission, Change, HoldBoard, Opening
from ssm_status_reporter.domain.limits import RECONCILE_RATE_SHARE
from ssm_status_reporter.domain.outcome import Answer, Outcome, Scope, Throttled, Unavailable, Unreachable
from ssm_status_reporter.domain.rate import Rate
from ssm_status_reporter.domain.time import Now


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast and how many at a time; from the configuration."""

    concurrency: int
    rate_per_second: float
    burst: int
    backoff: Backoff


class Traffic:
    """Between the daemon and the service. Times named *_ms are steady."""

    def __init__(self, pace: Pace, now_ms: int) -> None:
        self._pace = pace
        self.board = HoldBoard(pace.backoff)
        """What is shut."""
        self._rate = Rate.full(pace.rate_per_second, pace.burst, now_ms)
        self._questions = Rate.full(pace.rate_per_second * RECONCILE_RATE_SHARE, 1, now_ms)
        self._out: set[Claim] = set()
        self._overtaken: set[tuple[Scope, Association]] = set()
        self._hurried: set[Association] = set()

    def repace(self, pace: Pace) -> None:
        """Go on under a changed configuration."""
        self._pace = pace
        self.board.backoff = pace.backoff
        self._rate = self._rate.relimited(pace.rate_per_second, pace.burst)
        self._questions = self._questions.relimited(pace.rate_per_second * RECONCILE_RATE_SHARE, 1)

    # Calls.

    @property
    def calls_out(self) -> int:
        """Claims being worked on."""
        return len(self._out)

    @property
    def is_quiet(self) -> bool:
        """No call is out and nothing is shut: nothing but a new pace changes what the next call goes by."""
        return not self._out and not self.board

    def begin(self, claim: Claim, now_ms: int) -> None:
        """Its slot is taken, and a token."""
        self._out.add(claim)
        self.go_on(now_ms)

    def go_on(self, now_ms: int) -> None:
        """One more call in a slot that is taken; it is not optional, and may owe its token."""
        # A token of now: what would have come to a full bucket before is none.
        self._rate = self._rate.at(now_ms).taken(1)

    def end(self, claim: Claim) -> None:
        """Its slot is free again."""
        self._out.discard(claim)
        if self._overtaken:
            self._overtaken = {each for each in self._overtaken if each[1] != claim.association}

    # What may go out.

    def admission(self, now: Now) -> Admission:
        """Whether calls may go out now, as far as everything is concerned."""
        self._rate = self._rate.at(now.steady_ms)
        return self.board.admission(now)

    @property
    def free_slots(self) -> int:
        """How many more calls may be out at a time; negative after a reload to less."""
        return self._pace.concurrency - len(self._out)

    @property
    def slots(self) -> int:
        """How many more calls may go out now."""
        return max(0, min(self.free_slots, self._rate.available))

    @property
    def next_token_ms(self) -> int | None:
        """When there will be a token; None: there is one."""
        return self._rate.at_ms + self._rate.wait_ms if self._rate.wait_ms else None

    @property
    def calls_per_second(self) -> float:
        """The present rate."""
        return self._rate.per_second

    def shut_nodes(self) -> frozenset[str]:
        """The nodes of which nothing goes out but probes."""
        return frozenset(node.instance_id for node, _ in self.board.shut_nodes())

    def nodes_to_probe(self, now_ms: int) -> list[str]:
        """Those of them whose probe is due, and not out."""
        being_probed = self._nodes_out()
        return [
            node.instance_id
            for node, hold in self.board.shut_nodes()
            if hold.next_probe_ms <= now_ms and node.instance_id not in being_probed
        ]

    def later_probes_ms(self, now_ms: int) -> list[int]:
        """When the others are due."""
        return [hold.next_probe_ms for _, hold in self.board.shut_nodes() if hold.next_probe_ms > now_ms]

    def next_question_ms(self, now_ms: int) -> int | None:
        """When the next question of reconciliation may go out; None: now."""
        self._questions = self._questions.at(now_ms)
        return self._questions.at_ms + self._questions.wait_ms if self._questions.wait_ms else None

    def begin_question(self, claim: Claim, now_ms: int) -> None:
        """As `begin`, out of the share that is reconciliation's."""
        self._questions = self._questions.taken(1)
        self.begin(claim, now_ms)

    def no_questions_until_ms(self, now_ms: int) -> dict[str, int]:
        """The nodes of which no question may go out now, and until when: their probe is out, or not due."""
        being_probed = self._nodes_out()
        return {
            node.instance_id: max(hold.next_probe_ms, now_ms + self._pace.backoff.initial_ms)
            for node, hold in self.board.shut_nodes()
            if hold.next_probe_ms > now_ms or node.instance_id in being_probed
        }

    def _nodes_out(self) -> set[str]:
        return {claim.association.instance_id for claim in self._out}

    # What an answer, or somebody else, changes.

    def note(
        self, claim: Claim, outcome: Outcome | Answer, now: Now, chance: float, then: Claim | None = None
    ) -> tuple[Change, ...]:
        """Take note of what came of a call, and of the one that follows in its slot; what it shut or opened."""
        if isinstance(outcome, Throttled):
            self._rate = self._rate.throttled(now.steady_ms)
        elif not isinstance(outcome, Unreachable | Unavailable):
            self._rate = self._rate.accepted()
        next_step: Step | None = None if then is None else then.step
        changes = self.board.record(claim.association, outcome, now, chance, next_step)
        for change in changes:
            overtaken = (change.hold.scope, claim.association)
            if overtaken in self._overtaken and not isinstance(change, Opening):
                self._overtaken.discard(overtaken)
                self._probe_at_once(change.hold.scope, now)
            if isinstance(change, Opening) and change.hold.subject == EVERYTHING:
                self._rate = self._rate.ramped(now.steady_ms)
        return changes

    def hurry(self, scope: Scope, now: Now) -> bool:
        """Something changed that may have mended the scope: its probe is due. Whether there is one."""
        self._overtaken.update((scope, claim.association) for claim in self._out)
        return self._probe_at_once(scope, now)

    def _probe_at_once(self, scope: Scope, now: Now) -> bool:
        if not self.board.hurry(scope, now):
            return False
        subjects = (hold.subject for hold in self.board if hold.scope is scope)
        self._hurried.update(subject for subject in subjects if isinstance(subject, Association))
        return True

    def take_hurried(self) -> set[Association]:
        """The associations whose own probe is due by that; each is told once."""
        hurried, self._hurried = self._hurried, set()
        return hurried
