"""The fault plan at work: which latency and which fault the next request meets. Pure: the time is an argument.

Rules are those of ``faults``; this module keeps what they count: how far each sequence is, how full each
token bucket, since when an outage is reckoned.
"""

import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from ssm_status_reporter.domain.quantity import duration_ms
from ssm_status_reporter.emulator.faults import Fault, FaultPlan, Kind, Match, Rule, Throttle

Matcher = Callable[[str | None], bool]

FOR_EVER: Final = 0


@dataclass(frozen=True, slots=True)
class Request:
    """What a rule can tell requests apart by; None is what a request does not name."""

    operation: str | None
    instance_id: str | None
    document: str | None


@dataclass(frozen=True, slots=True)
class Injection:
    """What a request meets: so much processing time, and a fault or none."""

    latency_ms: int
    fault: Fault | None


NOTHING: Final = Injection(latency_ms=0, fault=None)


class Injector:
    """A plan and what it has counted since ``started_ms``."""

    def __init__(self, plan: FaultPlan, started_ms: int) -> None:
        self._rules = [_Rule(rule) for rule in plan.rules]
        self._outages = [
            (
                started_ms + duration_ms(outage.after),
                started_ms + duration_ms(outage.after) + duration_ms(outage.lasting),
            )
            for outage in plan.outages
        ]

    def is_out(self, now_ms: int) -> bool:
        """Whether the service is out: connections are closed."""
        return any(begins <= now_ms < ends for begins, ends in self._outages)

    def next(self, request: Request, now_ms: int) -> Injection:
        """What this request meets; counts it."""
        if not self._rules:
            return NOTHING
        latency_ms = 0
        fault = None
        for rule in self._rules:
            if rule.matches(request):
                latency_ms += rule.latency_ms
                if fault is None:
                    fault = rule.next(now_ms)
        return Injection(latency_ms, fault)


class _Rule:
    def __init__(self, rule: Rule) -> None:
        self.matches = request_matcher(rule)
        self.latency_ms = duration_ms(rule.latency)
        self._bucket = None if rule.throttle is None else _Bucket(rule.throttle)
        self._faults = [_fault(entry) for entry in rule.errors]
        self._position = 0
        self._served = 0

    def next(self, now_ms: int) -> Fault | None:
        if self._bucket is not None and not self._bucket.take(now_ms):
            return Fault(code="ThrottlingException")
        if self._position == len(self._faults):
            return None
        fault = self._faults[self._position]
        if fault.times != FOR_EVER:
            self._served += 1
            if self._served == fault.times:
                self._position, self._served = self._position + 1, 0
        return fault


class _Bucket:
    """Starts full; refills by ``rate`` a second up to ``burst``."""

    def __init__(self, throttle: Throttle) -> None:
        self._throttle = throttle
        self._tokens = float(throttle.burst)
        self._at_ms: int | None = None

    def take(self, now_ms: int) -> bool:
        # A clock that was put back refills nothing.
        passed_ms = 0 if self._at_ms is None else max(0, now_ms - self._at_ms)
        self._at_ms = now_ms
        self._tokens = min(self._throttle.burst, self._tokens + passed_ms * self._throttle.rate / 1000)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def _fault(entry: str | Fault) -> Fault:
    if isinstance(entry, Fault):
        return entry
    if entry in set(Kind):
        return Fault(kind=Kind(entry))
    return Fault(code=entry)


def any_matcher(patterns: Iterable[str]) -> Matcher:
    """Whether a text matches one of the patterns; what is absent matches only ``*``."""
    written = list(patterns)
    if "*" in written:
        return lambda _text: True
    compiled: Sequence[re.Pattern[str]] = [re.compile(fnmatch.translate(pattern)) for pattern in written]
    return lambda text: text is not None and any(pattern.match(text) for pattern in compiled)


def request_matcher(match: Match) -> Callable[[Request], bool]:
    """Whether a request matches all three patterns."""
    operation = any_matcher([match.operation])
    instance_id = any_matcher([match.instance_id])
    document = any_matcher([match.document])
    return lambda request: (
        operation(request.operation) and instance_id(request.instance_id) and document(request.document)
    )
