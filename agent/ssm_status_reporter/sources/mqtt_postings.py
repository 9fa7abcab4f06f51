"""What is to be published, from one connection to the next.

Rules:
  * Bounded: beyond `MQTT_POSTINGS_MAX` the oldest goes, and it is said.
  * What was out when a connection ended goes out again, in its order, before the others; but not for ever, for it may
    be what the broker ended the connection for, or never confirms.
"""

import asyncio
from collections import deque

import structlog

from ssm_status_reporter.domain.limits import (
    MQTT_POSTING_ATTEMPTS_MAX,
    MQTT_POSTING_SILENCES_MAX,
    MQTT_POSTINGS_MAX,
    MQTT_POSTINGS_OUT_MAX,
)
from ssm_status_reporter.sources.mqtt_topics import Posting

log = structlog.get_logger()


class Postings:
    """Belongs to the source; one connection at a time takes out of it."""

    def __init__(self) -> None:
        self._waiting: deque[Posting] = deque()
        self._out: list[Posting] = []
        self._dropped = 0
        self._interruptions = 0
        self._silences = 0
        self._added = asyncio.Event()
        self._thinned = asyncio.Event()

    @property
    def is_crowded(self) -> bool:
        """Half of the room is taken."""
        return len(self._waiting) > MQTT_POSTINGS_MAX // 2

    async def thinned(self) -> None:
        """Until it is not crowded."""
        while self.is_crowded:
            self._thinned.clear()
            await self._thinned.wait()

    def add(self, posting: Posting) -> None:
        """Put it behind the others."""
        if len(self._waiting) >= MQTT_POSTINGS_MAX:
            self._waiting.popleft()
            self._dropped += 1
            if self._dropped == 1:
                log.warning(
                    "more to tell than the broker takes: the oldest outcomes and answers are dropped",
                    kept=MQTT_POSTINGS_MAX,
                )
        self._waiting.append(posting)
        self._added.set()

    async def next(self) -> None:
        """Until there are any."""
        while not self._out and not self._waiting:
            self._added.clear()
            await self._added.wait()

    def at_hand(self) -> tuple[Posting, ...]:
        """The oldest ones; the same again until they are confirmed."""
        while self._waiting and len(self._out) < MQTT_POSTINGS_OUT_MAX:
            self._out.append(self._waiting.popleft())
        self._thinned.set()
        return tuple(self._out)

    def confirm(self) -> None:
        """The broker has those that `at_hand` gave."""
        self._part()
        if self._dropped and not self._waiting:
            log.warning("the broker takes outcomes again", dropped=self._dropped)
            self._dropped = 0

    def interrupt(self) -> None:
        """The broker ended the connection. What was out goes out once more: it may be what it was ended for."""
        self._interruptions += bool(self._out)
        if self._interruptions >= MQTT_POSTING_ATTEMPTS_MAX:
            log.warning(
                "the connection ended again while these were published: they are dropped",
                topics=self._topics_out,
                hint="let the broker's access rules (ACL, policy) allow this client to publish there",
            )
            self._part()

    def give_up(self) -> None:
        """This side ended it. What was out goes out again, but not for ever: the others wait behind it."""
        self._silences += bool(self._out)
        if self._silences >= MQTT_POSTING_SILENCES_MAX:
            log.warning(
                "the broker confirms these at no attempt: they are dropped",
                topics=self._topics_out,
                hint="look at the broker's log for what becomes of them",
            )
            self._part()

    @property
    def _topics_out(self) -> list[str]:
        return sorted({posting.topic for posting in self._out})

    def _part(self) -> None:
        self._out.clear()
        self._interruptions = self._silences = 0
