"""Rate: a token bucket whose rate gives way while the service throttles, and after an outage.

Rules:
  * A call takes a token. Tokens come at the present rate, up to the burst.
  * Each throttled answer halves the rate (once a second at most: the answers to one burst are one sign).
  * Each call that was not throttled adds a fixed part of the configured rate, until it is reached again.
  * When a hold opens, the rate restarts low and climbs the same way: the backlog ramps up.
"""

from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from ssm_status_reporter.domain.limits import RATE_FLOOR_PER_SECOND

CLIMB_SHARE: Final = 0.02
"""What a call that was not throttled gives back: this share of the configured rate."""
HALVING_INTERVAL_MS: Final = 1000
RAMP_SHARE: Final = 0.125
"""What share of the configured rate a backlog starts with when a hold opens."""


class Rate(Struct, frozen=True):
    """The state of the bucket at ``at_ms`` (steady)."""

    limit_per_second: float
    burst: int
    per_second: float
    tokens: float
    at_ms: int
    halved_at_ms: int | None = None

    @classmethod
    def full(cls, limit_per_second: float, burst: int, now_ms: int) -> "Rate":
        """A full bucket at the configured rate."""
        return cls(limit_per_second, burst, limit_per_second, float(burst), now_ms)

    def at(self, now_ms: int) -> "Rate":
        """The same bucket, later: tokens have come."""
        if now_ms == self.at_ms:
            return self
        elapsed_ms = max(0, now_ms - self.at_ms)
        tokens = min(float(self.burst), self.tokens + elapsed_ms * self.per_second / 1000)
        return replace(self, tokens=tokens, at_ms=now_ms)

    def taken(self, calls: int) -> "Rate":
        """The bucket after so many calls; it may owe tokens when a call was not optional."""
        return replace(self, tokens=self.tokens - calls)

    @property
    def available(self) -> int:
        """How many calls may go out now."""
        return max(0, int(self.tokens))

    @property
    def wait_ms(self) -> int:
        """How long until one call may go out; 0 when it may now."""
        missing = 1.0 - self.tokens
        return 0 if missing <= 0 else int(missing * 1000 / self.per_second) + 1

    def throttled(self, now_ms: int) -> "Rate":
        """The service asked for less."""
        if self.halved_at_ms is not None and now_ms - self.halved_at_ms < HALVING_INTERVAL_MS:
            return self
        slower = max(min(RATE_FLOOR_PER_SECOND, self.limit_per_second), self.per_second / 2)
        now = self.at(now_ms)
        return replace(now, per_second=slower, tokens=min(now.tokens, 0.0), halved_at_ms=now_ms)

    def accepted(self) -> "Rate":
        """A call was not throttled."""
        if self.per_second >= self.limit_per_second:
            return self
        return replace(
            self, per_second=min(self.limit_per_second, self.per_second + CLIMB_SHARE * self.limit_per_second)
        )

    def ramped(self, now_ms: int) -> "Rate":
        """A hold opened: what waited behind it must not come all at once."""
        slower = min(self.per_second, max(RATE_FLOOR_PER_SECOND, RAMP_SHARE * self.limit_per_second))
        now = self.at(now_ms)
        return replace(now, per_second=slower, tokens=min(now.tokens, 1.0))

    def relimited(self, limit_per_second: float, burst: int) -> "Rate":
        """The same bucket under a changed configuration."""
        slowed = self.per_second < self.limit_per_second
        per_second = min(self.per_second, limit_per_second) if slowed else limit_per_second
        return replace(
            self,
            limit_per_second=limit_per_second,
            burst=burst,
            per_second=per_second,
            tokens=min(self.tokens, burst),
        )
