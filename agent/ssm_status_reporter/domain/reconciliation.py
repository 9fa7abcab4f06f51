"""Reconciliation: when what is thought to be acknowledged is compared with what the service holds (rule 6).

Spread out, so that the entries of one daemon, and the daemons of a fleet, do not ask all at once.
"""

from dataclasses import dataclass

from ssm_status_reporter.domain.limits import RECONCILE_JITTER_SHARE


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """When entries at rest are compared with the service; an interval of 0 means never."""

    interval_ms: int
    on_start: bool

    @property
    def is_on(self) -> bool:
        """Whether it happens at all."""
        return self.interval_ms > 0 or self.on_start

    def next_ms(self, now_ms: int, chance: float) -> int | None:
        """When an entry that was just compared, or is new, comes next."""
        if self.interval_ms == 0:
            return None
        return now_ms + self.interval_ms - round(chance * RECONCILE_JITTER_SHARE * self.interval_ms)
