"""The fault plan: decoding with every error told, and what it counts."""

import pytest

from ssm_status_reporter.emulator.faults import (
    EXAMPLE,
    Effect,
    Fault,
    FaultPlan,
    Kind,
    Match,
    Outage,
    PlanError,
    Rule,
    Throttle,
    decode_plan,
    skew_ms,
)
from ssm_status_reporter.emulator.injector import Injector, Request, any_matcher, request_matcher

UPDATE = Request("UpdateAssociationStatus", "i-0123456789abcdef0", "AWS-RunPatchBaseline")


def answers(plan: FaultPlan, requests: int) -> list[str | None]:
    """The codes or kinds that so many equal requests meet, all at once."""
    injector = Injector(plan, 0)
    faults = [injector.next(UPDATE, 0).fault for _ in range(requests)]
    return [None if fault is None else fault.code or fault.kind for fault in faults]


def test_the_example_that_help_shows_is_a_plan() -> None:
    """A user who copies the example from --help gets no complaint, and each kind of fault is in it."""
    plan = decode_plan(EXAMPLE)
    written = {entry if isinstance(entry, str) else entry.code or entry.kind for entry in plan.rules[2].errors}
    assert set(Kind) - {Kind.ERROR} <= written
    assert all(f"\n{key}:" in f"\n{EXAMPLE}" for key in FaultPlan.__struct_fields__)


def test_an_empty_file_is_a_healthy_service() -> None:
    """An empty faults file means no faults."""
    assert decode_plan("") == FaultPlan()


def test_every_error_is_told_with_its_key_path() -> None:
    """A user sees all mistakes of a faults file at once, each where it is."""
    with pytest.raises(PlanError) as caught:
        decode_plan(
            """
            compare: messages
            compares: status
            associations: [{instance_id: i-1}]
            clock_skew: 5
            outages: [{after: 5s, for: 1.5s}]
            rules:
              - {latency: soon, throttle: {rate: 0}}
              - errors: [resett, {kind: hang, status: 500}, {}, {code: SlowDown, times: -1}]
              - no
            """
        )
    paths = [problem.partition(": ")[0] for problem in caught.value.problems]
    assert paths == [
        "compare",
        "compares",
        "associations[0].document",
        "clock_skew",
        "outages[0].for",
        "rules[0].latency",
        "rules[0].throttle.rate",
        "rules[1].errors[0]",
        "rules[1].errors[1]",
        "rules[1].errors[2]",
        "rules[1].errors[3].times",
        "rules[2]",
    ]
    assert caught.value.problems[0] == (
        "compare: not one of status, status+message, status+message+additional_info: 'messages'"
    )


@pytest.mark.parametrize("text", ["- 1", "5", "rules: [", "rules: null"])
def test_what_is_no_mapping_or_no_yaml_is_refused(text: str) -> None:
    """A faults file of the wrong form is an error with a reason, not a traceback."""
    with pytest.raises(PlanError) as caught:
        decode_plan(text)
    assert len(caught.value.problems) == 1


def test_errors_come_one_a_request_and_then_no_more() -> None:
    """Each request meets the next error; an entry with times serves so many, times 0 all that follow."""
    errors: tuple[str | Fault, ...] = ("InternalServerError", Fault(code="SlowDown", times=2), "reset")
    expected = ["InternalServerError", "SlowDown", "SlowDown", "reset", None, None]
    assert answers(FaultPlan(rules=(Rule(errors=errors),)), 6) == expected
    for_ever = Rule(errors=("reset", Fault(kind=Kind.HANG, times=0), "lose_reply"))
    assert answers(FaultPlan(rules=(for_ever,)), 4) == ["reset", "hang", "hang", "hang"]


def test_rules_go_in_order_latencies_add_and_the_first_fault_wins() -> None:
    """Of two rules for a request both latencies count, and the second one's error waits its turn."""
    plan = FaultPlan(
        rules=(
            Rule(latency="20ms", errors=("SlowDown",)),
            Rule(document="AWS-*", latency="1s", errors=("reset",)),
            Rule(document="Other-*", latency="1h", errors=("hang",)),
        )
    )
    injector = Injector(plan, 0)
    first, second = injector.next(UPDATE, 0), injector.next(UPDATE, 0)
    assert (first.latency_ms, second.latency_ms) == (1020, 1020)
    assert first.fault is not None
    assert first.fault.code == "SlowDown"
    assert second.fault is not None
    assert second.fault.kind is Kind.RESET


def test_a_bucket_throttles_beyond_its_burst_and_refills_by_its_rate() -> None:
    """After the burst calls are throttled; half a second at two a second lets one more through."""
    plan = FaultPlan(rules=(Rule(throttle=Throttle(rate=2, burst=3)),))
    injector = Injector(plan, 0)
    throttled = [injector.next(UPDATE, now).fault is not None for now in (0, 0, 0, 0, 499, 500, 500, 100, 600)]
    assert throttled == [False, False, False, True, True, False, True, True, False]


def test_an_outage_is_reckoned_from_the_start_of_the_plan() -> None:
    """Connections are closed from `after` for as long as `for` says, and not at its end."""
    injector = Injector(FaultPlan(outages=(Outage(after="5s", lasting="10s"),)), 1000)
    assert [injector.is_out(now) for now in (1000, 5999, 6000, 15_999, 16_000)] == [
        False,
        False,
        True,
        True,
        False,
    ]


def test_patterns_match_whole_names_with_case() -> None:
    """A pattern means the whole name; what a request does not name matches only the star."""
    assert request_matcher(Match(document="AWS-*", instance_id="i-*"))(UPDATE)
    assert not request_matcher(Match(document="aws-*"))(UPDATE)
    assert not request_matcher(Match(document="AWS"))(UPDATE)
    assert not any_matcher(["?*"])(None)
    assert any_matcher(["*"])(None)
    assert not any_matcher([])("x")


def test_the_effect_of_a_fault_is_its_kinds_unless_it_says_so() -> None:
    """A lost or cut reply was applied, a reset was not, and `effect` overrules either."""
    assert [Fault(kind=kind).applied for kind in Kind if kind is not Kind.ERROR] == [
        False,
        False,
        True,
        False,
        True,
        False,
    ]
    assert Fault(code="InternalServerError", effect=Effect.APPLIED).applied
    assert not Fault(kind=Kind.CUT_200, effect=Effect.NONE).applied


def test_a_clock_may_be_behind() -> None:
    """A negative skew is a clock behind."""
    assert (skew_ms("-10m"), skew_ms("10m")) == (-600_000, 600_000)
