"""Topics, incoming messages and outgoing words of the MQTT source, without a broker."""

import json
from dataclasses import replace
from typing import Any

import pytest

from ssm_status_reporter.domain.announcement import Announcement, Ending
from ssm_status_reporter.domain.association import Association
from ssm_status_reporter.domain.limits import (
    MQTT_BACKLOG_MS_MAX,
    MQTT_BACKLOG_QUIET_MS,
    MQTT_ECHO_CHARS_MAX,
    MQTT_NODE_CHARS_MAX,
    MQTT_PAYLOAD_BYTES_MAX,
)
from ssm_status_reporter.domain.outcome import Problem
from ssm_status_reporter.domain.report import Report
from ssm_status_reporter.domain.result import Edge, Refusal, Result, Writer
from ssm_status_reporter.domain.time import Now
from ssm_status_reporter.sources.mqtt_topics import (
    Backlog,
    Finding,
    Message,
    Repeated,
    Stray,
    Topics,
    judged,
    last_will,
    offline,
    online,
    outcome,
    rejection,
)

NODE = "i-0123456789abcdef0"
OTHER = "mi-0123456789abcdef0"
OWN = Topics("ssm-status", NODE)
GATEWAY = Topics("ssm-status", NODE, allow=("mi-*",))
GROUP = replace(GATEWAY, shared_group="gateways")
ARRIVED = Now(1_790_000_000_000, 1_790_000_000_000)


def message(payload: bytes | None = None, topic: str = f"ssm-status/{NODE}/results", **more: object) -> Message:
    body = json.dumps({"document": "My-Doc", "status": "Success", **more}).encode() if payload is None else payload
    return Message(topic, body, len(body), 1, 1, duplicate=False, retained=False, arrived=ARRIVED)


def judge(given: Message, topics: Topics = OWN, *, redelivered: bool = False) -> Finding:
    return judged(given, topics, redelivered=redelivered)


def refusal(finding: Finding) -> Refusal:
    assert isinstance(finding, Refusal)
    return finding


def result(finding: Finding) -> Result:
    assert isinstance(finding, Result)
    return finding


@pytest.mark.parametrize(
    ("topics", "subscription", "outgrown"),
    [
        (OWN, f"ssm-status/{NODE}/results", ("ssm-status/+/results",)),
        (GATEWAY, "ssm-status/+/results", (f"ssm-status/{NODE}/results",)),
        (
            GROUP,
            "$share/gateways/ssm-status/+/results",
            (f"ssm-status/{NODE}/results", "ssm-status/+/results"),
        ),
        (
            Topics("a/b", NODE, (), "g"),
            f"$share/g/a/b/{NODE}/results",
            (f"a/b/{NODE}/results", "a/b/+/results"),
        ),
    ],
)
def test_what_is_subscribed_to(topics: Topics, subscription: str, outgrown: tuple[str, ...]) -> None:
    """A node takes its own results, a gateway everybody's; what an earlier configuration asked for is given up."""
    assert topics.subscription == subscription
    assert topics.outgrown == outgrown


@pytest.mark.parametrize(
    "topic",
    [
        "ssm-status/results",
        "ssm-status//x/results",
        f"ssm-status/{NODE}/x/results",
        f"ssm-status/{NODE}/outcomes",
        f"other/{NODE}/results",
        "ssm-status/+/results",
        "ssm-status/#/results",
        f"ssm-status/{'i' * (MQTT_NODE_CHARS_MAX + 1)}/results",
    ],
)
def test_a_topic_of_nobody(topic: str) -> None:
    """What no present subscription asked for is neither taken nor answered."""
    assert judge(message(topic=topic), GATEWAY) == Stray()
    assert rejection(GATEWAY, message(topic=topic), Refusal(None, "no")) is None


def test_a_result_is_the_topics_nodes() -> None:
    """A payload without instance_id belongs to the node of the topic, and is dated by its arrival."""
    found = result(judge(message(topic=f"ssm-status/{OTHER}/results"), GATEWAY))
    assert found.association == Association(OTHER, "My-Doc")
    assert (found.report.observed_at_ms, found.source) == (ARRIVED.wall_ms, "mqtt")
    assert found.writer is Writer.SOLE


def test_a_payload_that_names_another_node_is_refused() -> None:
    """A payload cannot report for another node than its topic's, even one that node.allow names."""
    finding = judge(message(instance_id=OTHER), GATEWAY)
    assert refusal(finding).field == "instance_id"
    agreed = judge(message(topic=f"ssm-status/{OTHER}/results", instance_id=OTHER), GATEWAY)
    assert result(agreed).association.instance_id == OTHER


@pytest.mark.parametrize("node", ["i-00000000000000000", "mi-short", "", "mi-0123456789abcdefé"])
def test_nodes_that_are_not_allowed_are_refused(node: str) -> None:
    """A gateway takes nothing for a node that node.allow does not name, nor for what is no node at all."""
    assert refusal(judge(message(topic=f"ssm-status/{node}/results"), GATEWAY)).field == "instance_id"


def test_a_payload_that_is_too_large_is_refused() -> None:
    """A payload beyond the bound is refused with its real size, although only a part of it is kept."""
    given = replace(message(), size_bytes=MQTT_PAYLOAD_BYTES_MAX + 1)
    assert str(MQTT_PAYLOAD_BYTES_MAX + 1) in refusal(judge(given)).reason


def test_half_a_text_is_refused_at_once() -> None:
    """No further byte comes behind a message, so nothing is waited for."""
    assert isinstance(judge(message(b'{"document": ')), Refusal)


def test_retained_results_are_not_taken() -> None:
    """An old result that the broker repeats at a subscription makes no call."""
    assert judge(replace(message(), retained=True)) == Repeated()


@pytest.mark.parametrize(
    ("topics", "redelivered", "dated", "edge"),
    [
        (OWN, False, False, Edge.LEADING),
        (OWN, True, False, Edge.TRAILING),
        (OWN, True, True, Edge.LEADING),
        (GROUP, False, False, Edge.TRAILING),
        (GROUP, False, True, Edge.LEADING),
    ],
)
def test_a_redelivery_without_a_date_never_goes_first(
    topics: Topics, *, redelivered: bool, dated: bool, edge: Edge
) -> None:
    """What may have come before waits out the window, unless its date tells its place."""
    more: dict[str, Any] = {"observed_at": "2026-11-22T13:23:53Z"} if dated else {}
    assert result(judge(message(**more), topics, redelivered=redelivered)).edge is edge


def test_a_shared_subscription_has_other_writers() -> None:
    """With several gateways on one broker the service is asked before a report goes out again."""
    assert result(judge(message(), GROUP)).writer is Writer.SHARED


def after(ms: int, *, duplicate: bool = False) -> Message:
    arrived = Now(ARRIVED.wall_ms + ms, ARRIVED.steady_ms + ms)
    return replace(message(), arrived=arrived, duplicate=duplicate)


def test_a_new_session_has_no_backlog() -> None:
    """On a new session only what the broker calls a duplicate may have come before."""
    backlog = Backlog(None)
    assert not backlog.holds(after(0))
    assert backlog.holds(after(0, duplicate=True))


def test_the_backlog_ends_with_a_silence() -> None:
    """After a reconnect, what comes without a pause may have come before; what comes after one has not."""
    backlog = Backlog(ARRIVED.steady_ms)
    assert backlog.holds(after(MQTT_BACKLOG_QUIET_MS))
    backlog.busy(after(5000).arrived)
    assert backlog.holds(after(5000 + MQTT_BACKLOG_QUIET_MS))
    assert not backlog.holds(after(5001 + MQTT_BACKLOG_QUIET_MS))
    assert not backlog.holds(after(5002 + MQTT_BACKLOG_QUIET_MS))
    assert backlog.holds(after(5003 + MQTT_BACKLOG_QUIET_MS, duplicate=True))


def test_the_backlog_ends_in_any_case() -> None:
    """A broker that never pauses does not delay undated results for ever."""
    backlog = Backlog(ARRIVED.steady_ms)
    backlog.busy(after(MQTT_BACKLOG_MS_MAX).arrived)
    assert backlog.holds(after(MQTT_BACKLOG_MS_MAX))
    assert not backlog.holds(after(MQTT_BACKLOG_MS_MAX + 1))


def test_the_answer_to_a_refused_payload() -> None:
    """Whoever published nonsense reads why, and what it was."""
    given = message(b'{"document": "My-Doc", "status": "Banana"}')
    answer = rejection(OWN, given, refusal(judge(given)))
    assert answer is not None
    assert answer.topic == f"ssm-status/{NODE}/rejected"
    said = json.loads(answer.payload)
    assert set(said) == {"reason", "payload"}
    assert said["reason"].startswith("status: ")
    assert said["payload"] == given.payload.decode()


@pytest.mark.parametrize("payload", [b"\xff" * 100_000, b"x" * 5000, "€".encode() * 20_000])
def test_the_answer_is_bounded_and_always_text(payload: bytes) -> None:
    """Of a long payload, or one that is no text, the answer holds as much as can be shown, and says that it is cut."""
    answer = rejection(
        OWN, replace(message(payload[:MQTT_PAYLOAD_BYTES_MAX]), size_bytes=len(payload)), Refusal(None, "no")
    )
    assert answer is not None
    echo = json.loads(answer.payload)["payload"]
    assert len(echo) == MQTT_ECHO_CHARS_MAX
    assert echo.endswith("[cut]")


def test_an_outcome_says_what_became_of_a_report() -> None:
    """Followers read document, status, outcome and dates; of a failure also what to do."""
    report = Report("Failed", "exit 3", None, 1_790_000_000_355)
    announcement = Announcement(Association(OTHER, "My-Doc"), report, Ending.DELIVERED, 1_790_000_001_000)
    delivered = outcome(GATEWAY, announcement)
    assert delivered.topic == f"ssm-status/{OTHER}/outcomes"
    assert json.loads(delivered.payload) == {
        "document": "My-Doc",
        "status": "Failed",
        "outcome": "delivered",
        "observed_at": "2026-09-21T14:13:20.355Z",
        "at": "2026-09-21T14:13:21.000Z",
    }
    problem = Problem("AccessDeniedException", "denied", "r-1", "allow ssm:UpdateAssociationStatus")
    said = json.loads(outcome(GATEWAY, replace(announcement, ending=Ending.HELD_BACK, problem=problem)).payload)
    assert said["outcome"] == "held_back"
    assert (said["code"], said["error"], said["request_id"]) == ("AccessDeniedException", "denied", "r-1")
    assert said["hint"] == "allow ssm:UpdateAssociationStatus"


def test_the_reporters_state() -> None:
    """Whoever subscribes later still sees whether this daemon is there."""
    for posting, state in ((online(OWN, 0), "online"), (offline(OWN, 0), "offline"), (last_will(OWN), "offline")):
        assert posting.topic == f"ssm-status/{NODE}/reporter"
        assert posting.retain
        assert json.loads(posting.payload)["state"] == state
