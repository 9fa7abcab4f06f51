"""Which files of the results directory are looked at when."""

import pytest

from ssm_status_reporter.domain.limits import UNDECODABLE_SETTLE_MS
from ssm_status_reporter.sources import spool_queue
from ssm_status_reporter.sources.spool import Place, Spot, State
from ssm_status_reporter.sources.spool_queue import Held, SpoolQueue

NEW = Spot(Place.SPOOL, "x.json")
CLAIMED = Spot(Place.TAKEN, "x.json")
TORN = State(1, 10, 10, 5)
MORE = State(1, 11, 11, 9)


def test_names_are_due_once_and_in_order() -> None:
    """Several events of one file are one look, and the first file is read first."""
    queue = SpoolQueue()
    for name in ("b.json", "a.json", "b.json"):
        queue.add(Spot(Place.SPOOL, name))
    assert [spot.name for spot in queue.take(9)] == ["b.json", "a.json"]
    assert not queue


@pytest.mark.parametrize("why", Held)
def test_a_new_file_waits_for_its_predecessor(why: Held) -> None:
    """While the first result of a name is being committed, the second is not touched; then it is."""
    queue = SpoolQueue()
    queue.add(NEW)
    queue.hold("x.json", why)
    assert queue.take(9) == []
    queue.add(NEW)
    assert queue.take(9) == []
    queue.free("x.json")
    assert queue.take(9) == [NEW]
    queue.free("x.json")
    assert queue.take(9) == []


def test_only_an_unfinished_claim_is_looked_at_again() -> None:
    """A claimed file that is being committed is nobody else's; one that waits to be finished is."""
    queue = SpoolQueue()
    queue.add(CLAIMED)
    queue.hold("x.json", Held.IN_FLIGHT)
    queue.add(CLAIMED)
    assert queue.take(9) == []
    queue.hold("x.json", Held.UNFINISHED)
    queue.add(CLAIMED)
    assert queue.take(9) == [CLAIMED]


def test_an_undecodable_file_settles() -> None:
    """It is given up only when a look after the settling time finds what was found before."""
    queue = SpoolQueue()
    assert not queue.settled(NEW, TORN, 0)
    assert not queue.settled(NEW, TORN, 100)
    assert queue.next_deadline_ms() == UNDECODABLE_SETTLE_MS
    queue.ripen(UNDECODABLE_SETTLE_MS - 1)
    assert not queue
    queue.ripen(UNDECODABLE_SETTLE_MS)
    assert queue.take(9) == [NEW]
    assert queue.next_deadline_ms() is None
    assert queue.settled(NEW, TORN, UNDECODABLE_SETTLE_MS)


def test_a_change_starts_the_settling_time_anew() -> None:
    """A writer that is not done in two seconds gets two more from its last write."""
    queue = SpoolQueue()
    queue.settled(NEW, TORN, 0)
    assert not queue.settled(NEW, MORE, 1500)
    assert queue.next_deadline_ms() == 1500 + UNDECODABLE_SETTLE_MS
    queue.ripen(1500 + UNDECODABLE_SETTLE_MS)
    assert not queue.settled(NEW, TORN, 1500 + UNDECODABLE_SETTLE_MS)
    queue.decided(NEW)
    assert queue.next_deadline_ms() is None


def test_a_created_file_is_looked_at_in_the_end() -> None:
    """What is linked into the directory is closed by nobody: it is looked at after the settling time."""
    queue = SpoolQueue()
    queue.expect(NEW, 0)
    assert queue.take(9) == []
    queue.ripen(UNDECODABLE_SETTLE_MS)
    assert queue.take(9) == [NEW]


def test_deadlines_come_in_order() -> None:
    """The one that changed last is looked at last."""
    queue = SpoolQueue()
    other = Spot(Place.SPOOL, "y.json")
    queue.settled(NEW, TORN, 0)
    queue.settled(other, TORN, 10)
    queue.settled(NEW, MORE, 20)
    assert queue.next_deadline_ms() == 10 + UNDECODABLE_SETTLE_MS
    queue.ripen(10 + UNDECODABLE_SETTLE_MS)
    assert queue.take(9) == [other]


def test_what_is_not_remembered_is_found_by_a_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded, and meeting the bound is told."""
    monkeypatch.setattr(spool_queue, "REMEMBERED_FILES_MAX", 1)
    queue = SpoolQueue()
    other = Spot(Place.SPOOL, "y.json")
    queue.add(NEW)
    queue.settled(NEW, TORN, 0)
    assert (queue.forgot, queue.crowded) == (False, False)
    queue.add(other)
    assert (queue.forgot, queue.crowded) == (True, False)
    queue.settled(other, TORN, 0)
    assert (queue.forgot, queue.crowded) == (True, True)
