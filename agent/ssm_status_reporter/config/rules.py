"""What concerns several keys at once: conflicts, which make a configuration bad, and advice, which does not."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from ssm_status_reporter.config.schema import Configuration
from ssm_status_reporter.config.texts import is_loopback
from ssm_status_reporter.domain.quantity import duration_ms, duration_text

RECONCILE_INTERVAL_MS_ADVISED: Final = duration_ms("1m")
"""Below this, reconciliation takes its whole share of the rate all the time."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Keys that do not go together, the one to change first."""

    keys: tuple[str, ...]
    reason: str
    hint: str | None = None

    def __str__(self) -> str:
        return f"{self.keys[0]}: {self.reason}" + (f" ({self.hint})" if self.hint else "")


def conflicts(configuration: Configuration) -> Iterator[Finding]:
    """Every contradiction between keys."""
    backoff, park = configuration.delivery.backoff, configuration.delivery.park
    if backoff.initial_ms > backoff.max_ms:
        yield Finding(
            ("delivery.backoff.initial", "delivery.backoff.max"),
            f"{duration_text(backoff.initial_ms)} is more than delivery.backoff.max, "
            f"{duration_text(backoff.max_ms)}",
            "lower initial or raise max",
        )
    if park.give_up_after_ms < park.retry_every_ms:
        yield Finding(
            ("delivery.park.give_up_after", "delivery.park.retry_every"),
            f"{duration_text(park.give_up_after_ms)} is less than delivery.park.retry_every, "
            f"{duration_text(park.retry_every_ms)}: a parked report would never be tried again",
            "raise give_up_after or lower retry_every",
        )
    mqtt = configuration.sources.mqtt
    if mqtt.password_file is not None and mqtt.username is None:
        yield Finding(
            ("sources.mqtt.password_file", "sources.mqtt.username"),
            "a password without a user name, which MQTT 3.1.1 does not know",
            "set sources.mqtt.username",
        )
    if mqtt.tls is not None and (mqtt.tls.cert_file is None) != (mqtt.tls.key_file is None):
        here, missing = ("key_file", "cert_file") if mqtt.tls.cert_file is None else ("cert_file", "key_file")
        yield Finding(
            (f"sources.mqtt.tls.{here}", f"sources.mqtt.tls.{missing}"),
            "a certificate and its key go together",
            f"set sources.mqtt.tls.{missing} as well",
        )


def advice(configuration: Configuration) -> Iterator[Finding]:
    """What is valid and probably not meant."""
    yield from _endpoint(configuration)
    yield from _sources(configuration)
    yield from _paths(configuration)
    interval_ms = configuration.reconcile.interval_ms
    if 0 < interval_ms < RECONCILE_INTERVAL_MS_ADVISED:
        yield Finding(
            ("reconcile.interval",),
            f"every {duration_text(interval_ms)} keeps a quarter of the rate busy with questions",
            f"use {duration_text(RECONCILE_INTERVAL_MS_ADVISED)} or more outside tests",
        )
    textfile = configuration.metrics.textfile
    if textfile is not None and textfile.suffix != ".prom":
        yield Finding(("metrics.textfile",), "node_exporter reads only files whose names end in .prom")


def _endpoint(configuration: Configuration) -> Iterator[Finding]:
    aws = configuration.aws
    if aws.endpoint_url is None:
        return
    endpoint = urlsplit(aws.endpoint_url)
    if endpoint.scheme != "http":
        return
    if not is_loopback(endpoint.hostname or ""):
        yield Finding(
            ("aws.endpoint_url",),
            "without TLS, statuses and session tokens cross the network readable",
            "use https",
        )
    if aws.ca_bundle is not None:
        yield Finding(("aws.ca_bundle",), "unused: aws.endpoint_url is http")


def _sources(configuration: Configuration) -> Iterator[Finding]:
    sources, mqtt = configuration.sources, configuration.sources.mqtt
    if not (sources.results_directory.enabled or sources.ssm_agent.enabled or mqtt.enabled):
        yield Finding(("sources",), "every source is off: nothing will ever be reported", "enable one")
    if mqtt.enabled and mqtt.tls is None and not is_loopback(mqtt.host):
        what = "results" if mqtt.password_file is None else "results and the password"
        yield Finding(("sources.mqtt.tls",), f"without TLS, {what} cross the network readable", "set tls: {}")


def _paths(configuration: Configuration) -> Iterator[Finding]:
    mqtt = configuration.sources.mqtt
    named = {
        "aws.ca_bundle": configuration.aws.ca_bundle,
        "sources.results_directory.path": configuration.sources.results_directory.path,
        "sources.ssm_agent.path": configuration.sources.ssm_agent.path,
        "sources.mqtt.password_file": mqtt.password_file,
        "outbox.path": configuration.outbox.path,
        "metrics.textfile": configuration.metrics.textfile,
    }
    if mqtt.tls is not None:
        named |= {
            "sources.mqtt.tls.ca_file": mqtt.tls.ca_file,
            "sources.mqtt.tls.cert_file": mqtt.tls.cert_file,
            "sources.mqtt.tls.key_file": mqtt.tls.key_file,
        }
    for key, path in named.items():
        if path is not None and not path.is_absolute():
            yield Finding(
                (key,), f"{str(path)!r} is relative to wherever the daemon is started", "write it from /"
            )
