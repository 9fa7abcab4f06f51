"""What a result is, and what is refused: the bytes of a file or message against the result format."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssm_status_reporter import __version__
from ssm_status_reporter.domain.association import Association
from ssm_status_reporter.domain.limits import CUT_MARK, JSON_DEPTH_MAX, STATUS_TEXT_CHARS_MAX
from ssm_status_reporter.domain.report import RUN_STATUSES, Status
from ssm_status_reporter.domain.result import Edge, Refusal, Result, Writer
from ssm_status_reporter.sources.decode import FIELDS, Origin, Undecodable, decode
from ssm_status_reporter.sources.quoting import quoted

NODE = "i-0123456789abcdef0"
OTHER = "mi-0123456789abcdef0"
ORIGIN = Origin(source="results_directory", instance_id=NODE, observed_at_ms=5000)
GOOD: dict[str, object] = {"document": "My-Doc", "status": "Success"}


def result_of(origin: Origin = ORIGIN, **members: object) -> Result:
    verdict = decode(json.dumps(GOOD | members).encode(), origin)
    assert isinstance(verdict, Result), verdict
    return verdict


def refusal_of(payload: bytes | dict[str, object], origin: Origin = ORIGIN) -> Refusal:
    verdict = decode(payload if isinstance(payload, bytes) else json.dumps(payload).encode(), origin)
    assert isinstance(verdict, Refusal), verdict
    return verdict


def with_info(json_text: str) -> bytes:
    return b'{"document":"My-Doc","status":"Success","additional_info":' + json_text.encode() + b"}"


def test_the_least_result() -> None:
    """A document and a status are enough: everything else has a default."""
    result = result_of()
    assert result.association == Association(NODE, "My-Doc")
    assert result.report.status == "Success"
    assert result.report.message == "My-Doc: Success"
    assert json.loads(result.report.additional_info or "") == {
        "reporter": f"ssm-status-reporter/{__version__}",
        "source": "results_directory",
        "run_status": "Success",
    }
    assert " " not in (result.report.additional_info or "")
    assert result.report.observed_at_ms == 5000
    assert result.source == "results_directory"
    assert result.writer is Writer.SOLE
    assert result.edge is Edge.LEADING


@pytest.mark.parametrize(("given", "sent"), RUN_STATUSES.items())
def test_each_run_status_is_reported_as_what_the_service_knows(given: str, sent: Status) -> None:
    """TimedOut arrives as Failed; the message and the additional information still say TimedOut."""
    report = result_of(status=given).report
    assert report.status == sent.value
    assert report.message == f"My-Doc: {given}"
    assert json.loads(report.additional_info or "")["run_status"] == given


def test_every_field_given() -> None:
    """What a result says is what is reported."""
    result = result_of(
        message="all well ✓",
        additional_info={"exit": 0, "steps": ["a", {"b": None}], "ratio": 0.1},
        observed_at="2026-11-22T12:00:00.123+01:00",
        instance_id=NODE,
    )
    assert result.report.message == "all well ✓"
    assert result.report.additional_info == '{"exit":0,"steps":["a",{"b":null}],"ratio":0.1}'
    assert result.report.observed_at_ms == 1795345200123
    assert result.association.instance_id == NODE


def test_an_empty_message_is_the_default_one() -> None:
    """The service wants at least one character."""
    assert result_of(message="").report.message == "My-Doc: Success"


def test_additional_info_as_text() -> None:
    """A text is sent as it is, an empty one included."""
    assert result_of(additional_info="exit 3").report.additional_info == "exit 3"
    assert result_of(additional_info="").report.additional_info == ""


def test_what_is_too_long_is_cut_visibly() -> None:
    """1,024 characters pass whole; one more, and the reader sees that something is missing."""
    whole = "é" * STATUS_TEXT_CHARS_MAX
    assert result_of(message=whole, additional_info=whole).report.message == whole
    report = result_of(message=whole + "x", additional_info={"log": whole}).report
    for text in (report.message, report.additional_info or ""):
        assert len(text) == STATUS_TEXT_CHARS_MAX
        assert text.endswith(CUT_MARK)


def test_a_document_may_be_an_arn() -> None:
    """A shared document is named by its ARN."""
    arn = "arn:aws:ssm:eu-central-1:123456789012:document/My-Doc"
    assert result_of(document=arn).association.document == arn


@pytest.mark.parametrize("document", ["", "ab", "a" * 129, "my doc", "My-Doc\n", "Dök", "a/../b!"])
def test_a_name_that_no_document_has(document: str) -> None:
    """A name outside the service's pattern is refused before anything is stored."""
    refusal = refusal_of(GOOD | {"document": document})
    assert refusal.field == "document"
    assert "not the name or ARN" in refusal.reason


def test_a_missing_field_is_named() -> None:
    """Document and status are required."""
    assert str(refusal_of(b'{"status":"Success"}')) == "document: is missing; it is required"
    assert str(refusal_of(b'{"document":"My-Doc"}')) == "status: is missing; it is required"


@pytest.mark.parametrize(
    ("field", "meant"),
    [
        ("observedAt", "observed_at"),
        ("Status", "status"),
        ("documnet", "document"),
        ("additional-info", "additional_info"),
    ],
)
def test_a_misspelt_field_is_told_the_right_one(field: str, meant: str) -> None:
    """A misspelt field is refused, not lost in silence, and the author is told what was meant."""
    refusal = refusal_of(GOOD | {field: "x"})
    assert refusal.field == field
    assert f"did you mean {meant}?" in refusal.reason


def test_a_field_nobody_knows_is_told_all() -> None:
    """Nothing near: the fields there are."""
    assert all(name in refusal_of(GOOD | {"zzz": 1}).reason for name in FIELDS)


@pytest.mark.parametrize(
    ("status", "meant"), [("success", "Success"), ("TimeOut", "TimedOut"), ("FAILED", "Failed")]
)
def test_a_misspelt_status_is_told_the_right_one(status: str, meant: str) -> None:
    """A status is exact; what is near is proposed, never assumed."""
    refusal = refusal_of(GOOD | {"status": status})
    assert refusal.field == "status"
    assert f"did you mean {meant}?" in refusal.reason


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(
    ("value", "kind"),
    [(None, "null"), (True, "true"), (7, "a number"), (1.5, "a number"), ([], "an array"), ({}, "an object")],
)
def test_a_wrong_type_is_refused(field: str, value: object, kind: str) -> None:
    """A number is no text and null is not nothing: each is refused by name."""
    if (field, kind) == ("additional_info", "an object"):
        return
    refusal = refusal_of(GOOD | {field: value})
    assert refusal.field == field
    assert refusal.reason.startswith(f"is {kind}, not a text")


@pytest.mark.parametrize(
    "payload", [b"[]", b'"Success"', b"7", b"null", b"true", b'[{"document":"My-Doc","status":"Success"}]']
)
def test_a_result_is_one_object(payload: bytes) -> None:
    """Anything else that is JSON is refused."""
    assert "a result is one JSON object" in refusal_of(payload).reason


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        (b'{"document":"My-Doc","status":"Success","status":"Failed"}', "status"),
        (b'{"document":"My-Doc","status":"Success","status":"Success"}', "status"),
        (with_info('{"a":1,"a":2}'), "additional_info"),
        (with_info('{"x":[{"y":{"status":1,"status":2}}]}'), "additional_info"),
    ],
)
def test_a_duplicate_key_is_refused_at_any_depth(payload: bytes, field: str) -> None:
    """Readers differ in which of the two counts, so neither does."""
    refusal = refusal_of(payload)
    assert refusal.field == field
    assert "more than once" in refusal.reason


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "[1,NaN]", '{"x":NaN}', '{"x":[Infinity]}'])
def test_what_only_javascript_knows_is_refused(literal: str) -> None:
    """NaN and Infinity are no JSON, whatever json.dumps wrote."""
    refusal = refusal_of(with_info(literal))
    assert refusal.field == "additional_info"


@pytest.mark.parametrize("literal", ['{"x":1e999}', '{"x":-1e999}', '{"x":' + "9" * 5000 + "}"])
def test_a_number_beyond_reading_is_refused(literal: str) -> None:
    """A number that would arrive as another one is not sent."""
    refusal = refusal_of(with_info(literal))
    assert refusal.field == "additional_info"
    assert "write it as a text" in refusal.reason


def test_an_integer_arrives_as_it_was_written() -> None:
    """Identifiers of 19 digits and more keep them all."""
    assert result_of(additional_info={"id": 12345678901234567890123}).report.additional_info == (
        '{"id":12345678901234567890123}'
    )


@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize("levels", [JSON_DEPTH_MAX, 900, 30_000])
def test_depth_is_refused_and_exhausts_nothing(opening: str, levels: int) -> None:
    """A file that nests without end is refused; the daemon lives."""
    closing = {"[": "]", '{"a":': "}"}[opening]
    refusal = refusal_of(with_info(f'{{"x":{opening * levels}1{closing * levels}}}'))
    assert f"deeper than {JSON_DEPTH_MAX}" in refusal.reason


def test_the_depth_that_is_left_decides_nothing() -> None:
    """What `submit` accepts, the daemon accepts: the bound is a number, not what is left of the stack."""
    levels = JSON_DEPTH_MAX - 2
    payload = with_info('{"a":' * levels + "1" + "}" * levels)
    assert isinstance(decode(payload, ORIGIN), Result)

    def from_deeper(frames: int) -> object:
        return decode(payload, ORIGIN) if frames == 0 else from_deeper(frames - 1)

    assert isinstance(from_deeper(300), Result)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b" \n",
        b"{",
        b'{"document":"My-Doc"',
        b'{"document":"My-Doc","status":"Success"',
        '{"document":"My-Doc","message":"é'.encode()[:-1],
        b"hello",
        b"{'document':'My-Doc'}",
        b'{"document":"My-Doc","status":"Success",}',
        b'{"document":"My-Doc","status":"Success"} {}',
        b'{"document":"My-Doc","status":"Success"}}',
        b'{"document":"My-Doc","status":"Success","message":"a\nb"}',
        '{"document":"My-Doc","status":"Success"}'.encode("utf-16"),
        b'{"document":"My-Doc","status":"Success","message":"\xff"}',
        b'{"document":"My-Doc","status":"Success","message":"\xed\xa0\x80"}',
        b"\x00" * 100,
    ],
)
def test_what_cannot_be_decoded_may_be_half_written(payload: bytes) -> None:
    """Bytes that are no JSON text in UTF-8 are told from a result that is wrong: their writer may not be done."""
    assert isinstance(decode(payload, ORIGIN), Undecodable)


def test_no_beginning_of_a_result_is_taken_for_one() -> None:
    """However a file is torn, half of it is neither accepted nor refused for good."""
    payload = json.dumps(GOOD | {"message": "héllo \U0001f600", "additional_info": {"a": [1, "x"]}}).encode()
    for length in range(len(payload)):
        assert isinstance(decode(payload[:length], ORIGIN), Undecodable), payload[:length]
    assert isinstance(decode(payload, ORIGIN), Result)


def test_the_reason_tells_where_the_json_ends() -> None:
    """The author of the file finds the place."""
    verdict = decode(b'{"document":"My-Doc",\n "status":Success}', ORIGIN)
    assert isinstance(verdict, Undecodable)
    assert verdict.refusal.reason == "not JSON: Expecting value, at line 2, column 11"


def test_a_byte_order_mark_is_refused() -> None:
    """Windows tools write one; other readers choke on it."""
    assert "byte order mark" in refusal_of(b"\xef\xbb\xbf" + json.dumps(GOOD).encode()).reason


@pytest.mark.parametrize(
    "field", ["document", "status", "message", "additional_info", "observed_at", "instance_id"]
)
def test_half_of_a_surrogate_pair_is_refused(field: str) -> None:
    """It is no character: it could be neither stored nor sent."""
    assert refusal_of(GOOD | {field: "a\ud800b"}).field == field


def test_half_of_a_surrogate_pair_hides_nowhere() -> None:
    """Nor in a key, nor below the top; a whole pair is a character."""
    assert refusal_of(with_info('{"x":["\\udfff"]}')).field == "additional_info"
    assert refusal_of(with_info('{"\\ud800":1}')).field == "additional_info"
    assert refusal_of(b'{"\\ud800":1}').field == "\\ud800"
    assert result_of(message="\U0001f600").report.message == "\U0001f600"


def test_a_date_without_an_offset_is_refused() -> None:
    """The reason says what to append."""
    refusal = refusal_of(GOOD | {"observed_at": "2026-11-22T12:00:00"})
    assert refusal.field == "observed_at"
    assert "append Z" in refusal.reason


def test_another_node_is_refused_unless_it_is_allowed() -> None:
    """Only a gateway reports for others, and only for those that node.allow names."""
    refusal = refusal_of(GOOD | {"instance_id": OTHER})
    assert refusal.field == "instance_id"
    assert "node.allow" in refusal.reason
    gateway = replace(ORIGIN, allow=("i-9*", "mi-*"))
    assert result_of(gateway, instance_id=OTHER).association.instance_id == OTHER
    assert result_of(gateway, instance_id=NODE).association.instance_id == NODE
    assert refusal_of(GOOD | {"instance_id": OTHER}, replace(ORIGIN, allow=("MI-*", "i-*"))).field == "instance_id"


@pytest.mark.parametrize("instance_id", ["", "i-123", "mi-12345678", "i-0123456789abcdef0\n", "*", "i-é1234567"])
def test_what_no_node_is_called(instance_id: str) -> None:
    """node.allow does not make a node of what is none."""
    refusal = refusal_of(GOOD | {"instance_id": instance_id}, replace(ORIGIN, allow=("*",)))
    assert refusal.field == "instance_id"
    assert "not a managed node" in refusal.reason


def test_the_topic_has_the_last_word() -> None:
    """A payload that names another node than its topic is refused, allowed or not."""
    origin = replace(ORIGIN, instance_id=OTHER, topic_instance_id=OTHER, allow=("*",))
    assert result_of(origin, instance_id=OTHER).association.instance_id == OTHER
    assert result_of(origin).association.instance_id == OTHER
    assert "the topic" in refusal_of(GOOD | {"instance_id": NODE}, origin).reason


def test_only_a_dated_result_leads() -> None:
    """A message without a date may be a redelivery: it never goes out at once."""
    origin = replace(ORIGIN, undated_edge=Edge.TRAILING, writer=Writer.SHARED)
    assert result_of(origin).edge is Edge.TRAILING
    assert result_of(origin).writer is Writer.SHARED
    assert result_of(origin, observed_at="2026-11-22T12:00:00Z").edge is Edge.LEADING


def test_a_reason_is_one_short_line() -> None:
    """A log line and a terminal survive whatever a file quotes."""
    hostile = "\x1b[31m\r\n\u202e" * 50_000
    for members in ({"status": hostile}, {"document": hostile}, {"observed_at": hostile}, {hostile: 1}):
        text = str(refusal_of(GOOD | members))
        assert text.isprintable()
        assert len(text) < 1000
    assert quoted("a\nb") == r"'a\nb'"
    assert quoted("x" * 100) == f"'{'x' * 30}…{'x' * 30}' (100 characters)"


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_no_bytes_raise(payload: bytes) -> None:
    """Whatever lands in the directory, the daemon lives."""
    assert isinstance(decode(payload, ORIGIN), Refusal | Undecodable)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.dictionaries(st.sampled_from(FIELDS), JSON | st.sampled_from(list(RUN_STATUSES))))
def test_what_is_accepted_can_be_sent(members: dict[str, object]) -> None:
    """Whatever a result holds, what comes of it is within the service's limits and can be encoded."""
    verdict = decode(json.dumps(GOOD | members).encode(), ORIGIN)
    if isinstance(verdict, Result):
        assert 1 <= len(verdict.report.message) <= STATUS_TEXT_CHARS_MAX
        assert len(verdict.report.additional_info or "") <= STATUS_TEXT_CHARS_MAX
        (verdict.report.message + (verdict.report.additional_info or "")).encode()
    else:
        assert isinstance(verdict, Refusal)
