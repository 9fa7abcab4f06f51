"""Backoff: full jitter, for ever, at the cap for as long as it takes.

The delay after the n-th failure is ``chance · min(max, initial · 2ⁿ⁻¹)``: spread over the whole interval, so
that a fleet which failed together does not come back together.

Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015 (the variant "Full Jitter").
"""

from dataclasses import dataclass

from ssm_status_reporter.domain.limits import RETRY_AFTER_MS_MAX

_DOUBLINGS_MAX = 32  # beyond this every cap is reached; the shift itself stays small


@dataclass(frozen=True, slots=True)
class Backoff:
    """The two numbers that shape it, in milliseconds."""

    initial_ms: int
    max_ms: int

    def delay_ms(self, failures: int, chance: float, retry_after_ms: int | None = None) -> int:
        """How long to wait after ``failures`` (at least one) in a row.

        ``chance`` is in [0, 1). A hint of the service is a lower bound, itself bounded.
        """
        ceiling_ms = min(self.max_ms, self.initial_ms << min(failures - 1, _DOUBLINGS_MAX))
        delay_ms = round(chance * ceiling_ms)
        if retry_after_ms is None:
            return delay_ms
        return max(delay_ms, min(retry_after_ms, RETRY_AFTER_MS_MAX))

    def capped(self, max_ms: int) -> "Backoff":
        """The same, growing no further than ``max_ms``."""
        return Backoff(min(self.initial_ms, max_ms), min(self.max_ms, max_ms))
