"""Reload: what runs once a changed configuration was read."""

from msgspec.structs import replace

from ssm_status_reporter import reload
from ssm_status_reporter.config import Compare, Configuration
from ssm_status_reporter.config.keys import paths


def test_what_needs_a_restart_stays_as_it_runs_and_is_named_for_as_long() -> None:
    """A key that is taken runs as it was read; another one still differs from the file at the next reload."""
    running = Configuration()
    read = replace(
        running,
        debounce=replace(running.debounce, compare=Compare.STATUS),
        delivery=replace(running.delivery, timeout_ms=1, backoff=replace(running.delivery.backoff, initial_ms=2)),
    )
    runs = reload.taken(running, read)
    assert runs == replace(
        running,
        debounce=replace(running.debounce, compare=Compare.STATUS),
        delivery=replace(running.delivery, backoff=replace(running.delivery.backoff, initial_ms=2)),
    )
    assert reload.changed_keys(running, read) == (
        "debounce.compare",
        "delivery.timeout",
        "delivery.backoff.initial",
    )
    assert reload.changed_keys(runs, read) == ("delivery.timeout",)
    assert reload.changed_keys(runs, reload.taken(runs, running)) == (
        "debounce.compare",
        "delivery.backoff.initial",
    )


def test_what_can_be_taken_are_keys_of_the_configuration() -> None:
    """A key that was renamed is no longer taken unnoticed."""
    assert set(paths()) >= reload.TAKEN
