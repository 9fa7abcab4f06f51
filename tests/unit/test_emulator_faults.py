"""The fault plan: decoding with every error told, and what it counts."""

import pytest

from ssm_status_reporter.config.errors import BadConfiguration
from ssm_status_reporter.emulator.faults import (
    EXAMPLE,
    Effect,
    Fault,
    FaultPlan,
    Kind,
    Match,
    Outage,
    Rule,
    Throttle,
    skew_ms,
)
from ssm_status_reporter.emulator.injector import Injector, Request, any_matcher, request_matcher
from ssm_status_reporter.emulator.plan_file import parse_plan

UPDATE = Request("UpdateAssociationStatus", "i-0123456789abcdef0", "AWS-RunPatchBaseline")


def answers(plan: FaultPlan, requests: int) -> list[str | None]:
    """The codes or kinds that so many equal requests meet, all at once."""
    injector = Injector(plan, 0)
    faults = [injector.next(UPDATE, 0).fault for _ in range(requests)]
    return [None if fault is None else fault.code or fault.kind for fault in faults]


def test_the_example_that_help_shows_is_a_plan() -> None:
    """A user who copies the example from --help gets no complaint, and each kind of fault is in it."""
    plan = parse_plan(EXAMPLE, "faults.yaml")
    written = {entry if isinstance(entry, str) else entry.code or entry.kind for entry in plan.rules[2].errors}
    assert set(Kind) - {Kind.ERROR} <= written
    assert all(f"\n{key}:" in f"\n{EXAMPLE}" for key in FaultPlan.__struct_fields__)


def test_an_empty_file_is_a_healthy_service() -> None:
    """An empty faults file, or one whose sections have all their keys commented out, means no faults."""
    assert parse_plan("", "faults.yaml") == FaultPlan()
    assert parse_plan("rules:\nnodes:\n  # invalid: [i-*]\n", "faults.yaml") == FaultPlan()


def test_every_error_is_told_with_its_line_its_key_path_and_what_to_write() -> None:
    """A user sees all mistakes of a faults file at once, each where it is and what it is close to."""
    with pytest.raises(BadConfiguration) as caught:
        parse_plan(
            """
compare: messages
compares: status
associations: [{instance_id: i-1}]
documents: {invalid: [17]}
clock_skew: 5
outages: [{after: 5s, for: 1.5s}]
rules:
  - {latency: soon, throttle: {rate: 0}, document: 2026}
  - {latency: -1s, latency: 1s, throttle: 5}
  - errors: [resett, {kind: hang, status: 500}, {}, {code: SlowDown, times: -1}, {code: slow}, {kind: hanged}]
  - no
""",
            "faults.yaml",
        )
    code = "an error code, such as InternalServerError"
    kinds = "reset, hang, lose_reply, empty_200, cut_200, html"
    pair = "name either an error code (code: ThrottlingException) or a kind other than error (kind: hang)"
    duration = "write a whole number and one of ms, s, m, h, such as 2s"
    assert str(caught.value).splitlines() == [
        (
            "faults.yaml:2: compare: must be one of status, status+message, status+message+additional_info, "
            "not 'messages' (did you mean `status+message`?)"
        ),
        "faults.yaml:3: compares: unknown key (did you mean `compare`?)",
        "faults.yaml:4: associations[0].document: required",
        "faults.yaml:5: documents.invalid[0]: must be a text, and YAML reads it as 17 (a number to YAML) (quote it)",
        "faults.yaml:6: clock_skew: must be a duration with its unit, not 5 (a number to YAML) (write 5s or 5ms)",
        f"faults.yaml:7: outages[0].for: not a duration: '1.5s' ({duration})",
        f"faults.yaml:9: rules[0].latency: not a duration: 'soon' ({duration})",
        "faults.yaml:9: rules[0].throttle.rate: Expected `float` > 0.0, and this is 0 (a number to YAML)",
        "faults.yaml:9: rules[0].document: must be a text, and YAML reads it as 2026 (a number to YAML) (quote it)",
        "faults.yaml:10: rules[1].latency: must not be negative: -1s",
        "faults.yaml:10: rules[1].latency: set twice (remove one of them)",
        "faults.yaml:10: rules[1].throttle: must be a section, not 5 (a number to YAML)",
        (
            f"faults.yaml:11: rules[2].errors[0]: must be {code}, or one of {kinds} or a section, not 'resett' "
            "(did you mean `reset`?)"
        ),
        "faults.yaml:11: rules[2].errors[1]: hang has no status",
        f"faults.yaml:11: rules[2].errors[2]: {pair}",
        "faults.yaml:11: rules[2].errors[3].times: Expected `int` >= 0, and this is -1 (a number to YAML)",
        f"faults.yaml:11: rules[2].errors[4].code: must be {code}, not 'slow'",
        (
            f"faults.yaml:11: rules[2].errors[5].kind: must be one of error, {kinds}, not 'hanged' "
            "(did you mean `hang`?)"
        ),
        "faults.yaml:12: rules[3]: must be a section, not no (false to YAML)",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- 1", "f:1: must be a section, not a list"),
        ("5", "f:1: must be a section, not 5 (a number to YAML)"),
        ("rules: {}", "f:1: rules: must be a list, not a section"),
        ("associations: some", "f:1: associations: must be any or a list, not 'some'"),
        ("rules: [", "f:1: not YAML: "),
        ("nodes: *others", "f:1: not YAML: aliases"),
        ("clock_skew: -999999h", "f:1: clock_skew: at most 87840h either way"),
    ],
)
def test_what_is_no_plan_is_refused(text: str, told: str) -> None:
    """A faults file of the wrong form, or that asks for the impossible, is one error with a reason, not a traceback."""
    with pytest.raises(BadConfiguration) as caught:
        parse_plan(text, "f")
    (line,) = str(caught.value).splitlines()
    assert line.startswith(told)


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
