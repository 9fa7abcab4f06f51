"""Faults, met by the installed daemon: what waits and why, how often the service is called, and how it ends.

Each fault strikes every call for a while; what is asserted is what ``status`` shows meanwhile, that the calls
follow the backoff, and that everything is delivered once the fault is over. Each row of the design's table, one by
one, is in integration/test_error_table.py.
"""

import asyncio
import random
import signal
import socket
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from acceptance_support import (
    DESCRIBE,
    NODE,
    SECONDS_MAX,
    UPDATE,
    Site,
    assert_balanced,
    attempts_max,
    calls,
    faults,
    held,
)
from ssm_status_reporter.emulator.faults import FaultPlan
from ssm_status_reporter.emulator.server import Emulator
from ssm_support import write_keys

DOCUMENTS: Final = [f"Doc-{number}" for number in range(6)]
CONCURRENCY: Final = 4
WATCHED_SECONDS: Final = 1.5
"""How long calls are counted."""
HANG_TIMEOUT: Final = "10s"
"""Where one call hangs and others are not to: longer than a machine stands still."""
SECRET_KEY: Final = "MarkerOfTheSecretKey"
SESSION_TOKEN: Final = "MarkerOfTheSessionToken"
HOLD: Final = "hold: reports wait unharmed until a probe succeeds"


@dataclass(frozen=True)
class Everywhere:
    """A fault that strikes whoever calls, the scope it shuts, and what the hold says."""

    fault: str | Mapping[str, Any]
    scope: str
    says: str


EVERYWHERE = {
    "internal server error": Everywhere("InternalServerError", "endpoint", "InternalServerError"),
    "service unavailable": Everywhere("ServiceUnavailable", "endpoint", "ServiceUnavailable"),
    "hang": Everywhere("hang", "endpoint", "delivery.timeout"),
    "reset": Everywhere("reset", "endpoint", "Connection"),
    "proxy's 403": Everywhere({"kind": "html", "status": 403}, "endpoint", "proxy"),
    "proxy's 407": Everywhere({"kind": "html", "status": 407}, "endpoint", "proxy"),
    "empty 200": Everywhere("empty_200", "endpoint", "NoDescription"),
    "cut 200": Everywhere("cut_200", "endpoint", "NoDescription"),
    "lost replies": Everywhere("lose_reply", "endpoint", "Connection"),
    "expired token": Everywhere("ExpiredTokenException", "credentials", "ExpiredTokenException"),
    "unknown key": Everywhere("UnrecognizedClientException", "credentials", "what renews them"),
    "refused date": Everywhere("RequestExpired", "clock", "time synchronisation"),
    "invalid node": Everywhere("InvalidInstanceId", "node", "SSM Agent"),
    "access denied": Everywhere("AccessDeniedException", "permission", "ssm:UpdateAssociationStatus"),
}


@pytest.mark.parametrize("trouble", EVERYWHERE.values(), ids=EVERYWHERE)
async def test_what_strikes_all_holds_its_scope_calls_by_the_backoff_and_ends_by_itself(
    tmp_path: Path, trouble: Everywhere
) -> None:
    """Reports wait under one hold that says what to do, a few probes go out, and all arrive when it is over."""
    fault = {"code": trouble.fault} if _is_code(trouble.fault) else trouble.fault
    fault = {"kind": fault} if isinstance(fault, str) else fault
    changes = {"delivery": {"timeout": "5s"}} if trouble.fault == "hang" else {}
    async with Emulator(faults({**fault, "times": 0}, operation="*")) as emulator:
        site = Site(tmp_path, emulator.url, changes)
        async with site.daemon() as daemon:
            for document in DOCUMENTS:
                site.drop(document, "Success", "done")
            await daemon.line(HOLD, scope=trouble.scope)
            before, since = len(emulator.ledger), time.monotonic()
            await asyncio.sleep(WATCHED_SECONDS)
            await emulator.wait_for(lambda ledger: len(ledger) > before)
            requests, state = len(emulator.ledger) - before, site.state()
            bound = attempts_max(time.monotonic() - since)
            assert {hold["scope"] for hold in state["holds"]} == {trouble.scope}
            assert any(trouble.says in hold["reason"] for hold in state["holds"])
            # A lost reply may have been applied: the question that follows it finds the status held.
            assert state["counters"]["delivered"] == 0
            assert 1 <= requests <= bound * (len(DOCUMENTS) if trouble.scope == "permission" else 1)
            if trouble.scope != "endpoint":
                assert {each["attempts"] for each in state["associations"]} == {0}, "charged to nothing"
            assert_balanced(state)
            emulator.faults = FaultPlan()
            state = await daemon.quiet(len(DOCUMENTS))
            assert await daemon.stop() == 0
        assert state["holds"] == []
        assert state["counters"]["delivered"] + state["counters"]["already_held"] == len(DOCUMENTS)
        assert {document: held(emulator, document) for document in DOCUMENTS} == site.written
        assert_balanced(state)
        applied = Counter(each.document for each in calls(emulator) if each.applied)
        assert set(applied.values()) == {1}, "applied once, whatever became of the reply"
        assert len(daemon.logged(HOLD, scope="permission")) <= len(DOCUMENTS) + 1
        if trouble.scope != "permission":
            assert len(daemon.logged(HOLD, scope=trouble.scope)) == 1, "said once"


async def test_updates_that_fail_while_questions_are_answered_follow_the_backoff_too(tmp_path: Path) -> None:
    """A service that answers DescribeAssociation and fails every update is called no more often for that."""
    async with Emulator(faults({"code": "InternalServerError", "times": 0})) as emulator:
        site = Site(tmp_path, emulator.url)
        async with site.daemon() as daemon:
            for document in DOCUMENTS:
                site.drop(document, "Success", "done")
            await daemon.line(HOLD, scope="endpoint")
            before, since = len(emulator.ledger), time.monotonic()
            await asyncio.sleep(WATCHED_SECONDS)
            requests, bound = len(emulator.ledger) - before, attempts_max(time.monotonic() - since)
            assert requests <= 2 * bound * len(DOCUMENTS), "each by its own backoff: a question and a call"
            emulator.faults = FaultPlan()
            state = await daemon.quiet(len(DOCUMENTS))
        assert state["counters"]["delivered"] == len(DOCUMENTS)
        assert_balanced(state)


ALONE = {
    "busy": ("TooManyUpdates", "pending"),
    "failing": ("InternalServerError", "pending"),
    "hanging": ("hang", "pending"),
    "absent": ("AssociationDoesNotExist", "parked"),
    "undocumented": ("NeverHeardOfException", "parked"),
    "denied": ("AccessDeniedException", "pending"),
    "invalid": ("ValidationException", "dead"),
    "no-document": ("InvalidDocument", "dead"),
}


@pytest.mark.parametrize("concurrency", [1, CONCURRENCY])
async def test_one_association_in_trouble_never_delays_another(tmp_path: Path, concurrency: int) -> None:
    """With eight associations in eight kinds of trouble the others' results arrive, at any concurrency."""
    # One call at a time waits for the one that hangs, which the next test looks at.
    alone = {name: trouble for name, trouble in ALONE.items() if concurrency > 1 or name != "hanging"}
    expected = {name: {state} if state == "dead" else {state, "in_flight"} for name, (_, state) in alone.items()}
    changes = {
        "delivery": {
            "timeout": HANG_TIMEOUT,
            "concurrency": concurrency,
            "backoff": {"max": "5s"},
            "park": {"retry_every": "100ms", "give_up_after": "1h"},
        }
    }
    async with Emulator(msgspec.convert({"rules": _trouble_of_their_own()}, FaultPlan)) as emulator:
        site = Site(tmp_path, emulator.url, changes)
        async with site.daemon() as daemon:
            for name in alone:
                site.drop(name, "Success", "in trouble")
            since = time.monotonic()
            for number in range(40):
                document = f"Good-{number % 4}"
                site.drop(document, "Success", str(number))
                await daemon.line("delivered", times=number // 4 + 1, document=document)

            def as_expected(state: Mapping[str, Any]) -> bool:
                states = {each["document"]: each["state"] for each in state["associations"]}
                return all(states[name] in those for name, those in expected.items())

            await daemon.state(as_expected, "each in its state")
            tried, elapsed = Counter(each.document for each in calls(emulator)), time.monotonic() - since
            emulator.faults = FaultPlan()
            state = await daemon.quiet(len(alone) + 40)
        for name, those in expected.items():
            assert tried[name] <= attempts_max(elapsed, max_ms=5000) + elapsed * 10, f"{name}: no hot loop"
            if those == {"dead"}:
                assert tried[name] == 1, name
        assert state["counters"]["dead"] == 2
        assert state["counters"]["delivered"] == 40 + len(alone) - 2
        assert_balanced(state)


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_nobody_waits_for_anothers_backoff(tmp_path: Path, concurrency: int) -> None:
    """Eight associations in trouble wait for an hour each: whoever waited for one of them would not arrive here."""
    changes = {
        "delivery": {
            "timeout": HANG_TIMEOUT,
            "concurrency": concurrency,
            "backoff": {"initial": "1h", "max": "1h"},
            "park": {"retry_every": "1h"},
        }
    }
    async with Emulator(msgspec.convert({"rules": _trouble_of_their_own()}, FaultPlan)) as emulator:
        site = Site(tmp_path, emulator.url, changes)
        async with site.daemon() as daemon:
            for name in ALONE:
                site.drop(name, "Success", "in trouble")
            await emulator.wait_for(lambda ledger: len({each.document for each in ledger}) == len(ALONE))
            for number in range(20):
                site.drop(f"Good-{number % 4}", "Success", str(number))
                await daemon.line("delivered", times=number // 4 + 1, document=f"Good-{number % 4}")


async def test_throttled_the_daemon_slows_down_to_what_the_service_takes(tmp_path: Path) -> None:
    """Against 2 calls a second a backlog of 20 arrives, with fewer calls throttled than delivered."""
    # Few: a slow machine is to make more.
    plan = msgspec.convert({"rules": [{"throttle": {"rate": 2, "burst": 5}}]}, FaultPlan)
    async with Emulator(plan) as emulator:
        site = Site(tmp_path, emulator.url, {"delivery": {"rate": 8, "burst": 1}})
        async with site.daemon() as daemon:
            for number in range(20):
                site.drop(f"Doc-{number}", "Success", "done")
            state = await daemon.quiet(20)
        assert daemon.logged("the service throttles: calling more slowly")
        throttled = [each for each in calls(emulator) if each.answer == "ThrottlingException"]
        assert len(throttled) < 20
        assert state["counters"]["delivered"] == 20
        assert state["holds"] == []
        assert_balanced(state)


async def test_a_service_that_is_down_and_comes_back(tmp_path: Path) -> None:
    """Nobody listens: one endpoint hold, nothing lost; when the service listens again, all arrives by itself."""
    # Bound and not listening: connections are refused, and nobody else gets the port.
    with socket.socket() as kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        port = kept.getsockname()[1]
        site = Site(tmp_path, f"http://127.0.0.1:{port}")
        async with site.daemon() as daemon:
            for document in DOCUMENTS:
                site.drop(document, "Success", "done")
            await daemon.line(HOLD, scope="endpoint")
            since, before = time.monotonic(), site.state()["counters"]["calls"]
            await asyncio.sleep(WATCHED_SECONDS)
            state = await daemon.state(lambda state: state["counters"]["calls"] > before, "it is probed")
            assert state["counters"]["calls"] - before <= attempts_max(time.monotonic() - since)
            assert "ConnectionError" in state["holds"][0]["reason"]
            async with Emulator(port=port) as emulator:
                state = await daemon.quiet(len(DOCUMENTS))
                assert {document: held(emulator, document) for document in DOCUMENTS} == site.written
                assert await daemon.stop() == 0
    assert state["holds"] == []
    assert_balanced(state)


async def test_a_log_that_cannot_be_written_keeps_nothing_from_being_delivered(tmp_path: Path) -> None:
    """With its log on a full disk the daemon starts, delivers, and ends at SIGTERM with 0."""
    async with Emulator() as emulator:
        site = Site(tmp_path, emulator.url)
        unheard = ("/bin/sh", "-c", 'exec "$@" 2>/dev/full', "sh")
        async with site.daemon(ready=False, prefix=unheard) as daemon:
            site.drop("Doc", "Success", "done")
            await emulator.wait_for(lambda _: held(emulator, "Doc") == ("Success", "done"), SECONDS_MAX)
            assert await daemon.stop() == 0


async def test_a_hold_that_only_a_question_met_ends_without_a_report(tmp_path: Path) -> None:
    """With nothing to deliver, an outage met by reconciliation is not shown for ever: it is probed and ends."""
    changes = {"reconcile": {"interval": "300ms", "on_start": True}}
    async with Emulator() as emulator:
        site = Site(tmp_path, emulator.url, changes)
        async with site.daemon() as daemon:
            for document in DOCUMENTS:
                site.drop(document, "Success", "done")
            await daemon.quiet(len(DOCUMENTS))
            emulator.faults = faults({"code": "InternalServerError", "times": 0}, operation=DESCRIBE)
            await daemon.line(HOLD, scope="endpoint")
            emulator.faults = FaultPlan()
            await daemon.line("hold is over", scope="endpoint")
            state = await daemon.state(lambda state: not state["holds"], "nothing is held")
        assert state["counters"]["delivered"] == len(DOCUMENTS)


async def test_without_credentials_it_is_ready_holds_and_delivers_when_they_appear(tmp_path: Path) -> None:
    """No keys at start is no reason to fail; a shared file that appears, torn at first, is used at the next probe."""
    async with Emulator() as emulator:
        site = Site(tmp_path, emulator.url)
        site.credentials.unlink()
        async with site.daemon() as daemon:
            site.drop("Doc", "Success", "done")
            await daemon.line(HOLD, scope="credentials")
            state = site.state()
            assert state["holds"][0]["scope"] == "credentials"
            assert "AWS_SHARED_CREDENTIALS_FILE" in state["holds"][0]["reason"]
            assert state["counters"]["calls"] == 0
            # As the SSM Agent writes it: created empty, then in pieces.
            site.credentials.touch()
            await daemon.line("hold remains", scope="credentials")
            site.credentials.write_text("[default]\naws_access_key_id = ASIATORN\n", "utf-8")
            await daemon.line("hold remains", times=4, scope="credentials")
            assert len(emulator.ledger) == 0, "nothing goes out half signed"
            write_keys(site.credentials, "ASIAWHOLE")
            state = await daemon.quiet(1)
        assert {each.access_key_id for each in emulator.ledger} == {"ASIAWHOLE"}
        assert state["holds"] == []


async def test_keys_that_are_renewed_in_place_are_used_and_no_secret_is_written_anywhere(tmp_path: Path) -> None:
    """Expired keys hold, the renewed file opens; neither log, status nor database holds key or token."""
    plan = {"credentials": {"accept": ["ASIAOLD", "ASIANEW"], "expired": ["ASIAOLD"]}}
    async with Emulator(msgspec.convert(plan, FaultPlan)) as emulator:
        site = Site(tmp_path, emulator.url)
        keys = f"aws_secret_access_key = {SECRET_KEY}\naws_session_token = {SESSION_TOKEN}\n"
        site.credentials.write_text(f"[default]\naws_access_key_id = ASIAOLD\n{keys}", "utf-8")
        async with site.daemon() as daemon:
            for document in DOCUMENTS:
                site.drop(document, "Success", "done")
            await daemon.line(HOLD, scope="credentials")
            shown = [await site.run("status", "--json"), await site.run("status")]
            assert "ExpiredTokenException" in shown[1].output
            site.credentials.write_text(f"[default]\naws_access_key_id = ASIANEW\n{keys}", "utf-8")
            state = await daemon.quiet(len(DOCUMENTS))
            shown.append(await site.run("config", "show"))
            await daemon.kill()
        assert state["holds"] == []
        written = [path.read_bytes() for path in site.outbox.parent.iterdir()]
        written += [repr(daemon.lines).encode(), *(f"{ended.output}{ended.errors}".encode() for ended in shown)]
        for marker in (SECRET_KEY.encode(), SESSION_TOKEN.encode()):
            assert not any(marker in text for text in written)
        assert_balanced(state)


@pytest.mark.parametrize("skew", ["10m", "-10m"])
async def test_a_wrong_clock_is_corrected_and_said_once(tmp_path: Path, skew: str) -> None:
    """Ten minutes off: the first call is refused, the skew is said once, and everything is delivered."""
    async with Emulator(FaultPlan(clock_skew=skew)) as emulator:
        site = Site(tmp_path, emulator.url)
        async with site.daemon() as daemon:
            state = await daemon.quiet(0)
            for number in range(3):
                for document in DOCUMENTS:
                    site.drop(document, "Success", str(number))
                state = await daemon.quiet((number + 1) * len(DOCUMENTS))
        (said,) = daemon.logged("clock skew corrected")
        assert abs(said["skew_seconds"]) == pytest.approx(600, abs=60), "as exact as the slowest of replies"
        refused = [each for each in emulator.ledger if each.answer != "ok"]
        assert 1 <= len(refused) <= CONCURRENCY, "those that were out before the skew was known"
        assert state["holds"] == []
        assert {document: held(emulator, document) for document in DOCUMENTS} == site.written
        assert_balanced(state)


async def test_what_stays_unserved_is_dead_when_its_time_is_up(tmp_path: Path) -> None:
    """AssociationDoesNotExist: parked, retried, then a dead letter with what to do; an equal result makes no call."""
    park = {"delivery": {"park": {"retry_every": "100ms", "give_up_after": "1h"}}}
    async with Emulator(faults({"code": "AssociationDoesNotExist", "times": 0})) as emulator:
        site = Site(tmp_path, emulator.url, park)
        since = time.monotonic()
        async with site.daemon() as daemon:
            site.drop("Doc", "Success", "done")
            await daemon.line("parked", document="Doc")
            await daemon.state(lambda state: state["outbox"]["parked"] == 1, "parked")
            await emulator.wait_for(lambda ledger: len(ledger) >= 4)
            assert not daemon.logged("dead: the service will not take it"), "its time is not up"
            site.configure({"delivery": {"park": {"give_up_after": "300ms"}}})
            daemon.signal(signal.SIGHUP)
            said = await daemon.line("dead: the service will not take it", document="Doc")
            assert "InstanceId parameter" in said["hint"]
            assert said["request_id"]
            tried = len(calls(emulator))
            assert tried <= 1 + 10 * (time.monotonic() - since), "every 100 ms at most"
            (letter,) = (await site.run("dead-letters", "list", "--json")).json
            assert letter["code"] == "AssociationDoesNotExist"
            state = site.state()
            assert (state["outbox"]["dead"], state["counters"]["dead"]) == (1, 1)
            assert_balanced(state)


async def test_seeded_troubles_of_every_kind_at_once_lose_nothing(tmp_path: Path) -> None:
    """Under a random mixture of faults hundreds of results arrive, each association's newest, in order."""
    chance = random.Random(42)  # noqa: S311 - a choice of faults, no secret
    kinds = [
        "InternalServerError",
        "ThrottlingException",
        "TooManyUpdates",
        "AccessDeniedException",
        "ExpiredTokenException",
        "InvalidInstanceId",
        "reset",
        "lose_reply",
        "empty_200",
        "cut_200",
        "hang",
    ]
    errors = [fault for _ in range(8) for fault in chance.sample(kinds, len(kinds))]
    # Every third call is struck: the rules match by document, so that the faults spread.
    rules = [{"document": f"Doc-{number}", "errors": errors[number::6]} for number in range(6)]
    changes = {"delivery": {"timeout": "2s", "backoff": {"initial": "10ms", "max": "50ms"}}}
    async with Emulator(msgspec.convert({"rules": rules}, FaultPlan)) as emulator:
        site = Site(tmp_path, emulator.url, changes)
        async with site.daemon() as daemon:
            for number in range(300):
                site.drop(chance.choice(DOCUMENTS), chance.choice(["Success", "Failed"]), str(number))
                if number % 10 == 0:
                    await daemon.until(lambda seen=len(daemon.lines): len(daemon.lines) > seen, "it gets on")  # type: ignore[misc]  # noqa: B008 (as many as there are now)
            state = await daemon.quiet(300)
        assert {document: held(emulator, document) for document in site.written} == site.written
        assert state["holds"] == []
        assert_balanced(state)
        for document in DOCUMENTS:
            numbers = [int(each.message or 0) for each in calls(emulator, document) if each.applied]
            assert numbers == sorted(set(numbers)), "in order, and none twice"
        assert emulator.status_of(NODE, DOCUMENTS[0]) is not None


def _trouble_of_their_own() -> list[dict[str, Any]]:
    """A rule for each of those alone in trouble."""
    return [
        {"operation": UPDATE, "document": name, "errors": [{_kind(fault): fault, "times": 0}]}
        for name, (fault, _) in ALONE.items()
    ]


def _is_code(fault: str | Mapping[str, Any]) -> bool:
    return isinstance(fault, str) and fault[0].isupper()


def _kind(fault: str) -> str:
    return "code" if _is_code(fault) else "kind"
