"""The SSM client over real HTTP, against a service that answers by script."""

import asyncio
import json
import resource
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from ssm_status_reporter import __version__
from ssm_status_reporter.domain.limits import REPLY_BYTES_MAX
from ssm_status_reporter.domain.outcome import (
    Delivered,
    Effect,
    Held,
    HeldNothing,
    Scope,
    Unavailable,
    Unchanged,
    Unreachable,
    Withheld,
)
from ssm_status_reporter.ports import StatusService
from ssm_status_reporter.ssm.client import SsmClient
from ssm_status_reporter.ssm.credentials_watch import CredentialsWatch
from ssm_support import (
    NODE,
    NOW_MS,
    REPORT,
    REQUEST_ID,
    SECRET,
    TOKEN,
    WAIT_SECONDS_MAX,
    Script,
    Service,
    SetClock,
    answer,
    bare_environment,
    close,
    described,
    error,
    free_port,
    hang,
    remove,
    reset,
    service,
    settings,
    when,
    write,
    write_keys,
)

MINUTE_MS = 60_000
CONTAINER_KEYS = {
    "AccessKeyId": "ASIACONTAINER",
    "SecretAccessKey": "made-up",
    "Token": "made-up",
    "Expiration": "2999-01-01T00:00:00Z",
}
SOCKET_BYTES_MAX = 64 * 1024 * 1024
"""More than sockets keep of what nobody reads."""


@pytest.fixture(autouse=True)
def credentials_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with one set of keys, in a shared credentials file, and no other SDK configuration."""
    path = bare_environment(monkeypatch, tmp_path)
    write_keys(path, "ASIAFIRST")
    return path


async def test_a_report_arrives_whole_and_signed() -> None:
    """The service gets the report to the millisecond, signed by our keys at our clock, and knows who calls."""
    async with service(described()) as ssm, SsmClient(settings(ssm.url), SetClock()) as client:
        port: StatusService = client
        assert await port.update(NODE, REPORT) == Delivered(REQUEST_ID)
        (request,) = ssm.requests
        assert request.headers["x-amz-target"] == "AmazonSSM.UpdateAssociationStatus"
        assert request.headers["x-amz-date"] == "20261118T110640Z"
        assert "/eu-central-1/ssm/aws4_request" in request.headers["authorization"]
        assert request.headers["x-amz-security-token"] == TOKEN
        assert request.signed_by("ASIAFIRST", SECRET, TOKEN)
        assert not request.signed_by("ASIAFIRST", "another", TOKEN)
        assert request.headers["user-agent"].startswith(f"ssm-status-reporter/{__version__} ")
        assert request.json["AssociationStatus"]["Date"] == 1794999999.355


@pytest.mark.parametrize("token", ["", " padded\tand  spaced ", "{date}{token}", "%s\\1", sha256(b"").hexdigest()])
async def test_any_token_is_signed_as_the_sdk_signs_it(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    """What is signed is formed once: nothing in a token is taken for a part of that form."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOTHER")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", token)
    async with service(described()) as ssm, SsmClient(settings(ssm.url), SetClock()) as client:
        await client.update(NODE, REPORT)
        await client.describe(NODE)
        assert [request.signed_by("AKIAOTHER", SECRET, token) for request in ssm.requests] == [True, True]


async def test_a_question_is_answered_by_what_the_service_holds() -> None:
    """DescribeAssociation tells the held status, or that there is none."""
    status = {"Name": "Failed", "Date": 1795000000.355, "Message": "m", "AdditionalInfo": "a"}
    async with service(described(status), described()) as ssm, SsmClient(settings(ssm.url), SetClock()) as client:
        held = await client.describe(NODE)
        assert isinstance(held, Held)
        assert (held.report.status, held.report.observed_at_ms) == ("Failed", NOW_MS)
        assert await client.describe(NODE) == HeldNothing()
        assert ssm.requests[0].json == {"InstanceId": NODE.instance_id, "Name": NODE.document}
        assert ssm.requests[0].headers["x-amz-target"] == "AmazonSSM.DescribeAssociation"


async def test_unchanged_comes_through() -> None:
    """The service's StatusUnchanged is what the caller gets."""
    async with service(error("StatusUnchanged")) as ssm, SsmClient(settings(ssm.url), SetClock()) as client:
        assert await client.update(NODE, REPORT) == Unchanged(REQUEST_ID)


@pytest.mark.parametrize("script", [error("ServiceUnavailable", status=503), error("ThrottlingException"), close])
async def test_the_sdk_repeats_nothing(script: Any) -> None:
    """One call is one request: repeating is the daemon's business, with its own backoff."""
    async with service(script) as ssm, SsmClient(settings(ssm.url), SetClock()) as client:
        await client.update(NODE, REPORT)
        assert len(ssm.requests) == 1


async def test_calls_share_kept_connections() -> None:
    """Calls one after the other cost one connection."""
    async with service(described()) as ssm, SsmClient(settings(ssm.url), SetClock()) as client:
        for _ in range(5):
            await client.update(NODE, REPORT)
        assert (len(ssm.requests), ssm.connections) == (5, 1)


async def test_a_refused_connection_is_no_reports_fault() -> None:
    """With nobody listening the service is unreachable, and nothing was sent."""
    async with SsmClient(settings(f"http://127.0.0.1:{free_port()}"), SetClock()) as client:
        outcome = await client.update(NODE, REPORT)
    assert isinstance(outcome, Unreachable)
    assert outcome.problem.code == "ConnectionError"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 with its key, signed by nobody known."""
    path = tmp_path_factory.mktemp("tls") / "self-signed.pem"
    made = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=127.0.0.1",
    ]
    named = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(path), "-out", f"{path}.crt"]
    subprocess.run(["openssl", "req", "-x509", *made, *named], check=True, capture_output=True)
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


async def test_a_certificate_that_nobody_vouches_for_is_not_trusted(tls: ssl.SSLContext) -> None:
    """With an unknown certificate no report leaves this machine, and the hint names aws.ca_bundle."""
    async with service(described(), tls=tls) as ssm, SsmClient(settings(ssm.url), SetClock()) as client:
        outcome = await client.update(NODE, REPORT)
        assert ssm.requests == []
    assert isinstance(outcome, Unreachable)
    assert outcome.problem.code == "TLSError"
    assert "aws.ca_bundle" in (outcome.problem.hint or "")


async def test_a_bundle_of_ones_own_is_trusted(tls: ssl.SSLContext, certificate: Path) -> None:
    """With aws.ca_bundle the same endpoint is used."""
    async with service(described(), tls=tls) as ssm:
        client = SsmClient(settings(ssm.url, ca_bundle=certificate), SetClock())
        assert isinstance(await client.update(NODE, REPORT), Delivered)
        await client.close()


async def test_a_missing_bundle_is_said(tls: ssl.SSLContext, tmp_path: Path) -> None:
    """A bundle that is not there is a TLS problem to be mended, not a crash."""
    async with service(described(), tls=tls) as ssm:
        client = SsmClient(settings(ssm.url, ca_bundle=tmp_path / "none.pem"), SetClock())
        outcome = await client.update(NODE, REPORT)
        await client.close()
    assert isinstance(outcome, Unreachable)
    assert outcome.problem.code == "TLSError"
    assert "FileNotFoundError" in outcome.problem.message


@asynccontextmanager
async def impatient_client(url: str, timeout_ms: int = 2000) -> AsyncIterator[SsmClient]:
    """A client with a short timeout that has made all it needs: a slow machine takes longer for that."""
    async with SsmClient(settings(url, timeout_ms=timeout_ms), SetClock()) as client:
        await client._opened()
        await client.credentials.keys()
        yield client


async def test_a_service_that_never_answers_is_given_up() -> None:
    """A hanging call ends within its timeout, and may have been applied."""
    async with service(hang) as ssm, impatient_client(ssm.url) as client:
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            outcome = await client.update(NODE, REPORT)
    assert isinstance(outcome, Unavailable)
    assert (outcome.problem.code, outcome.effect) == ("Timeout", Effect.POSSIBLE)


async def test_a_service_that_trickles_is_given_up() -> None:
    """A reply that comes byte by byte does not stretch a call beyond its timeout."""

    async def trickle(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with service(trickle) as ssm, impatient_client(ssm.url) as client:
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            outcome = await client.update(NODE, REPORT)
    assert isinstance(outcome, Unavailable)
    assert outcome.problem.code == "Timeout"


def begun(then: Script, head: bytes = b"Content-Length: 900") -> Script:
    """A reply that begins as it should."""

    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n" + head + b'\r\n\r\n{"Assoc')
        await writer.drain()
        await then(writer)

    return script


@pytest.mark.parametrize(
    "script",
    [
        close,
        reset,
        begun(close),
        begun(reset),
        begun(hang, b"Transfer-Encoding: chunked"),
    ],
    ids=["close", "reset", "cut", "reset in mid-reply", "garbled"],
)
async def test_a_connection_lost_in_mid_call_leaves_it_open_what_happened(script: Any) -> None:
    """Closed, reset or cut off after the request was sent: tried again, and remembered as possibly applied."""
    async with service(script) as ssm, SsmClient(settings(ssm.url), SetClock()) as client:
        outcome = await client.update(NODE, REPORT)
        assert len(ssm.requests) == 1
    assert isinstance(outcome, Unavailable)
    assert (outcome.problem.code, outcome.effect) == ("ConnectionLost", Effect.POSSIBLE)


class Flood:
    """A reply without an end, as long as somebody takes it."""

    def __init__(self, head: bytes, part: bytes) -> None:
        self.head = head
        self.part = part
        self.taken_bytes = 0
        self.ended = asyncio.Event()

    async def __call__(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n" + self.head + b"\r\n\r\n")
        try:
            while True:
                writer.write(self.part)
                await writer.drain()
                self.taken_bytes += len(self.part)
        finally:
            self.ended.set()


@pytest.mark.parametrize(
    ("head", "part"),
    [
        (b"Content-Length: 99999999999", b" " * 65536),
        (b"Transfer-Encoding: chunked", b"10000\r\n" + b" " * 65536 + b"\r\n"),
        (b"Connection: close", b" " * 65536),
    ],
    ids=["declared", "chunked", "until it closes"],
)
async def test_a_reply_without_an_end_is_given_up(head: bytes, part: bytes) -> None:
    """Not the service: no more is read than a bound, the connection is closed, and the call is tried again."""
    flood = Flood(head, part)
    async with service(flood, described()) as ssm, SsmClient(settings(ssm.url), SetClock()) as client:
        outcome = await client.update(NODE, REPORT)
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            await flood.ended.wait()
        assert isinstance(await client.update(NODE, REPORT), Delivered)
        assert ssm.connections == 2
    assert isinstance(outcome, Unavailable)
    assert (outcome.problem.code, outcome.effect) == ("ReplyTooLarge", Effect.POSSIBLE)
    assert "aws.endpoint_url" in (outcome.problem.hint or "")
    assert flood.taken_bytes < REPLY_BYTES_MAX + SOCKET_BYTES_MAX


async def test_a_reply_up_to_the_bound_is_read_whole() -> None:
    """The longest that is read is a reply like any other: its connection is kept."""
    body = b'{"AssociationDescription":{}}'.ljust(REPLY_BYTES_MAX)
    chunked = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0" % (len(body), body)

    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n" + chunked + b"\r\n\r\n")
        await writer.drain()

    async with service(answer(200, body), script) as ssm, SsmClient(settings(ssm.url), SetClock()) as client:
        for _ in range(3):
            assert isinstance(await client.update(NODE, REPORT), Delivered)
        assert (len(ssm.requests), ssm.connections) == (3, 1)


@pytest.mark.parametrize(
    "body",
    [b"", b"[1,2]", b"null", b'"text"', b'{"__type":7,"message":[]}', b"\xff\xfe", b'{"Associat', b"<html>"],
)
@pytest.mark.parametrize("status", [200, 300, 400, 403, 407, 500, 503])
async def test_no_reply_raises(status: int, body: bytes) -> None:
    """What makes the SDK's own parser raise is an outcome here, like everything else."""
    async with service(answer(status, body)) as ssm, SsmClient(settings(ssm.url), SetClock()) as client:
        for outcome in (await client.update(NODE, REPORT), await client.describe(NODE)):
            assert isinstance(outcome, Unreachable if 300 <= status < 500 else Unavailable)


async def test_headers_in_another_encoding_do_not_raise() -> None:
    """A proxy's header that is not UTF-8 ends the call, not the daemon."""
    page = answer(407, b"<html>", {"X-Reason": "\xfcberlastet"})
    async with service(page) as ssm, SsmClient(settings(ssm.url), SetClock()) as client:
        assert isinstance(await client.update(NODE, REPORT), Unavailable | Unreachable)


async def test_a_proxy_that_refuses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that wants a login makes the service unreachable; its password is in no text."""
    async with service(answer(407, b"<html>login</html>")) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", "//user:hidden@"))
        async with SsmClient(settings(None), SetClock()) as client:
            outcome = await client.update(NODE, REPORT)
        assert proxy.connections == 1
    assert isinstance(outcome, Unreachable)
    assert outcome.problem.code == "ProxyError"
    assert "HTTPS_PROXY" in (outcome.problem.hint or "")
    assert "hidden" not in outcome.problem.message


async def test_settings_that_the_sdk_cannot_use_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """An impossible combination in the environment holds the endpoint and says which it is."""
    monkeypatch.setenv("AWS_USE_FIPS_ENDPOINT", "true")
    monkeypatch.setenv("AWS_USE_DUALSTACK_ENDPOINT", "nonsense")
    async with SsmClient(settings("not a url"), SetClock()) as client:
        outcome = await client.update(NODE, REPORT)
    assert isinstance(outcome, Withheld)
    assert outcome.scope is Scope.ENDPOINT
    assert "not a url" in outcome.problem.message


@pytest.mark.parametrize("line", ["s3 =", "defaults_mode =\n  a = b"])
async def test_a_configuration_file_that_the_sdk_chokes_on_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str
) -> None:
    """An empty value, or a section where a text is due, holds the endpoint; the file, mended, is read again."""
    path = tmp_path / "config"
    monkeypatch.setenv("AWS_CONFIG_FILE", str(path))
    write(path, f"[default]\n{line}\n")
    async with service(described()) as ssm, SsmClient(settings(ssm.url), SetClock()) as client:
        outcome = await client.update(NODE, REPORT)
        assert isinstance(outcome, Withheld)
        assert outcome.scope is Scope.ENDPOINT
        assert "~/.aws/config" in (outcome.problem.hint or "")
        write(path, "[default]\n")
        assert isinstance(await client.update(NODE, REPORT), Delivered)


async def test_a_home_that_nobody_knows_is_no_reason_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a home, as in many a container, has keys from elsewhere: the SDK does without one too."""
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "~nobody-of-this-name/.aws/credentials")
    monkeypatch.setenv("AWS_CONFIG_FILE", "~nobody-of-this-name/.aws/config")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAELSEWHERE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    async with service(described()) as ssm, SsmClient(settings(ssm.url), SetClock()) as client:
        CredentialsWatch(SetClock(), client.reload_credentials)
        assert isinstance(await client.update(NODE, REPORT), Delivered)


async def test_a_machine_without_free_descriptors_holds_the_endpoint_until_there_are_some() -> None:
    """The SDK cannot read its files then: said with the reason, and the next call goes out."""
    async with service(described()) as ssm, SsmClient(settings(ssm.url), SetClock()) as client:
        with no_more_descriptors():
            outcome = await client.update(NODE, REPORT)
        assert isinstance(outcome, Withheld)
        assert outcome.scope is Scope.ENDPOINT
        assert outcome.problem.code == "FilesUnreadable"
        assert "Too many open files" in outcome.problem.message
        assert "limit of open files" in (outcome.problem.hint or "")
        assert isinstance(await client.update(NODE, REPORT), Delivered)


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    """This process may open no file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_cancellation_passes() -> None:
    """A daemon that stops is not held up: a cancelled call ends as cancelled."""
    async with service(hang) as ssm, SsmClient(settings(ssm.url), SetClock()) as client:
        call = asyncio.create_task(client.update(NODE, REPORT))
        await ssm.wait_for_requests(1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_closing_ends_what_is_under_way() -> None:
    """A client closed in mid-call ends that call as one whose connection was lost, and can be used again."""
    async with service(hang, described()) as ssm, SsmClient(settings(ssm.url), SetClock()) as client:
        call = asyncio.create_task(client.update(NODE, REPORT))
        await ssm.wait_for_requests(1)
        await client.close()
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            outcome = await call
        assert isinstance(outcome, Unavailable)
        assert outcome.effect is Effect.POSSIBLE
        assert isinstance(await client.update(NODE, REPORT), Delivered)


class TestClock:
    """The signature's time."""

    async def test_a_wrong_clock_is_measured_and_corrected(self) -> None:
        """Ten minutes off, the first call is withheld, the next signed with the service's time; said once."""
        clock = SetClock(NOW_MS - 10 * MINUTE_MS)
        expired = error("InvalidSignatureException", "Signature expired: 1 is now earlier than 2", status=403)
        later = described(date_ms=NOW_MS + MINUTE_MS // 2)
        async with service(expired, described(), later) as ssm, SsmClient(settings(ssm.url), clock) as client:
            with capture_logs() as logs:
                outcome = await client.update(NODE, REPORT)
                assert isinstance(outcome, Withheld)
                assert outcome.scope is Scope.CLOCK
                assert isinstance(await client.update(NODE, REPORT), Delivered)
                await client.update(NODE, REPORT)
            dates = [request.headers["x-amz-date"] for request in ssm.requests]
            assert dates == ["20261118T105640Z", "20261118T110640Z", "20261118T110640Z"]
            assert ssm.requests[1].signed_by("ASIAFIRST", SECRET, TOKEN)
            corrected = [line["skew_seconds"] for line in logs if line["event"] == "clock skew corrected"]
            assert corrected == [600]
            assert client.measured_skew_ms() == pytest.approx(10.5 * MINUTE_MS, abs=1000)

    async def test_a_clock_put_right_needs_no_correction_any_more(self) -> None:
        """Once the local clock is right the next reply shows it, and calls are signed with it again."""
        clock = SetClock(NOW_MS + 30 * MINUTE_MS)
        async with (
            service(error("RequestInTheFuture"), described()) as ssm,
            SsmClient(settings(ssm.url), clock) as client,
        ):
            await client.update(NODE, REPORT)
            await client.update(NODE, REPORT)
            clock.wall_ms = NOW_MS
            await client.update(NODE, REPORT)
            await client.update(NODE, REPORT)
            dates = [request.headers["x-amz-date"] for request in ssm.requests]
            assert client._correction_ms == 0
            # Refused; corrected; still corrected, on a clock that is right; and not any more.
            assert dates == ["20261118T113640Z", "20261118T110640Z", "20261118T103640Z", "20261118T110640Z"]

    async def test_clocks_that_agree_are_not_corrected(self) -> None:
        """A call that was refused for its age alone (it was held up on the way) does not bend the clock."""
        clock = SetClock(NOW_MS - MINUTE_MS // 2)
        async with service(error("RequestExpired")) as ssm, SsmClient(settings(ssm.url), clock) as client:
            for _ in range(2):
                await client.update(NODE, REPORT)
            assert len({request.headers["x-amz-date"] for request in ssm.requests}) == 1

    async def test_a_refusal_without_a_date_corrects_nothing(self) -> None:
        """Where the service's time is unknown the clock hold stands and nothing is guessed."""
        refusal = error("RequestExpired", date_ms=None)
        async with service(refusal) as ssm, SsmClient(settings(ssm.url), SetClock()) as client:
            for _ in range(2):
                outcome = await client.update(NODE, REPORT)
                assert isinstance(outcome, Withheld)
                assert outcome.scope is Scope.CLOCK
            assert len({request.headers["x-amz-date"] for request in ssm.requests}) == 1

    async def test_calls_in_flight_together_are_all_the_clocks_fault(self) -> None:
        """Calls signed before the correction are judged by the time they were signed with, not by the newest."""
        released = asyncio.Event()
        refused = error("InvalidSignatureException", status=403)
        clock = SetClock(NOW_MS - 10 * MINUTE_MS)
        async with service(when(released, refused)) as ssm, SsmClient(settings(ssm.url), clock) as client:
            calls = [asyncio.create_task(client.update(NODE, REPORT)) for _ in range(3)]
            await ssm.wait_for_requests(3)
            released.set()
            for outcome in await asyncio.gather(*calls):
                assert isinstance(outcome, Withheld)
                assert outcome.scope is Scope.CLOCK


class TestCredentials:
    """The keys, out of a real shared credentials file."""

    @pytest.fixture
    def clock(self) -> SetClock:
        return SetClock()

    async def test_rotated_keys_sign_the_next_call(self, credentials_file: Path, clock: SetClock) -> None:
        """When the SSM Agent has written new keys, the next call uses them: none expires first."""
        async with service(described()) as ssm, SsmClient(settings(ssm.url), clock) as client:
            await client.update(NODE, REPORT)
            write_keys(credentials_file, "ASIASECOND")
            await client.update(NODE, REPORT)
            assert [request.access_key for request in ssm.requests] == ["ASIAFIRST", "ASIASECOND"]
            assert ssm.connections == 1

    @pytest.mark.parametrize(
        "torn",
        [
            "",
            "[default]\n",
            "[default]\naws_access",
            "[default]\naws_access_key_id = ASIASECOND\n",
            "[default]\naws_access_key_id = ASIASECOND\naws_secret_access_key = half",
            "[other]\n",
            "\x00\xff",
        ],
    )
    async def test_a_file_in_the_writing_keeps_the_old_keys(
        self, credentials_file: Path, clock: SetClock, torn: str
    ) -> None:
        """A file that is being rewritten stops nothing: the old keys go on until the new ones are whole."""
        async with service(described()) as ssm, SsmClient(settings(ssm.url), clock) as client:
            await client.update(NODE, REPORT)
            write(credentials_file, torn)
            await client.reload_credentials()
            assert isinstance(await client.update(NODE, REPORT), Delivered)
            write_keys(credentials_file, "ASIASECOND")
            await client.update(NODE, REPORT)
            assert [request.access_key for request in ssm.requests] == ["ASIAFIRST", "ASIAFIRST", "ASIASECOND"]

    async def test_no_keys_at_the_start_are_waited_for(self, credentials_file: Path, clock: SetClock) -> None:
        """A machine without keys withholds its calls, and works as soon as there are some."""
        remove(credentials_file)
        async with service(described()) as ssm, SsmClient(settings(ssm.url), clock) as client:
            outcome = await client.update(NODE, REPORT)
            assert isinstance(outcome, Withheld)
            assert (outcome.scope, outcome.problem.code) == (Scope.CREDENTIALS, "NoCredentials")
            assert ssm.requests == []
            write_keys(credentials_file, "ASIAFIRST")
            assert isinstance(await client.update(NODE, REPORT), Delivered)

    async def test_half_a_key_pair_is_named(self, credentials_file: Path, clock: SetClock) -> None:
        """An access key without its secret is said as what it is."""
        write(credentials_file, "[default]\naws_access_key_id = AKIAHALF\n")
        async with SsmClient(settings("http://127.0.0.1:1"), clock) as client:
            outcome = await client.update(NODE, REPORT)
        assert isinstance(outcome, Withheld)
        assert (outcome.scope, outcome.problem.code) == (Scope.CREDENTIALS, "PartialCredentials")

    @pytest.mark.parametrize(
        "keys",
        [
            b"null",
            b"[]",
            b'"keys"',
            json.dumps({**CONTAINER_KEYS, "Expiration": None}).encode(),
            json.dumps({**CONTAINER_KEYS, "Expiration": "2999-01-01T00:00:00"}).encode(),
            json.dumps({**CONTAINER_KEYS, "SecretAccessKey": None}).encode(),
            json.dumps({**CONTAINER_KEYS, "Token": ["made-up"]}).encode(),
        ],
    )
    async def test_a_container_that_gives_nonsense_is_asked_again(
        self, monkeypatch: pytest.MonkeyPatch, credentials_file: Path, clock: SetClock, keys: bytes
    ) -> None:
        """What the SDK takes as it is, or chokes on, is no key: the call is withheld, and the next one asks anew."""
        remove(credentials_file)
        good = json.dumps(CONTAINER_KEYS).encode()
        async with service(answer(200, keys), answer(200, good)) as container, service(described()) as ssm:
            monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{container.url}/keys")
            async with SsmClient(settings(ssm.url), clock) as client:
                outcome = await client.update(NODE, REPORT)
                assert isinstance(outcome, Withheld)
                assert outcome.scope is Scope.CREDENTIALS
                assert ssm.requests == []
                await client.reload_credentials()
                assert isinstance(await client.update(NODE, REPORT), Delivered)

    @pytest.mark.parametrize(
        ("variable", "value"), [("AWS_SESSION_TOKEN", "\udcff"), ("AWS_CREDENTIAL_EXPIRATION", "1")]
    )
    async def test_keys_of_the_environment_that_are_none_are_said(
        self, monkeypatch: pytest.MonkeyPatch, clock: SetClock, variable: str, value: str
    ) -> None:
        """Bytes that are no text, or no date where one is due, withhold the call."""
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENV")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "made-up")
        monkeypatch.setenv(variable, value)
        async with SsmClient(settings("http://127.0.0.1:1"), clock) as client:
            outcome = await client.update(NODE, REPORT)
        assert isinstance(outcome, Withheld)
        assert outcome.scope is Scope.CREDENTIALS

    async def test_a_profile_that_is_not_there_yet_is_waited_for(
        self, credentials_file: Path, clock: SetClock
    ) -> None:
        """A configured profile may be written after the daemon's start."""
        async with service(described()) as ssm, SsmClient(settings(ssm.url, profile="ssm"), clock) as client:
            outcome = await client.update(NODE, REPORT)
            assert isinstance(outcome, Withheld)
            assert (outcome.scope, outcome.problem.code) == (Scope.CREDENTIALS, "ProfileNotFound")
            write_keys(credentials_file, "ASIAPROFILE", profile="ssm")
            assert isinstance(await client.update(NODE, REPORT), Delivered)
            assert ssm.requests[0].access_key == "ASIAPROFILE"

    async def test_a_reload_touches_no_call_in_flight(self, credentials_file: Path, clock: SetClock) -> None:
        """Calls on their way end as they would have; only later ones use the new keys."""
        released = asyncio.Event()
        async with (
            service(when(released, described()), described()) as ssm,
            SsmClient(settings(ssm.url), clock) as client,
        ):
            under_way = asyncio.create_task(client.update(NODE, REPORT))
            await ssm.wait_for_requests(1)
            write_keys(credentials_file, "ASIASECOND")
            await client.reload_credentials()
            assert isinstance(await client.update(NODE, REPORT), Delivered)
            released.set()
            assert isinstance(await under_way, Delivered)
            assert [request.access_key for request in ssm.requests] == ["ASIAFIRST", "ASIASECOND"]

    async def test_reloads_at_the_same_time_are_one(self, clock: SetClock) -> None:
        """Four calls that fail together load the keys once, not four times."""
        async with service(described()) as ssm, SsmClient(settings(ssm.url), clock) as client:
            with capture_logs() as logs:
                await client.update(NODE, REPORT)
                for _ in range(4):
                    await client.reload_credentials()
                await asyncio.gather(*(client.update(NODE, REPORT) for _ in range(4)))
            assert [line["event"] for line in logs].count("credentials loaded") == 2

    async def test_keys_of_the_environment_work(self, monkeypatch: pytest.MonkeyPatch, clock: SetClock) -> None:
        """The default chain is the SDK's: the environment comes before the file."""
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENV")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "made-up")
        async with service(described()) as ssm, SsmClient(settings(ssm.url), clock) as client:
            await client.update(NODE, REPORT)
            assert ssm.requests[0].signed_by("AKIAENV", "made-up")
            assert (await client.credentials.origin()).method == "env"

    async def test_no_log_line_holds_a_key(self, credentials_file: Path, clock: SetClock) -> None:
        """What is logged about credentials is where they come from, never what they are."""
        async with service(described()) as ssm, SsmClient(settings(ssm.url), clock) as client:
            with capture_logs() as logs:
                await client.update(NODE, REPORT)
                write(
                    credentials_file, "[default]\naws_access_key_id = ASIASECOND\naws_secret_access_key = half\nx"
                )
                await client.update(NODE, REPORT)
            assert len(logs) == 2
            assert not any(word in str(logs) for word in ("ASIA", "made-up", "half"))


async def test_keys_that_have_expired_when_they_come_are_the_clock_s_fault(
    monkeypatch: pytest.MonkeyPatch, credentials_file: Path
) -> None:
    """A clock that is hours ahead is named as what keeps a container's keys from being used."""
    remove(credentials_file)
    expired = (
        b'{"AccessKeyId":"ASIACONTAINER","SecretAccessKey":"made-up","Token":"t",'
        b'"Expiration":"2000-01-01T00:00:00Z"}'
    )
    async with service(answer(200, expired)) as keys:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{keys.url}/keys")
        async with SsmClient(settings("http://127.0.0.1:1"), SetClock()) as client:
            outcome = await client.update(NODE, REPORT)
    assert isinstance(outcome, Withheld)
    assert (outcome.scope, outcome.problem.code) == (Scope.CREDENTIALS, "CredentialsExpired")
    assert "timedatectl" in outcome.problem.message


ROLE_SCRIPTS = (
    answer(200, b"imds-token"),
    answer(200, b"the-role"),
    answer(
        200,
        b'{"Code":"Success","Type":"AWS-HMAC","AccessKeyId":"ASIAROLE","SecretAccessKey":"made-up",'
        b'"Token":"role-token","Expiration":"2100-01-01T00:00:00Z"}',
    ),
)


class TestInstanceRole:
    """IMDSv2, by the SDK's own chain."""

    @staticmethod
    def point_to(metadata: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.url)

    async def test_keys_of_the_role_sign(self, monkeypatch: pytest.MonkeyPatch, credentials_file: Path) -> None:
        """On an EC2 instance the role's keys are used, and their expiry is known to who asks."""
        remove(credentials_file)
        async with service(*ROLE_SCRIPTS) as metadata, service(described()) as ssm:
            self.point_to(metadata, monkeypatch)
            async with SsmClient(settings(ssm.url), SetClock()) as client:
                assert isinstance(await client.update(NODE, REPORT), Delivered)
                origin = await client.credentials.origin()
            assert ssm.requests[0].signed_by("ASIAROLE", "made-up", "role-token")
            assert metadata.requests[1].headers["x-aws-ec2-metadata-token"] == "imds-token"
            assert (origin.method, origin.expires_at_ms) == ("iam-role", 4_102_444_800_000)

    async def test_a_metadata_service_that_hangs_holds_up_nothing(
        self, monkeypatch: pytest.MonkeyPatch, credentials_file: Path
    ) -> None:
        """While the metadata service does not answer, the event loop runs and the call ends within its timeout."""
        remove(credentials_file)
        monkeypatch.setenv("AWS_METADATA_SERVICE_TIMEOUT", "3600")  # so that the call's own timeout comes first
        async with service(hang) as metadata:
            self.point_to(metadata, monkeypatch)
            async with SsmClient(settings("http://127.0.0.1:1", timeout_ms=5000), SetClock()) as client:
                await client._opened()
                call = asyncio.create_task(client.update(NODE, REPORT))
                await metadata.wait_for_requests(1)  # it hangs in the loop that this test runs in
                assert not call.done()
                outcome = await call
        assert isinstance(outcome, Withheld)
        assert (outcome.scope, outcome.problem.code) == (Scope.CREDENTIALS, "CredentialsTimeout")

    async def test_an_empty_file_does_not_make_the_daemon_another(
        self, monkeypatch: pytest.MonkeyPatch, credentials_file: Path
    ) -> None:
        """While the shared file is rewritten the instance's role does not step in; when it is gone, it does."""
        async with service(*ROLE_SCRIPTS) as metadata, service(described()) as ssm:
            self.point_to(metadata, monkeypatch)
            async with SsmClient(settings(ssm.url), SetClock()) as client:
                await client.update(NODE, REPORT)
                write(credentials_file, "")
                await client.update(NODE, REPORT)
                remove(credentials_file)
                metadata.scripts[:] = ROLE_SCRIPTS
                await client.update(NODE, REPORT)
            assert [request.access_key for request in ssm.requests] == ["ASIAFIRST", "ASIAFIRST", "ASIAROLE"]
