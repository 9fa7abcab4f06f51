"""The configuration: what is taken, wherever it is, and what is pointed out."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir

import pytest

from ssm_status_reporter.config import (
    AfterAccept,
    AgentAssociations,
    Aws,
    Backoff,
    BadConfiguration,
    Compare,
    Configuration,
    Debounce,
    Delivery,
    Log,
    LogFormat,
    LogLevel,
    Metrics,
    Mqtt,
    Node,
    Outbox,
    Park,
    Reconcile,
    ResultsDirectory,
    Sources,
    SsmAgent,
    Tls,
    advice,
    load,
    load_or_default,
    parse,
)
from ssm_status_reporter.config.files import FILE_BYTES_MAX

NAME = "config.yaml"
NOBODY = 65534


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n", "null\n", "{}\n", "\ufeff# from Windows\n"])
def test_an_empty_file_means_the_defaults(text: str, tmp_path: Path) -> None:
    """A file with nothing in it configures an EC2 instance."""
    file = tmp_path / NAME
    file.write_text(text, encoding="utf-8")
    assert load(file) == Configuration()


def test_every_key_arrives_where_the_daemon_reads_it() -> None:
    """A file that sets everything is taken as written, with durations in milliseconds and sizes in bytes."""
    configuration = parse(
        """
node: {instance_id: mi-0123456789abcdef0, region: us-gov-west-1, allow: [mi-*, i-0123456789abcdef0]}
aws: {endpoint_url: "https://vpce.example:8443/x", profile: ops, ca_bundle: /etc/ca.pem}
sources:
  results_directory: {enabled: off, path: /srv/results, after_accept: keep, max_file_size: 1MiB}
  ssm_agent: {enabled: yes, path: /srv/ssm, associations: legacy}
  mqtt:
    enabled: true
    host: broker.example
    port: 8884
    client_id: gateway-1
    username: gateway
    password_file: /etc/password
    tls: {ca_file: /ca.pem, cert_file: /cert.pem, key_file: /key.pem}
    topic_prefix: plant/ssm
    shared_group: gateways
debounce: {window: 250ms, compare: status+message}
delivery: {concurrency: 8, rate: 0.5, burst: 1, timeout: 1m, backoff: {initial: 2s, max: 1h},
           park: {retry_every: 1m, give_up_after: 48h}}
outbox: {path: /srv/outbox.db, max_dead_letters: 5}
reconcile: {interval: 0s, on_start: false}
log: {level: debug, format: json}
metrics: {listen: "[::1]:9107", textfile: /srv/x.prom}
""",
        NAME,
    )
    assert configuration == Configuration(
        node=Node(
            instance_id="mi-0123456789abcdef0", region="us-gov-west-1", allow=("mi-*", "i-0123456789abcdef0")
        ),
        aws=Aws(endpoint_url="https://vpce.example:8443/x", profile="ops", ca_bundle=Path("/etc/ca.pem")),
        sources=Sources(
            results_directory=ResultsDirectory(
                enabled=False,
                path=Path("/srv/results"),
                after_accept=AfterAccept.KEEP,
                max_file_size_bytes=1024 * 1024,
            ),
            ssm_agent=SsmAgent(enabled=True, path=Path("/srv/ssm"), associations=AgentAssociations.LEGACY),
            mqtt=Mqtt(
                enabled=True,
                host="broker.example",
                port=8884,
                client_id="gateway-1",
                username="gateway",
                password_file=Path("/etc/password"),
                tls=Tls(ca_file=Path("/ca.pem"), cert_file=Path("/cert.pem"), key_file=Path("/key.pem")),
                topic_prefix="plant/ssm",
                shared_group="gateways",
            ),
        ),
        debounce=Debounce(window_ms=250, compare=Compare.STATUS_AND_MESSAGE),
        delivery=Delivery(
            concurrency=8,
            rate=0.5,
            burst=1,
            timeout_ms=60_000,
            backoff=Backoff(initial_ms=2_000, max_ms=3_600_000),
            park=Park(retry_every_ms=60_000, give_up_after_ms=172_800_000),
        ),
        outbox=Outbox(path=Path("/srv/outbox.db"), max_dead_letters=5),
        reconcile=Reconcile(interval_ms=0, on_start=False),
        log=Log(level=LogLevel.DEBUG, format=LogFormat.JSON),
        metrics=Metrics(listen="[::1]:9107", textfile=Path("/srv/x.prom")),
    )
    assert configuration.metrics.listen_address == ("::1", 9107)


def test_a_section_whose_keys_are_all_commented_out_keeps_its_defaults() -> None:
    """Commenting out the last key of a section breaks nothing."""
    text = "aws:\n  # endpoint_url: x\ndelivery:\n  backoff:\nnode:\n  allow:\n"
    assert parse(text, NAME) == Configuration()


@pytest.mark.parametrize(
    ("text", "port"),
    [("", 1883), ("sources: {mqtt: {tls: {}}}", 8883), ("sources: {mqtt: {tls: {}, port: 1}}", 1)],
)
def test_the_broker_port_follows_tls(text: str, port: int) -> None:
    """Without a port, TLS goes to 8883 and plain MQTT to 1883."""
    assert parse(text, NAME).sources.mqtt.broker_port == port


@pytest.mark.parametrize("written", ["auto", "true", "false"])
def test_the_ssm_agent_is_auto_on_or_off(written: str) -> None:
    """``sources.ssm_agent.enabled`` takes its three values, two of them as booleans."""
    enabled = parse(f"sources: {{ssm_agent: {{enabled: {written}}}}}", NAME).sources.ssm_agent.enabled
    assert enabled == {"auto": "auto", "true": True, "false": False}[written]


def test_a_missing_file_that_was_named_is_an_error(tmp_path: Path) -> None:
    """A mistyped --config does not start the daemon with the defaults."""
    with pytest.raises(BadConfiguration) as refused:
        load_or_default(tmp_path / NAME)
    assert str(refused.value).startswith(f"{tmp_path / NAME}: no such file")


def test_without_any_file_the_defaults_apply(tmp_path: Path) -> None:
    """An EC2 instance where nobody configured anything works."""
    assert load_or_default(None, default_path=tmp_path / NAME) == Configuration()


def test_the_default_file_is_read_where_it_is(tmp_path: Path) -> None:
    """With nothing named, the file at the default place counts."""
    (tmp_path / NAME).write_text("delivery: {rate: 7}")
    assert load_or_default(None, default_path=tmp_path / NAME).delivery.rate == 7


def test_a_link_to_nowhere_is_a_mistake_and_not_an_absence(tmp_path: Path) -> None:
    """A default file whose link broke is said, not replaced by the defaults."""
    (tmp_path / NAME).symlink_to(tmp_path / "gone.yaml")
    with pytest.raises(BadConfiguration, match=r"a link to .*gone\.yaml, which does not exist"):
        load_or_default(None, default_path=tmp_path / NAME)


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    """Naming the directory instead of the file is said as such."""
    with pytest.raises(BadConfiguration, match="a directory, not a file"):
        load(tmp_path)


def test_a_file_that_is_not_utf8_names_the_line(tmp_path: Path) -> None:
    """A file in Latin-1 is refused with the place of the first odd byte."""
    (tmp_path / NAME).write_bytes(b"log: {}\n# caf\xe9\n")
    with pytest.raises(BadConfiguration) as refused:
        load(tmp_path / NAME)
    assert (refused.value.errors[0].line, refused.value.errors[0].reason) == (2, "not UTF-8: byte 0xe9")


def test_a_file_far_too_large_is_not_read_whole(tmp_path: Path) -> None:
    """Naming a log or a database by mistake ends at once."""
    with (tmp_path / NAME).open("wb") as file:
        file.truncate(FILE_BYTES_MAX + 1)
    with pytest.raises(BadConfiguration, match="larger than 256 KiB"):
        load(tmp_path / NAME)


def test_an_unreadable_file_names_its_permissions(tmp_path: Path) -> None:
    """The error says who may read the file, and what would let the daemon."""
    file = tmp_path / NAME
    file.write_text("")
    file.chmod(0)
    for directory in (tmp_path, *tmp_path.parents):
        if directory.owner() == tmp_path.owner() and directory.is_relative_to(gettempdir()):
            directory.chmod(directory.stat().st_mode | 0o755)
    with _unprivileged(), pytest.raises(BadConfiguration) as refused:
        load(file)
    assert re.search(r"not readable by user id \d+: its mode is 0000", str(refused.value))
    assert "chgrp ssm-status-reporter" in str(refused.value)


@contextmanager
def _unprivileged() -> Iterator[None]:
    """Root reads every file: be somebody else for a moment."""
    user = os.geteuid()
    if user:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize(
    ("text", "key", "reason"),
    [
        ("aws: {endpoint_url: 'http://vpce.example'}", "aws.endpoint_url", "without TLS"),
        ("aws: {endpoint_url: 'http://[::1]:1', ca_bundle: /x}", "aws.ca_bundle", "unused"),
        (
            "sources: {results_directory: {enabled: no}, ssm_agent: {enabled: no}}",
            "sources",
            "every source is off",
        ),
        ("sources: {mqtt: {enabled: true, host: broker}}", "sources.mqtt.tls", "without TLS, results cross"),
        ("reconcile: {interval: 1s}", "reconcile.interval", "every 1s"),
        ("metrics: {textfile: /x.txt}", "metrics.textfile", ".prom"),
        ("sources: {mqtt: {tls: {ca_file: ca.pem}}}", "sources.mqtt.tls.ca_file", "relative"),
        ("outbox: {path: outbox.db}", "outbox.path", "relative"),
    ],
)
def test_what_is_valid_and_probably_not_meant_is_pointed_out(text: str, key: str, reason: str) -> None:
    """``check`` warns of a choice that works and is rarely wanted."""
    (finding,) = advice(parse(text, NAME))
    assert finding.keys == (key,)
    assert reason in finding.reason


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "[::1]"])
def test_an_emulator_on_this_machine_is_no_reason_to_warn(host: str) -> None:
    """Plain HTTP that never leaves the machine is fine."""
    assert not list(advice(parse(f"aws: {{endpoint_url: 'http://{host}:8000/'}}", NAME)))


def test_the_defaults_need_no_advice() -> None:
    """Who configures nothing is warned of nothing."""
    assert not list(advice(Configuration()))
