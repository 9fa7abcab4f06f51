"""Tuning: what the decisions and the loops take from the configuration, in their own terms."""

from ssm_status_reporter.config import Compare, Configuration
from ssm_status_reporter.domain.backoff import Backoff
from ssm_status_reporter.domain.entry import Policy
from ssm_status_reporter.domain.reconciliation import Reconciliation
from ssm_status_reporter.domain.report import Comparison
from ssm_status_reporter.domain.traffic import Pace


def policy(configuration: Configuration, learnt: str | None) -> Policy:
    """How entries are decided. ``learnt`` is what the outbox remembers of the service's comparison."""
    delivery = configuration.delivery
    return Policy(
        window_ms=configuration.debounce.window_ms,
        comparison=_comparison(configuration.debounce.compare, learnt),
        asks_first=reconciliation(configuration).is_on,
        learning=configuration.debounce.compare is Compare.AUTO and learnt is None,
        backoff=Backoff(delivery.backoff.initial_ms, delivery.backoff.max_ms),
        retry_every_ms=delivery.park.retry_every_ms,
        give_up_after_ms=delivery.park.give_up_after_ms,
        timeout_ms=delivery.timeout_ms,
    )


def pace(configuration: Configuration) -> Pace:
    """How fast, and how many at a time."""
    delivery = configuration.delivery
    return Pace(
        concurrency=delivery.concurrency,
        rate_per_second=delivery.rate,
        burst=delivery.burst,
        backoff=Backoff(delivery.backoff.initial_ms, delivery.backoff.max_ms),
    )


def reconciliation(configuration: Configuration) -> Reconciliation:
    """When the service is asked what it holds."""
    return Reconciliation(configuration.reconcile.interval_ms, configuration.reconcile.on_start)


def _comparison(compare: Compare, learnt: str | None) -> Comparison:
    match compare:
        case Compare.STATUS:
            return Comparison.STATUS
        case Compare.STATUS_AND_MESSAGE:
            return Comparison.STATUS_AND_MESSAGE
        case Compare.AUTO:
            return Comparison.STATUS_AND_MESSAGE if learnt is None else Comparison(learnt)
