"""Streaks: what failed in a row, without which a failure cannot be told to be everybody's.

Rules:
  * The endpoint is to blame after several failures in a row. Failures that may be one association's own count
    only when several associations share them; failing to connect is nobody's own.
  * The permission is to blame after it was denied to several distinct associations in a row. That an association is
    denied again tells nothing of the others: it counts once, until an update of it was permitted.
"""

from ssm_status_reporter.domain.association import Association
from ssm_status_reporter.domain.limits import (
    ENDPOINT_ASSOCIATIONS_MIN,
    ENDPOINT_FAILURES_IN_A_ROW,
    KNOWN_DENIED_MAX,
    PERMISSION_DENIALS_IN_A_ROW,
)
from ssm_status_reporter.domain.outcome import Answer, Outcome, Scope, Unavailable, Unreachable, Withheld


class Streaks:
    """The failures in a row, up to the last answer."""

    def __init__(self) -> None:
        self._failures = 0
        self._failing: set[Association] = set()
        self._denied: set[Association] = set()
        self._known_denied: set[Association] = set()

    @property
    def are_over(self) -> bool:
        """Nothing failed last, and no association is known to be denied."""
        return not self._failures and not self._known_denied

    @property
    def blame_the_permission(self) -> bool:
        """Whether a permission that was denied is denied to everybody."""
        return len(self._denied) >= PERMISSION_DENIALS_IN_A_ROW

    def blame_the_endpoint(self, failure: Unreachable | Unavailable) -> bool:
        """Whether the failure, which has extended its streak, is everybody's."""
        nobodys_own = isinstance(failure, Unreachable) or len(self._failing) >= ENDPOINT_ASSOCIATIONS_MIN
        return nobodys_own and self._failures >= ENDPOINT_FAILURES_IN_A_ROW

    def extend(self, association: Association, outcome: Outcome | Answer, *, permitted: bool) -> None:
        """One more answer. ``permitted``: it shows that an update of the association is."""
        if isinstance(outcome, Unreachable | Unavailable):
            self._failures += 1
            if len(self._failing) < ENDPOINT_ASSOCIATIONS_MIN:
                self._failing.add(association)
        else:
            self._failures = 0
            self._failing.clear()
        if isinstance(outcome, Withheld) and outcome.scope is Scope.PERMISSION:
            if association not in self._known_denied and len(self._denied) < PERMISSION_DENIALS_IN_A_ROW:
                self._denied.add(association)
            if len(self._known_denied) < KNOWN_DENIED_MAX:
                self._known_denied.add(association)
        elif permitted:
            self._denied.clear()
            self._known_denied.discard(association)
