"""What each reply means: the error table, row by row."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssm_status_reporter.domain.association import Association
from ssm_status_reporter.domain.limits import CUT_MARK, ERROR_TEXT_CHARS_MAX, RETRY_AFTER_MS_MAX
from ssm_status_reporter.domain.outcome import (
    Busy,
    Delivered,
    Effect,
    Held,
    HeldNothing,
    NotToBeHad,
    Refused,
    Scope,
    Throttled,
    Unavailable,
    Unchanged,
    Unreachable,
    Unserved,
    Withheld,
)
from ssm_status_reporter.domain.report import Report
from ssm_status_reporter.ssm.answer import CLOCK_SKEW_MS_MIN, Break, broken_off, describe_answer, update_outcome
from ssm_status_reporter.ssm.codes import Operation
from ssm_status_reporter.ssm.text import MASK
from ssm_support import NODE, NOW_MS, error_body, http_date, reply

REFUSING_HTML = b"<html><head><title>Access denied</title></head><body>Ask IT.</body></html>"


def updated(status: int, body: bytes = b"", **more: Any) -> Any:
    return update_outcome(reply(status, body, **more), NODE)


def asked(status: int, body: bytes = b"", **more: Any) -> Any:
    return describe_answer(reply(status, body, **more), NODE)


def test_a_description_acknowledges() -> None:
    """A report counts as delivered when the service describes the association, with the request id for the log."""
    assert updated(200, b'{"AssociationDescription":{}}', x_amzn_requestid="id-1") == Delivered("id-1")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"AssociationDescription":null}',
        b'{"AssociationDescription":{"Na',
        b'{"AssociationDescription":[]}',
        b"[]",
        b"null",
        b"<html>",
        b"\xff\xfe",
        b'{"AssociationDescription":' + b"[" * 100_000,
    ],
)
def test_a_success_without_a_description_is_none(body: bytes) -> None:
    """An empty or cut 200 is tried again, and it is remembered that it may have been applied."""
    outcome = updated(200, body)
    assert isinstance(outcome, Unavailable)
    assert (outcome.effect, outcome.problem.code) == (Effect.POSSIBLE, "NoDescription")
    answer = asked(200, body)
    assert isinstance(answer, Unavailable)
    assert answer.effect is Effect.NONE


def test_unchanged_is_an_acknowledgement() -> None:
    """StatusUnchanged means that the service holds the status already."""
    assert updated(400, error_body("StatusUnchanged"), x_amzn_requestid="id-2") == Unchanged("id-2")


ROWS: list[tuple[int, str, object]] = [
    (400, "TooManyUpdates", Busy),
    (400, "AssociationDoesNotExist", Unserved),
    (400, "InvalidInstanceId", Scope.NODE),
    (400, "InvalidDocument", Refused),
    (400, "ValidationException", Refused),
    (400, "SerializationException", Refused),
    *[
        (400, code, Scope.CREDENTIALS)
        for code in (
            "ExpiredToken",
            "ExpiredTokenException",
            "UnrecognizedClientException",
            "InvalidClientTokenId",
            "MissingAuthenticationToken",
            "MissingAuthenticationTokenException",
            "InvalidSignatureException",
            "SignatureDoesNotMatch",
            "IncompleteSignature",
            "IncompleteSignatureException",
        )
    ],
    (400, "AccessDeniedException", Scope.PERMISSION),
    (403, "AccessDenied", Scope.PERMISSION),
    (400, "RequestExpired", Scope.CLOCK),
    (400, "RequestInTheFuture", Scope.CLOCK),
    (403, "RequestTimeTooSkewed", Scope.CLOCK),
    *[
        (400, code, Throttled)
        for code in (
            "Throttling",
            "ThrottlingException",
            "ThrottledException",
            "RequestThrottledException",
            "TooManyRequestsException",
            "ProvisionedThroughputExceededException",
            "TransactionInProgressException",
            "RequestLimitExceeded",
            "BandwidthLimitExceeded",
            "LimitExceededException",
            "RequestThrottled",
            "SlowDown",
            "PriorRequestNotComplete",
            "EC2ThrottledException",
        )
    ],
    (503, "SlowDown", Throttled),
    (400, "RequestTimeout", Unavailable),
    (400, "RequestTimeoutException", Unavailable),
    (500, "InternalServerError", Unavailable),
    (500, "AccessDeniedException", Unavailable),
    (503, "ServiceUnavailable", Unavailable),
    (504, "Whatever", Unavailable),
    (400, "UnknownOperationException", Unserved),
    (400, "NeverHeardOfIt", Unserved),
    (418, "TeapotException", Unserved),
]


@pytest.mark.parametrize(("status", "code", "meaning"), ROWS, ids=[f"{row[1]}-{row[0]}" for row in ROWS])
def test_each_error_leads_where_the_table_says(status: int, code: str, meaning: object) -> None:
    """Each documented error ends in its row of the table, with code, request id and what to do about it."""
    outcome = updated(status, error_body(code, "as it is"), x_amzn_requestid="id-3")
    assert (outcome.scope if isinstance(outcome, Withheld) else type(outcome)) == meaning
    problem = outcome.problem
    assert (problem.code, problem.message, problem.request_id) == (code, "as it is", "id-3")
    assert problem.hint
    if isinstance(outcome, Unavailable):
        assert outcome.effect is Effect.POSSIBLE


@pytest.mark.parametrize(("status", "code", "meaning"), ROWS, ids=[f"{row[1]}-{row[0]}" for row in ROWS])
def test_a_question_fails_alike(status: int, code: str, meaning: object) -> None:
    """A question fails as an update does, but that a denial or a missing operation only ends the asking."""
    answer = asked(status, error_body(code))
    if (meaning is Scope.PERMISSION or code == "UnknownOperationException") and status < 500:
        assert isinstance(answer, NotToBeHad)
    else:
        assert (answer.scope if isinstance(answer, Withheld) else type(answer)) == meaning


def test_unchanged_answers_no_question() -> None:
    """StatusUnchanged to a question is an error nobody documented, not an acknowledgement."""
    assert isinstance(asked(400, error_body("StatusUnchanged")), Unserved)


def test_an_endpoint_without_the_question_is_not_asked() -> None:
    """501 to a question (an emulator without the operation) ends the asking, not the updates."""
    assert isinstance(asked(501, b"not implemented"), NotToBeHad)
    assert isinstance(updated(501, b"not implemented"), Unavailable)


@pytest.mark.parametrize(
    ("status", "body", "headers", "code"),
    [
        (400, b'{"__type":"com.amazonaws.ssm#InvalidDocument"}', {}, "InvalidDocument"),
        (400, b'{"__type":"InvalidDocument:http://internal/","Message":"m"}', {}, "InvalidDocument"),
        (400, b"{}", {"x_amzn_errortype": "InvalidDocument:"}, "InvalidDocument"),
    ],
)
def test_codes_are_found_in_all_their_forms(status: int, body: bytes, headers: dict[str, str], code: str) -> None:
    """Namespaces and addresses around an error code, or a header that holds it, do not hide it."""
    outcome = updated(status, body, **headers)
    assert isinstance(outcome, Refused)
    assert outcome.problem.code == code


def test_an_error_without_a_message_says_so() -> None:
    """What an operator reads behind the code is never nothing."""
    outcome = updated(400, b'{"__type":"InvalidDocument"}')
    assert isinstance(outcome, Refused)
    assert outcome.problem.message == "HTTP 400 without a message"


@pytest.mark.parametrize("status", [301, 400, 403, 404, 407])
@pytest.mark.parametrize(
    "body", [REFUSING_HTML, b"", b"\xfcberlastet", b"[1]", b'{"__type":5}', b'{"message":"x"}']
)
def test_a_page_that_is_not_the_services_is_the_proxys(status: int, body: bytes) -> None:
    """A proxy's page never kills or parks a report: no way to the service, and the hint names the proxy."""
    for outcome in (updated(status, body), asked(status, body)):
        assert isinstance(outcome, Unreachable)
        assert outcome.problem.code == f"HTTP{status}"
        assert "proxy" in (outcome.problem.hint or "")


def test_no_server_error_says_that_nothing_was_applied() -> None:
    """A gateway's 504 and the service's own 500 may both hide that the service applied the report."""
    for outcome in (updated(504, REFUSING_HTML), updated(500, b"", x_amzn_requestid="id-4")):
        assert isinstance(outcome, Unavailable)
        assert outcome.effect is Effect.POSSIBLE


def test_rate_and_time_limits_without_a_code_are_known_by_their_status() -> None:
    """429 slows down and 408 is tried again, whoever says so."""
    assert isinstance(updated(429, b"slow down"), Throttled)
    assert isinstance(updated(408, b""), Unavailable)


@pytest.mark.parametrize("code", ["InvalidSignatureException", "SignatureDoesNotMatch", "IncompleteSignature"])
@pytest.mark.parametrize("direction", [1, -1])
def test_a_refused_signature_is_the_clocks_fault_when_the_clocks_differ(code: str, direction: int) -> None:
    """With the service's Date minutes away, it is the clock that is put right, not the credentials."""
    apart, near = (direction * skew for skew in (CLOCK_SKEW_MS_MIN + 1000, CLOCK_SKEW_MS_MIN - 1000))
    assert updated(403, error_body(code), date=http_date(NOW_MS + apart)).scope is Scope.CLOCK
    assert updated(403, error_body(code), date=http_date(NOW_MS + near)).scope is Scope.CREDENTIALS
    # Signed with the correction already, the same reply means what it says.
    corrected = updated(403, error_body(code), date=http_date(NOW_MS + apart), correction_ms=apart)
    assert corrected.scope is Scope.CREDENTIALS


@pytest.mark.parametrize(
    "message",
    [
        "Signature expired: 20261122T132353Z is now earlier than 20261122T133000Z (20261122T133500Z - 5 min.)",
        "Signature not yet current: 20261122T142353Z is still later than 20261122T132853Z",
    ],
)
def test_a_refused_signature_is_the_clocks_fault_when_the_service_says_so(message: str) -> None:
    """The service's own words suffice where a reply has no Date."""
    assert updated(403, error_body("InvalidSignatureException", message)).scope is Scope.CLOCK


def test_a_denial_names_what_to_allow() -> None:
    """The hint to a denial is the IAM action with its resources, for an instance and for a hybrid machine."""
    on_instance = updated(400, error_body("AccessDeniedException")).problem.hint
    assert "ssm:UpdateAssociationStatus" in on_instance
    assert "instance/i-0123456789abcdef0" in on_instance
    assert "document/Deploy-Web" in on_instance
    hybrid = Association("mi-0123456789abcdef0", "arn:aws:ssm:eu-west-1:123456789012:document/Shared-Doc")
    answer = describe_answer(reply(400, error_body("AccessDeniedException")), hybrid)
    assert isinstance(answer, NotToBeHad)
    assert answer.problem.hint is not None
    assert "ssm:DescribeAssociation" in answer.problem.hint
    assert "managed-instance/mi-0123456789abcdef0 and document/Shared-Doc" in answer.problem.hint


def test_hints_name_the_documented_causes() -> None:
    """What an operator reads for the two errors of a set-up is what the API documents about them."""
    assert "InstanceId parameter" in updated(400, error_body("AssociationDoesNotExist")).problem.hint
    assert "SSM Agent" in updated(400, error_body("InvalidInstanceId")).problem.hint


@pytest.mark.parametrize(
    ("given_header", "expected_ms"),
    [
        ("7", 7000),
        (" 0 ", 0),
        (http_date(NOW_MS + 90_000), 90_000),
        (http_date(NOW_MS - 90_000), 0),
        ("99999", RETRY_AFTER_MS_MAX),
        ("9" * 5000, RETRY_AFTER_MS_MAX),
        (http_date(NOW_MS + 86_400_000), RETRY_AFTER_MS_MAX),
        ("-5", None),
        ("soon", None),
        ("٣", None),
        ("Mon, 99 Foo 2026 99:99:99 GMT", None),
        (None, None),
    ],
)
def test_retry_after_is_a_bounded_number_of_milliseconds(
    given_header: str | None, expected_ms: int | None
) -> None:
    """A Retry-After in seconds or as a date is kept, up to an hour; nonsense is none."""
    headers = {"date": http_date(NOW_MS)} | ({} if given_header is None else {"retry_after": given_header})
    for outcome in (
        updated(400, error_body("ThrottlingException"), **headers),
        updated(503, error_body("ServiceUnavailable"), **headers),
        updated(503, REFUSING_HTML, **headers),
    ):
        assert outcome.retry_after_ms == expected_ms


@pytest.mark.parametrize("kind", list(Break))
def test_only_what_may_have_been_read_may_have_been_applied(kind: Break) -> None:
    """Without a connection nothing was sent; after sending, the report may have been applied."""
    outcome = broken_off(kind, "OSError: it broke", Operation.UPDATE)
    assert outcome.problem.code == kind.value
    assert outcome.problem.hint
    if kind in (Break.TIMEOUT, Break.LOST, Break.OVERSIZED):
        assert isinstance(outcome, Unavailable)
        assert outcome.effect is Effect.POSSIBLE
    else:
        assert isinstance(outcome, Unreachable)


def test_a_lost_question_changed_nothing() -> None:
    """A question without a reply leaves no doubt about what the service holds."""
    answer = broken_off(Break.TIMEOUT, "", Operation.DESCRIBE)
    assert isinstance(answer, Unavailable)
    assert answer.effect is Effect.NONE


def test_the_held_status_is_read_exactly() -> None:
    """The status that the service holds comes back whole, names included that the API's model lacks."""
    status = {"Name": "InProgress", "Date": 1795000000.355, "Message": "m", "AdditionalInfo": "a"}
    body = json.dumps({"AssociationDescription": {"Name": "n", "Status": status, "Overview": {}}}).encode()
    assert asked(200, body) == Held(Report("InProgress", "m", "a", 1795000000355))
    whole_second = json.dumps(
        {"AssociationDescription": {"Status": {"Name": "Failed", "Date": 1795000000}}}
    ).encode()
    assert asked(200, whole_second) == Held(Report("Failed", "", None, 1795000000000))


def test_an_association_without_status_holds_nothing() -> None:
    """A fresh association has no status yet, which is an answer."""
    assert asked(200, b'{"AssociationDescription":{"Name":"n"}}') == HeldNothing()


@pytest.mark.parametrize("date", ["null", '"yesterday"', "1e308", "-1e300", "[]"])
def test_a_held_date_that_is_none_is_no_answer(date: str) -> None:
    """A description whose date cannot be read is asked for again, not guessed at."""
    body = f'{{"AssociationDescription":{{"Status":{{"Name":"Failed","Date":{date}}}}}}}'.encode()
    assert isinstance(asked(200, body), Unavailable)


TOKEN = "IQoJb3JpZ2luX2VjE" + "Aq/+" * 90
SECRETS = [
    (
        f"Authorization header requires 'Credential' parameter. Authorization=AWS4-HMAC-SHA256 "
        f"Credential={TOKEN}/a, SignedHeaders=host;x-amz-date, Signature={'ab' * 32}"
    ),
    f"The Canonical String should have been 'POST\n/\n\nhost:x\nx-amz-security-token:{TOKEN}\n\nhost'",
    f"'{TOKEN}' is no token",
    f'X-Amz-Security-Token: "{TOKEN}"',
    "Proxy-Authorization: Basic dXNlcjpoaWRkZW4= was refused",
    "could not connect to http://user:hidden@proxy:3128/",
]


@pytest.mark.parametrize("message", SECRETS)
def test_no_secret_is_repeated(message: str) -> None:
    """Error texts that quote the signature, the session token or a proxy's password are masked."""
    for text in (
        updated(400, error_body("IncompleteSignature", message)).problem.message,
        updated(407, message.encode()).problem.message,
        broken_off(Break.PROXY, message, Operation.UPDATE).problem.message,
    ):
        assert MASK in text
        for secret in ("IQoJb3JpZ2lu", "abababab", "hidden", "dXNlcjpoaWRkZW4"):
            assert secret not in text


def test_a_page_of_one_long_word_costs_no_more_than_one_of_many() -> None:
    """A proxy's page with a picture in it does not hold up the event loop: its length alone counts."""

    def seconds(body: bytes) -> float:
        began = time.process_time()
        updated(403, body)
        return time.process_time() - began

    words, word = b"<p>no " * 2000, b"a" * 12_000  # as many characters; of such a word each could begin a scheme
    assert min(seconds(word) for _ in range(3)) < 20 * min(seconds(words) for _ in range(3))


def test_words_that_only_sound_secret_are_kept() -> None:
    """The service's remark about a signature's time stays readable."""
    message = "Signature expired: 20261122T132353Z is now earlier than 20261122T133000Z"
    assert updated(403, error_body("InvalidSignatureException", message)).problem.message == message


@given(st.text())
def test_error_texts_are_one_short_printable_line(message: str) -> None:
    """Whatever the service writes, a log line stays one line: no control characters, no endless text."""
    text = updated(400, error_body("ValidationException", message * 60)).problem.message
    assert text.isprintable()
    assert len(text) <= ERROR_TEXT_CHARS_MAX


def test_a_long_text_is_cut_visibly() -> None:
    """What was cut says so."""
    text = updated(400, error_body("ValidationException", "too long " * 100)).problem.message
    assert len(text) == ERROR_TEXT_CHARS_MAX
    assert text.endswith(CUT_MARK)


@given(st.integers(200, 599), st.binary(), st.text(), st.text())
def test_nothing_a_reply_holds_raises(status: int, body: bytes, date: str, errortype: str) -> None:
    """Any status, any bytes and any header lead to some outcome."""
    headers = {"date": date, "retry_after": date, "x_amzn_errortype": errortype, "x_amzn_requestid": errortype}
    updated(status, body, **headers)
    asked(status, body, **headers)
