"""One file at a time, with somebody else at work between two steps: real files, each interleaving on purpose."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from results_directory_support import NODE, drop, lying_in, result_bytes, taken
from ssm_status_reporter.config import AfterAccept
from ssm_status_reporter.host.clock import SystemClock
from ssm_status_reporter.sources.spool import Look, Place, Spool, Spot
from ssm_status_reporter.sources.spool_queue import SpoolQueue
from ssm_status_reporter.sources.spool_reader import Accepted, Settings, SpoolReader
from ssm_status_reporter.sources.spool_removal import SpoolRemoval

NEW = Spot(Place.SPOOL, "x.json")
CLAIMED = Spot(Place.TAKEN, "x.json")


class ContestedSpool(Spool):
    """A spool in which somebody acts just before, or just after, the next claim."""

    before_claim: Callable[[], object] | None = None
    after_claim: Callable[[], object] | None = None
    fails_in_taken = 0

    def claim(self, name: str) -> bool:
        act, self.before_claim = self.before_claim, None
        if act is not None:
            act()
        claimed = super().claim(name)
        act, self.after_claim = self.after_claim, None
        if act is not None:
            act()
        return claimed

    def look(self, spot: Spot) -> Look:
        if spot.place is Place.TAKEN and self.fails_in_taken:
            self.fails_in_taken -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().look(spot)


class Stage:
    """A reader on a contested spool, and what it refused."""

    def __init__(self, path: Path, after_accept: AfterAccept) -> None:
        self.path = path
        self.spool = ContestedSpool(str(path), 64 * 1024)
        self.queue = SpoolQueue()
        self.refused: list[int] = []
        settings = Settings(str(path), after_accept, 64 * 1024, NODE, ())
        self.reader = SpoolReader(settings, self.spool, self.queue, SystemClock(), self.refused.append, {})
        self.removal = SpoolRemoval(settings.path, self.spool, self.queue)

    def read(self, spot: Spot = NEW) -> list[Accepted]:
        return self.reader.read(spot)

    def due(self) -> list[Spot]:
        return self.queue.take(99)


@pytest.fixture(params=list(AfterAccept))
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    yield from staged(tmp_path, request.param)


@pytest.fixture
def removing(tmp_path: Path) -> Iterator[Stage]:
    yield from staged(tmp_path, AfterAccept.REMOVE)


@pytest.fixture
def keeping(tmp_path: Path) -> Iterator[Stage]:
    yield from staged(tmp_path, AfterAccept.KEEP)


def staged(path: Path, after_accept: AfterAccept) -> Iterator[Stage]:
    stage = Stage(path, after_accept)
    yield stage
    stage.spool.close()


def messages(accepted: list[Accepted]) -> list[str]:
    return [one.result.report.message for one in accepted]


def test_replaced_between_look_and_claim(removing: Stage) -> None:
    """A new result renamed over the old one at that moment: both are handed in, in order, and nothing is left."""
    drop(removing.path, "x.json", result_bytes("old"))
    removing.spool.before_claim = lambda: drop(removing.path, "x.json", result_bytes("new"))
    accepted = removing.read()
    assert messages(accepted) == ["old", "new"]
    for one in accepted:
        removing.removal.release(one)
    assert taken(removing.path) == []
    assert lying_in(removing.path) == []


def test_the_earlier_of_two_frees_no_name(removing: Stage) -> None:
    """Committing the result whose file was overwritten does not open the name while its successor is in flight."""
    drop(removing.path, "x.json", result_bytes("old"))
    removing.spool.before_claim = lambda: drop(removing.path, "x.json", result_bytes("new"))
    old, new = removing.read()
    removing.removal.release(old)
    drop(removing.path, "x.json", result_bytes("newest"))
    removing.queue.add(NEW)
    assert removing.due() == []
    removing.removal.release(new)
    assert removing.due() == [NEW]


def test_rewritten_in_place_within_one_tick(removing: Stage) -> None:
    """Same size, same date, other content: what is handed in last is what was claimed."""
    path = drop(removing.path, "x.json", result_bytes("AAA"))
    before = path.stat()

    def rewrite() -> None:
        path.write_bytes(result_bytes("BBB"))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    removing.spool.before_claim = rewrite
    assert messages(removing.read()) == ["AAA", "BBB"]


def test_torn_between_look_and_claim(removing: Stage) -> None:
    """A writer that begins anew at that moment gets its file back under its name, and finishes it there."""
    path = drop(removing.path, "x.json", result_bytes("old"))
    payload = result_bytes("new")
    removing.spool.before_claim = lambda: path.write_bytes(payload[:10])
    assert messages(removing.read()) == ["old"]
    assert lying_in(removing.path) == ["x.json"]
    assert taken(removing.path) == []
    with path.open("ab") as file:
        file.write(payload[10:])
    assert messages(removing.read()) == ["new"]


def test_torn_and_its_name_taken(removing: Stage) -> None:
    """If a newer file has the name by then, the torn one is finished where it is, and the newer one waits."""
    path = drop(removing.path, "x.json", result_bytes("old"))
    payload = result_bytes("torn")
    late = path.open("r+b")

    def tear() -> None:
        late.truncate(0)
        late.write(payload[:10])
        late.flush()

    removing.spool.before_claim = tear
    removing.spool.after_claim = lambda: drop(removing.path, "x.json", result_bytes("newer"))
    assert messages(removing.read()) == ["old"]
    assert taken(removing.path) == ["x.json"]
    removing.queue.add(NEW)
    assert removing.due() == []
    with late:
        late.write(payload[10:])
    (torn,) = removing.read(CLAIMED)
    assert torn.result.report.message == "torn"
    removing.removal.release(torn)
    assert removing.due() == [NEW]
    assert messages(removing.read()) == ["newer"]


def test_a_good_file_is_not_refused_for_its_predecessor(stage: Stage) -> None:
    """A bad file replaced by a good one just before it is moved away: the good one is a result, kept or not."""
    drop(stage.path, "x.json", b"[]")
    stage.spool.before_claim = lambda: drop(stage.path, "x.json", result_bytes("good"))
    accepted = stage.read()
    if not accepted:  # kept: it was put back, and is looked at where it stays
        assert stage.due() == [NEW]
        accepted = stage.read()
        assert lying_in(stage.path) == ["x.json"]
    assert messages(accepted) == ["good"]
    assert stage.refused == []


def test_a_link_in_its_place_is_put_back(stage: Stage) -> None:
    """What is swapped for a symbolic link at the last moment is neither followed nor kept."""
    target = stage.path / "target"
    target.write_bytes(result_bytes("followed"))
    path = drop(stage.path, "x.json", b"[]")

    def swap() -> None:
        path.unlink()
        path.symlink_to(target)

    stage.spool.before_claim = swap
    assert stage.read() == []
    assert path.is_symlink()
    assert taken(stage.path) == []


def test_gone_before_the_claim(stage: Stage) -> None:
    """A file that its owner takes back is nobody's fault."""
    path = drop(stage.path, "x.json", b"[]")
    stage.spool.before_claim = path.unlink
    assert stage.read() == []
    assert stage.refused == []


def test_written_to_after_the_claim(removing: Stage) -> None:
    """Nothing is removed that was not handed in: a late write is read before the file goes."""
    path = drop(removing.path, "x.json", result_bytes("early"))
    with path.open("r+b") as late:
        (early,) = removing.read()
        late.write(result_bytes("and late"))
    removing.removal.release(early)
    assert taken(removing.path) == ["x.json"]
    assert removing.due() == [CLAIMED]
    (second,) = removing.read(CLAIMED)
    assert second.result.report.message == "and late"
    removing.removal.release(second)
    assert taken(removing.path) == []


def test_a_file_in_flight_is_not_read_twice(removing: Stage) -> None:
    """An event from .taken/ while the result is being committed makes no second result of it."""
    drop(removing.path, "x.json", result_bytes())
    (one,) = removing.read()
    removing.queue.add(CLAIMED)
    assert removing.due() == []
    assert removing.read(CLAIMED) == []
    removing.removal.release(one)
    assert removing.read(CLAIMED) == []


def test_an_error_after_the_claim_loses_nothing(removing: Stage) -> None:
    """The disk fails just after the rename: the file is known to be in .taken/, and is read there later."""
    drop(removing.path, "x.json", result_bytes("first"))
    removing.spool.fails_in_taken = 1
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        removing.read()
    assert removing.queue.is_unfinished("x.json")
    drop(removing.path, "x.json", result_bytes("second"))
    removing.queue.add(NEW)
    assert removing.due() == []
    (first,) = removing.read(CLAIMED)
    assert first.result.report.message == "first"
    removing.removal.release(first)
    assert removing.due() == [NEW]


def test_a_kept_file_is_not_claimed(keeping: Stage) -> None:
    """A good status file is never moved, not even for a moment."""
    drop(keeping.path, "x.json", result_bytes())
    keeping.spool.before_claim = lambda: pytest.fail("it was claimed")
    (one,) = keeping.read()
    assert one.claimed is None
    assert one.sighting is not None
    assert one.sighting.name == b"x.json"
