"""What is said on which topic: the names, the messages that come in, and those that go out.

Rules:
  * Pure. A message is a result, a refusal, or of no concern; deciding takes nothing but the message and the names.
  * The topic names the node. A node that is none of ours makes no call, and a payload must not name another one.
  * A retained message is an old one that the broker repeats at every subscription: never a result.
  * A redelivery that brings no date never takes the leading edge. With a shared subscription the broker may
    redeliver to another member than the first, without saying so: there no undated result takes it.

Source: MQTT 5.0 (OASIS, 2019), 3.3.1 (DUP, RETAIN), 4.4 (redelivery), 4.8.2 (shared subscriptions).
"""

from dataclasses import dataclass
from typing import Final

import msgspec

from ssm_status_reporter import __version__
from ssm_status_reporter.domain.announcement import Announcement
from ssm_status_reporter.domain.association import INSTANCE_ID
from ssm_status_reporter.domain.limits import (
    CUT_MARK,
    MQTT_BACKLOG_MS_MAX,
    MQTT_BACKLOG_QUIET_MS,
    MQTT_ECHO_CHARS_MAX,
    MQTT_NODE_CHARS_MAX,
    MQTT_PAYLOAD_BYTES_MAX,
)
from ssm_status_reporter.domain.result import Edge, Refusal, Result, Writer
from ssm_status_reporter.domain.rfc3339 import date_text
from ssm_status_reporter.domain.time import Now
from ssm_status_reporter.sources.decode import Origin, Undecodable, allowed, decode
from ssm_status_reporter.sources.quoting import quoted

SOURCE: Final = "mqtt"
_TOPIC_SIGNS: Final = frozenset("/+#\0")
_ECHO_BYTES_MAX: Final = 4 * MQTT_ECHO_CHARS_MAX  # no character of UTF-8 takes more than 4


@dataclass(frozen=True, slots=True)
class Message:
    """One PUBLISH as it came in."""

    topic: str
    payload: bytes
    """At most `MQTT_PAYLOAD_BYTES_MAX` of it."""
    size_bytes: int
    """What the payload's size really is."""
    qos: int
    packet_id: int
    duplicate: bool
    """The broker says that it may have sent it before (DUP)."""
    retained: bool
    arrived: Now


@dataclass(frozen=True, slots=True)
class Posting:
    """One PUBLISH that goes out."""

    topic: str
    payload: bytes
    retain: bool = False


@dataclass(frozen=True, slots=True)
class Stray:
    """A message that no subscription of now asked for: one of an earlier configuration, kept in the session."""


@dataclass(frozen=True, slots=True)
class Repeated:
    """A retained message."""


Finding = Result | Refusal | Stray | Repeated


@dataclass(frozen=True, slots=True)
class Topics:
    """The names of one daemon's topics."""

    prefix: str
    instance_id: str
    allow: tuple[str, ...] = ()
    shared_group: str | None = None

    @property
    def subscription(self) -> str:
        """The topic filter of the results."""
        plain = self._everybody if self.allow else self._own
        return plain if self.shared_group is None else f"$share/{self.shared_group}/{plain}"

    @property
    def outgrown(self) -> tuple[str, ...]:
        """Filters that the session may still hold from an earlier configuration."""
        return tuple(plain for plain in (self._own, self._everybody) if plain != self.subscription)

    @property
    def reporter(self) -> str:
        """Where this daemon's state is kept."""
        return self.of(self.instance_id, "reporter")

    def of(self, node: str, kind: str) -> str:
        """A topic of another kind, for a node."""
        return f"{self.prefix}/{node}/{kind}"

    def node(self, topic: str) -> str | None:
        """The level of a results topic that stands for the node; None when it is no results topic."""
        start, end = f"{self.prefix}/", "/results"
        if not (topic.startswith(start) and topic.endswith(end) and len(topic) >= len(start) + len(end)):
            return None
        level = topic[len(start) : -len(end)]
        if len(level) > MQTT_NODE_CHARS_MAX or not _TOPIC_SIGNS.isdisjoint(level):
            return None
        return level

    @property
    def _own(self) -> str:
        return self.of(self.instance_id, "results")

    @property
    def _everybody(self) -> str:
        return self.of("+", "results")


@dataclass(slots=True)
class Backlog:
    """Tells whether the broker may be catching up: sending again what an earlier connection did not acknowledge.

    It is over once the broker had nothing to send for a while, and at the latest after `MQTT_BACKLOG_MS_MAX`.
    """

    resumed_at_ms: int | None
    """When the session was resumed, steady; None when the session is new, or when the backlog is over."""
    busy_until_ms: int = 0

    def busy(self, now: Now) -> None:
        """The broker had no chance to send until now: it awaited the subscription or acknowledgements."""
        self.busy_until_ms = now.steady_ms

    def holds(self, message: Message) -> bool:
        """Whether the message may have come before."""
        if self.resumed_at_ms is None:
            return message.duplicate
        since_ms = max(self.resumed_at_ms, self.busy_until_ms)
        quiet = message.arrived.steady_ms - since_ms > MQTT_BACKLOG_QUIET_MS
        if quiet or message.arrived.steady_ms - self.resumed_at_ms > MQTT_BACKLOG_MS_MAX:
            self.resumed_at_ms = None
            return message.duplicate
        return True


def judged(message: Message, topics: Topics, *, redelivered: bool) -> Finding:
    """What a message is. ``redelivered``: it may have come before."""
    node = topics.node(message.topic)
    if node is None:
        return Stray()
    if message.retained:
        return Repeated()
    if INSTANCE_ID.fullmatch(node) is None:
        return Refusal("instance_id", f"{quoted(node)} in the topic is not a managed node")
    if node != topics.instance_id and not allowed(node, topics.allow):
        own = topics.instance_id
        return Refusal(
            "instance_id", f"{node} in the topic is not this node ({own}), and node.allow does not name it"
        )
    if message.size_bytes > MQTT_PAYLOAD_BYTES_MAX:
        return Refusal(None, f"is {message.size_bytes} bytes long; at most {MQTT_PAYLOAD_BYTES_MAX} are taken")
    shared = topics.shared_group is not None
    origin = Origin(
        source=SOURCE,
        instance_id=node,
        observed_at_ms=message.arrived.wall_ms,
        topic_instance_id=node,
        writer=Writer.SHARED if shared else Writer.SOLE,
        undated_edge=Edge.TRAILING if redelivered or shared else Edge.LEADING,
    )
    verdict = decode(message.payload, origin)
    return verdict.refusal if isinstance(verdict, Undecodable) else verdict


class _Rejection(msgspec.Struct):
    reason: str
    payload: str


class _State(msgspec.Struct, omit_defaults=True):
    state: str
    reporter: str
    at: str | None = None
    reason: str | None = None


class _Outcome(msgspec.Struct, omit_defaults=True):
    document: str
    status: str
    outcome: str
    observed_at: str
    at: str
    code: str | None = None
    error: str | None = None
    request_id: str | None = None
    hint: str | None = None


def rejection(topics: Topics, message: Message, refusal: Refusal) -> Posting | None:
    """The answer to a refused message; None when its topic has no place for one."""
    node = topics.node(message.topic)
    if node is None:
        return None
    echo = message.payload[:_ECHO_BYTES_MAX].decode("utf-8", "replace")
    if len(echo) > MQTT_ECHO_CHARS_MAX or message.size_bytes > _ECHO_BYTES_MAX:
        echo = echo[: MQTT_ECHO_CHARS_MAX - len(CUT_MARK)] + CUT_MARK
    return Posting(topics.of(node, "rejected"), msgspec.json.encode(_Rejection(str(refusal), echo)))


def outcome(topics: Topics, announcement: Announcement) -> Posting:
    """What became of a report."""
    report, problem = announcement.report, announcement.problem
    said = _Outcome(
        document=announcement.association.document,
        status=report.status,
        outcome=announcement.ending.value,
        observed_at=date_text(report.observed_at_ms),
        at=date_text(announcement.at_ms),
    )
    if problem is not None:
        said.code, said.error = problem.code, problem.message
        said.request_id, said.hint = problem.request_id, problem.hint
    return Posting(topics.of(announcement.association.instance_id, "outcomes"), msgspec.json.encode(said))


def online(topics: Topics, wall_ms: int) -> Posting:
    """This daemon is there and watches."""
    return _state(topics, "online", at=date_text(wall_ms))


def offline(topics: Topics, wall_ms: int) -> Posting:
    """This daemon was stopped."""
    return _state(topics, "offline", at=date_text(wall_ms), reason="stopped")


def last_will(topics: Topics) -> Posting:
    """What the broker says when this daemon is gone without a word."""
    return _state(topics, "offline", reason="connection lost")


def _state(topics: Topics, state: str, at: str | None = None, reason: str | None = None) -> Posting:
    said = _State(state, f"ssm-status-reporter/{__version__}", at, reason)
    return Posting(topics.reporter, msgspec.json.encode(said), retain=True)
