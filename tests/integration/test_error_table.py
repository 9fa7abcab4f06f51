"""Every row of the design's table "What each answer means", through the wire.

The real client, reporter and outbox against the emulator; what is looked at is what ``status`` and
``dead-letters`` would show.
"""

from pathlib import Path

import pytest

from error_table_support import (
    DESCRIBE,
    FOR_EVER,
    HEALTHY,
    NODE,
    OTHER_NODE,
    RETRY_EVERY_MS,
    UPDATE,
    always,
    named,
    only,
    rig,
    scopes,
)
from ssm_status_reporter.emulator.faults import Effect, Fault, FaultPlan, Kind, Match, Rule
from ssm_status_reporter.outbox.letters import letters
from ssm_support import write_keys


async def test_a_description_is_an_acknowledgement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """200 with AssociationDescription: acknowledged, counted as delivered, no call after it."""
    async with rig(tmp_path, monkeypatch) as it:
        await it.hand_in()
        state = await it.until(lambda state: state["counters"]["delivered"], "delivered")
        await it.hand_in()
        assert it.state()["counters"]["suppressed_unchanged"] == 1
        assert only(state)["state"] == "acknowledged"
        assert len(it.calls()) == 1


async def test_status_unchanged_is_an_acknowledgement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """StatusUnchanged: acknowledged, counted as already_held."""
    async with rig(tmp_path, monkeypatch, always("StatusUnchanged")) as it:
        await it.hand_in()
        state = await it.until(lambda state: state["counters"]["already_held"], "already held")
        assert only(state)["state"] == "acknowledged"
        assert only(state)["last_error"] is None
        assert (state["counters"]["calls"], state["counters"]["retried"]) == (1, 0)


RETRIED = {
    "TooManyUpdates": "TooManyUpdates",
    "InternalServerError": "InternalServerError",
    "InternalFailure": "InternalFailure",
    "ServiceUnavailable": "ServiceUnavailable",
    "a 5xx of any other code": Fault(code="Whatever", status=599),
    "a gateway's 502 page": Fault(kind=Kind.HTML, status=502),
    "a gateway's 504 page": Fault(kind=Kind.HTML, status=504),
    "hang": "hang",
    "reset": "reset",
    "empty_200": "empty_200",
}


@pytest.mark.parametrize("fault", RETRIED.values(), ids=RETRIED)
async def test_what_may_pass_is_retried_and_one_association_alone_shuts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str | Fault
) -> None:
    """The report waits, each failed call is charged to it, there is no hold, and it arrives in the end."""
    async with rig(tmp_path, monkeypatch, always(fault)) as it:
        await it.hand_in()
        state = await it.until(
            lambda state: only(state)["attempts"] >= 4 and only(state)["state"] == "pending",
            "four failed attempts",
        )
        assert state["holds"] == [], "it may be this association's alone"
        assert only(state)["last_error"]["code"]
        assert only(state)["last_error"]["hint"]
        assert state["counters"]["retried"] == state["counters"]["calls"] == only(state)["attempts"]
        state = await it.mended()
        # Where hanging is the subject calls are given up soon: on a slow machine one that was applied, too.
        ends = ("delivered", "already_held") if fault == "hang" else ("delivered",)
        assert sum(state["counters"][end] for end in ends) == 1
        assert only(state)["last_error"] is None


SHARED = {name: fault for name, fault in RETRIED.items() if name != "TooManyUpdates"}


@pytest.mark.parametrize("fault", SHARED.values(), ids=SHARED)
async def test_what_several_associations_share_holds_the_endpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str | Fault
) -> None:
    """Three failures in a row over two associations: the endpoint is held, probed, and open after one success."""
    async with rig(tmp_path, monkeypatch, always(fault)) as it:
        for number in range(4):
            await it.hand_in(f"Doc-{number}")
        state = await it.until(lambda state: scopes(state) == ["endpoint"], "the endpoint is held")
        assert state["holds"][0]["instance_id"] is None
        calls = state["counters"]["calls"]
        await it.until(lambda state: state["counters"]["calls"] >= calls + 4, "it is probed")
        state = await it.mended()
        assert state["counters"]["delivered"] + state["counters"]["already_held"] == 4
        assert all(each["attempts"] == 0 for each in state["associations"])


@pytest.mark.parametrize(
    "fault", ["lose_reply", "cut_200", Fault(kind=Kind.HTML, status=502, effect=Effect.APPLIED)]
)
async def test_what_may_have_been_applied_is_asked_about_before_it_goes_out_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str | Fault
) -> None:
    """A reply lost after the service applied the update: the service is asked, holds it, and is not called again."""
    plan = FaultPlan(rules=(Rule(operation=UPDATE, errors=(named(fault) if isinstance(fault, str) else fault,)),))
    async with rig(tmp_path, monkeypatch, plan) as it:
        await it.hand_in()
        state = await it.until(lambda state: state["counters"]["already_held"], "already held")
        assert len(it.calls(UPDATE)) == 1
        assert len(it.calls(DESCRIBE)) == 1
        assert only(state)["state"] == "acknowledged"


THROTTLED = (
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "RequestThrottledException",
    "RequestThrottled",
    "TooManyRequestsException",
    "ProvisionedThroughputExceededException",
    "TransactionInProgressException",
    "RequestLimitExceeded",
    "BandwidthLimitExceeded",
    "LimitExceededException",
    "SlowDown",
    "PriorRequestNotComplete",
    "EC2ThrottledException",
)


@pytest.mark.parametrize("code", THROTTLED)
async def test_throttling_slows_the_rate_and_is_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    """The whole family: the rate halves, which is said; nothing is charged to the report, nothing is held."""
    async with rig(tmp_path, monkeypatch, always(code)) as it:
        since_ms = it.clock.now().steady_ms
        await it.hand_in()
        state = await it.until(
            lambda state: state["counters"]["retried"] >= 2 and only(state)["state"] == "pending", "retried"
        )
        seconds = (it.clock.now().steady_ms - since_ms) / 1000
        assert only(state)["attempts"] == 0, "not the report's own fault"
        assert state["holds"] == []
        slower = [line for line in it.said if line["event"] == "the service throttles: calling more slowly"]
        rates = [line["calls_per_second"] for line in slower]
        assert rates == [1000.0 / 2**halvings for halvings in range(1, len(rates) + 1)]
        assert 1 <= len(rates) <= 1 + seconds, "halved once a second at most"
        state = await it.mended()
        assert state["counters"]["delivered"] == 1


@pytest.mark.parametrize("code", ["ThrottlingException", "ServiceUnavailable"])
async def test_a_retry_after_hint_is_a_lower_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    """With Retry-After: 60 the next attempt is a minute away, whatever the backoff says."""
    async with rig(tmp_path, monkeypatch, always(Fault(code=code, retry_after="60s"))) as it:
        before_ms = it.clock.now().wall_ms
        await it.hand_in()
        await it.until(lambda state: only(state)["last_error"], "refused")
        after_ms = it.clock.now().wall_ms
        entry = await it.entry()
        assert entry.due_at_ms is not None
        assert before_ms + 60_000 <= entry.due_at_ms <= after_ms + 60_000
        assert len(it.calls()) == 1


UNSERVED = {
    "AssociationDoesNotExist": "InstanceId parameter",
    "UnknownOperationException": "endpoint",
    "NeverHeardOfException": "documents no such error",
}


@pytest.mark.parametrize(("code", "hint"), UNSERVED.items(), ids=UNSERVED)
async def test_what_the_service_does_not_serve_is_parked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, hint: str
) -> None:
    """Parked with a hint, retried at intervals, beside an association that is delivered; served when it appears."""
    plan = FaultPlan(rules=(Rule(document="Doc", operation=UPDATE, errors=(Fault(code=code, times=FOR_EVER),)),))
    async with rig(tmp_path, monkeypatch, plan) as it:
        await it.hand_in()
        await it.hand_in("Good")
        state = await it.until(
            lambda state: (
                state["outbox"]["parked"]
                and state["associations"][0]["attempts"] >= 2
                and state["counters"]["delivered"]
            ),
            "tried again, and the other is delivered",
        )
        parked, good = state["associations"]
        assert hint in parked["last_error"]["hint"]
        assert parked["last_error"]["code"] == code
        assert parked["last_error"]["request_id"]
        assert good["state"] == "acknowledged"
        assert state["holds"] == []
        state = await it.mended()
        assert state["counters"]["delivered"] == 2


async def test_what_stays_parked_is_dead_when_its_time_is_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After park.give_up_after it is a dead letter; an equal report within that time makes no further call."""
    plan = always("AssociationDoesNotExist")
    give_up_after_ms = 20 * RETRY_EVERY_MS
    async with rig(tmp_path, monkeypatch, plan, give_up_after_ms) as it:
        await it.hand_in()
        state = await it.until(lambda state: state["outbox"]["dead"], "dead")
        assert only(state)["state"] == "dead"
        (letter,) = letters(it.path)
        assert letter.problem.code == "AssociationDoesNotExist"
        assert letter.problem.request_id
        calls = len(it.calls())
        assert 2 <= calls <= 22, "every 50 ms for a second, on a slow machine less often"
        entry = await it.entry()
        assert entry.dead is not None
        # The equal report is taken up again only give_up_after after the last parking began.
        await it.clock.sleep_until(entry.dead.parked_from_ms + give_up_after_ms)
        await it.hand_in()
        state = await it.until(lambda state: state["outbox"]["dead"] == 2, "parked once more, and dead again")
        assert state["counters"]["dead"] == 2
        await it.hand_in(message="another")
        state = await it.mended()
        assert state["counters"]["delivered"] == 1


async def test_a_dead_report_that_comes_again_at_once_makes_no_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runner that reports the same every minute does not keep a dead association busy."""
    async with rig(tmp_path, monkeypatch, always("ValidationException")) as it:
        await it.hand_in()
        await it.until(lambda state: state["outbox"]["dead"], "dead")
        for _ in range(5):
            await it.hand_in()
        state = it.state()
        assert state["counters"]["suppressed_unchanged"] == 5
        assert len(it.calls()) == 1


@pytest.mark.parametrize("code", ["InvalidDocument", "ValidationException", "SerializationException"])
async def test_what_the_service_refuses_is_dead_at_once_and_a_new_report_revives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    """Kept with code, message and request id; a differing report goes out and is acknowledged."""
    async with rig(tmp_path, monkeypatch, always(Fault(code=code, message="and why"))) as it:
        await it.hand_in()
        state = await it.until(lambda state: state["outbox"]["dead"], "dead")
        assert only(state)["state"] == "dead"
        (letter,) = letters(it.path)
        assert (letter.problem.code, letter.problem.message) == (code, "and why")
        assert letter.problem.request_id == it.calls()[0].request_id
        assert letter.report.message == "done"
        assert (state["counters"]["calls"], state["counters"]["dead"]) == (1, 1)
        it.emulator.faults = HEALTHY
        await it.hand_in(message="another")
        state = await it.until(lambda state: only(state)["state"] == "acknowledged", "revived")
        assert len(letters(it.path)) == 1, "the letter stays until somebody looks"


async def test_an_invalid_node_is_held_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """InvalidInstanceId: that node is held and probed, one call at a time; the other node's reports go out."""
    rule = Rule(instance_id=NODE, errors=(Fault(code="InvalidInstanceId", times=FOR_EVER),))
    async with rig(tmp_path, monkeypatch, FaultPlan(rules=(rule,))) as it:
        for number in range(5):
            await it.hand_in(f"Doc-{number}")
        state = await it.until(lambda state: scopes(state) == ["node"], "the node is held")
        assert state["holds"][0]["instance_id"] == NODE
        for cause in ("not registered", "SSM Agent", "invalid state", "may not access"):
            assert cause in state["holds"][0]["reason"], "the documented causes"
        await it.hand_in("Doc", node=OTHER_NODE)
        state = await it.until(lambda state: state["counters"]["delivered"], "the other node's goes out")
        calls = state["counters"]["calls"]
        state = await it.until(lambda state: state["counters"]["calls"] >= calls + 5, "it is probed")
        assert {each["attempts"] for each in state["associations"]} == {0}, "charged to nothing"
        state = await it.mended()
        assert state["counters"]["delivered"] == 6


CREDENTIALS = (
    "ExpiredToken",
    "ExpiredTokenException",
    "UnrecognizedClientException",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "IncompleteSignature",
    "IncompleteSignatureException",
    "MissingAuthenticationTokenException",
)


@pytest.mark.parametrize("code", CREDENTIALS)
async def test_refused_credentials_hold_everything_and_are_loaded_afresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    """One probe at a time, charged to nothing, with the keys read anew each time; the first success opens it."""
    async with rig(tmp_path, monkeypatch, always(code)) as it:
        await it.hand_in(*(f"Doc-{number}" for number in range(5)))  # at once: between commits there are probes
        state = await it.until(lambda state: scopes(state) == ["credentials"], "held")
        assert code in state["holds"][0]["reason"]
        assert state["holds"][0]["instance_id"] is None
        calls = len(it.calls())
        assert calls <= 4, "those that were out when it was shut"
        write_keys(tmp_path / "credentials", "AKIANEW")
        await it.emulator.wait_for(lambda ledger: any(each.access_key_id == "AKIANEW" for each in ledger))
        state = await it.until(lambda state: state["counters"]["calls"] >= calls + 3, "it is probed")
        assert {each["attempts"] for each in state["associations"]} == {0}
        state = await it.mended()
        assert state["counters"]["delivered"] == 5


async def test_no_credentials_hold_without_a_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No keys at all: nothing is sent and nothing counted as a call; keys that appear are taken at the next probe."""
    async with rig(tmp_path, monkeypatch) as it:
        file = tmp_path / "credentials"
        file.unlink()
        await it.hand_in()
        state = await it.until(lambda state: scopes(state) == ["credentials"], "held")
        assert "AWS_SHARED_CREDENTIALS_FILE" in state["holds"][0]["reason"]
        assert state["counters"]["calls"] == 0
        file.write_text("[default]\naws_access_key_id = AKIAHALF\n", "utf-8")
        since = state["holds"][0]["next_probe_at"]
        state = await it.until(
            lambda state: state["holds"][0]["next_probe_at"] != since, "half of them: still held"
        )
        assert it.calls() == []
        write_keys(file, "AKIANEW")
        state = await it.mended()
        assert state["counters"]["delivered"] == 1


@pytest.mark.parametrize("code", ["AccessDenied", "AccessDeniedException"])
async def test_a_denied_permission_holds_that_association_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    """IAM can restrict by document: one that is denied is held and probed alone; the hint names what to allow."""
    rule = Rule(document="Denied", operation=UPDATE, errors=(Fault(code=code, times=FOR_EVER),))
    async with rig(tmp_path, monkeypatch, FaultPlan(rules=(rule,))) as it:
        await it.hand_in("Denied")
        state = await it.until(lambda state: scopes(state) == ["permission"], "held")
        assert (state["holds"][0]["instance_id"], state["holds"][0]["document"]) == (NODE, "Denied")
        for part in ("ssm:UpdateAssociationStatus", f"instance/{NODE}", "document/Denied"):
            assert part in state["holds"][0]["reason"]
        await it.hand_in("Good")
        state = await it.until(lambda state: state["counters"]["delivered"], "another goes out")
        calls = state["counters"]["calls"]
        state = await it.until(lambda state: state["counters"]["calls"] >= calls + 3, "it is probed")
        assert {each["attempts"] for each in state["associations"]} == {0}, "charged to nothing"
        state = await it.mended()
        assert state["counters"]["delivered"] == 2


async def test_several_associations_denied_hold_the_permission_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After three distinct ones were denied, the others wait without being tried."""
    async with rig(tmp_path, monkeypatch, always("AccessDeniedException")) as it:
        for number in range(4):
            await it.hand_in(f"Doc-{number}")
        state = await it.until(
            lambda state: any(hold["document"] is None for hold in state["holds"]), "held for everything"
        )
        state = await it.mended()
        assert state["counters"]["delivered"] == 4


async def test_a_denied_question_never_holds_updates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ssm:DescribeAssociation a report whose reply was lost goes out again without asking."""
    rule = Rule(operation=UPDATE, errors=("lose_reply",))
    plan = FaultPlan(rules=(rule,), deny=(Match(operation=DESCRIBE),))
    async with rig(tmp_path, monkeypatch, plan) as it:
        await it.hand_in()
        state = await it.until(lambda state: state["counters"]["already_held"], "acknowledged")
        assert state["holds"] == []
        assert [each.answer for each in it.calls(DESCRIBE)] == ["AccessDeniedException"]
        assert [each.answer for each in it.calls(UPDATE)] == ["lose_reply", "StatusUnchanged"]


@pytest.mark.parametrize("code", ["RequestExpired", "RequestInTheFuture", "RequestTimeTooSkewed"])
async def test_clock_codes_hold_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """A refused date holds everything, charged to nothing, and the hint says to set the clock."""
    async with rig(tmp_path, monkeypatch, always(code)) as it:
        for number in range(3):
            await it.hand_in(f"Doc-{number}")
        state = await it.until(lambda state: scopes(state) == ["clock"], "held")
        assert "clock" in state["holds"][0]["reason"]
        calls = state["counters"]["calls"]
        state = await it.until(lambda state: state["counters"]["calls"] >= calls + 3, "it is probed")
        assert {each["attempts"] for each in state["associations"]} == {0}
        state = await it.mended()
        assert state["counters"]["delivered"] == 3


@pytest.mark.parametrize("skew", ["10m", "-10m", "48h"])
async def test_a_skewed_clock_is_measured_said_once_and_corrected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skew: str
) -> None:
    """With the service's clock elsewhere the first call is refused, the second signed by its clock and accepted."""
    async with rig(tmp_path, monkeypatch, FaultPlan(clock_skew=skew)) as it:
        for number in range(5):
            await it.hand_in(f"Doc-{number}")
        await it.until(lambda state: state["counters"]["delivered"] == 5, "delivered")
        said = [line for line in it.said if line["event"] == "clock skew corrected"]
        assert len(said) == 1
        held = [line for line in it.said if line["event"].startswith("hold: ")]
        assert [line["scope"] for line in held] == ["clock"]
        assert it.state()["holds"] == []


HOLD = "hold: reports wait unharmed until a probe succeeds"
PROXIED = {"403": 403, "407": 407, "404": 404}


@pytest.mark.parametrize("status", PROXIED.values(), ids=PROXIED)
async def test_a_proxys_page_is_retried_then_holds_the_endpoint_and_names_the_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """A page that is not the service's JSON: retried, after three in a row the endpoint is held."""
    async with rig(tmp_path, monkeypatch, always(Fault(kind=Kind.HTML, status=status))) as it:
        await it.hand_in()
        state = await it.until(lambda state: scopes(state) == ["endpoint"], "held")
        assert "proxy" in state["holds"][0]["reason"]
        events = [line["event"] for line in it.said if line["log_level"] != "debug"]
        assert events[1:4] == ["not delivered: it will be retried"] * 2 + [HOLD], "the third in a row"
        assert only(state)["last_error"]["code"] == f"HTTP{status}"
        state = await it.mended()
        assert state["counters"]["delivered"] == 1


async def test_no_connection_is_retried_then_holds_the_endpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody listens: after three failures in a row, one association's alone, the endpoint is held."""
    async with rig(tmp_path, monkeypatch) as it:
        await it.hand_in()
        await it.until(lambda state: state["counters"]["delivered"], "delivered")
        it.emulator._listener.close()
        await it.emulator._http.shutdown(0.01)
        await it.hand_in(message="another")
        state = await it.until(lambda state: scopes(state) == ["endpoint"], "held")
        assert "ConnectionError" in state["holds"][0]["reason"]
        assert only(state)["acknowledged"]["message"] == "done"
        assert only(state)["pending"]["message"] == "another"
