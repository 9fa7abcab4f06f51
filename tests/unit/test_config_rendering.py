"""The configuration written out: as YAML, as JSON Schema, and as the files that are shipped."""

import json
from collections.abc import Iterator
from pathlib import Path

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ssm_status_reporter.config import (
    AfterAccept,
    AgentAssociations,
    Aws,
    Backoff,
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
    parse,
)
from ssm_status_reporter.config.keys import paths
from ssm_status_reporter.config.rendering import json_schema, render

SHIPPED = Path(__file__).parents[2] / "config"
NAME = "config.yaml"
UNHURRIED = settings(deadline=None)
"""How long an example takes is the machine's business, which others share."""

PATHS_BY_DEFAULT = [path for path in paths() if not path.startswith("sources.mqtt.tls.")]
"""What a configuration without TLS to the broker holds."""


def key_paths(mapping: dict[str, object], prefix: str = "") -> Iterator[str]:
    """The path of every key in a parsed YAML mapping, sections before what is in them."""
    for key, value in mapping.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from key_paths(value, f"{prefix}{key}.")


TEXTS = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=30)
PATHS = TEXTS.map(lambda text: Path("/", text.replace("/", "-") + "x"))
OPTIONAL_PATHS = st.none() | PATHS


@st.composite
def sources(draw: st.DrawFn) -> Sources:
    """Sources as an administrator may set them."""
    username = draw(st.none() | TEXTS)
    pair = draw(st.none() | st.tuples(PATHS, PATHS)) or (None, None)
    tls = Tls(ca_file=draw(OPTIONAL_PATHS), cert_file=pair[0], key_file=pair[1])
    return Sources(
        results_directory=ResultsDirectory(
            enabled=draw(st.booleans()),
            path=draw(PATHS),
            after_accept=draw(st.sampled_from(AfterAccept)),
            max_file_size_bytes=draw(st.integers(64, 1024 * 1024)),
        ),
        ssm_agent=SsmAgent(
            enabled=draw(st.sampled_from(["auto", True, False])),
            path=draw(PATHS),
            associations=draw(st.sampled_from(AgentAssociations)),
        ),
        mqtt=Mqtt(
            enabled=draw(st.booleans()),
            host=draw(st.sampled_from(["localhost", "::1", "b.example"])),
            port=draw(st.none() | st.integers(1, 65535)),
            client_id=draw(st.none() | TEXTS),
            username=username,
            password_file=draw(OPTIONAL_PATHS) if username else None,
            tls=draw(st.sampled_from([None, tls])),
            topic_prefix=draw(st.sampled_from(["x", "a/b", "/c", "1", "no", "ä"])),
            shared_group=draw(st.sampled_from([None, "g", "~", "1:30"])),
        ),
    )


@st.composite
def deliveries(draw: st.DrawFn) -> Delivery:
    """Deliveries whose durations agree with each other."""
    initial_ms, max_ms = sorted(draw(st.tuples(st.integers(1, 3_600_000), st.integers(1, 3_600_000))))
    every_ms, after_ms = sorted(draw(st.tuples(st.integers(10, 86_400_000), st.integers(10, 86_400_000))))
    return Delivery(
        concurrency=draw(st.integers(1, 256)),
        rate=draw(st.decimals("0.1", 100_000, places=3).map(float)),
        burst=draw(st.integers(1, 100_000)),
        timeout_ms=draw(st.integers(100, 300_000)),
        backoff=Backoff(initial_ms=initial_ms, max_ms=max_ms),
        park=Park(retry_every_ms=every_ms, give_up_after_ms=after_ms),
    )


@st.composite
def configurations(draw: st.DrawFn) -> Configuration:
    """Any configuration that is valid."""
    return Configuration(
        node=Node(
            instance_id=draw(st.sampled_from(["auto", "i-12345678", "mi-0123456789abcdef0"])),
            region=draw(st.sampled_from(["auto", "eu-central-1"])),
            allow=tuple(draw(st.lists(st.sampled_from(["*", "mi-*", "i-0??", "i-12345678"]), max_size=4))),
        ),
        aws=Aws(
            endpoint_url=draw(st.sampled_from([None, "http://[::1]:80/x", "https://a.example"])),
            profile=draw(st.none() | TEXTS),
            ca_bundle=draw(OPTIONAL_PATHS),
        ),
        sources=draw(sources()),
        debounce=Debounce(window_ms=draw(st.integers(0, 3_600_000)), compare=draw(st.sampled_from(Compare))),
        delivery=draw(deliveries()),
        outbox=Outbox(path=draw(PATHS), max_dead_letters=draw(st.integers(1, 100_000))),
        reconcile=Reconcile(interval_ms=draw(st.integers(0, 10**9)), on_start=draw(st.booleans())),
        log=Log(level=draw(st.sampled_from(LogLevel)), format=draw(st.sampled_from(LogFormat))),
        metrics=Metrics(
            listen=draw(st.sampled_from([None, "127.0.0.1:9107", "[::1]:1", "metrics.example:65535"])),
            textfile=draw(OPTIONAL_PATHS),
        ),
    )


@UNHURRIED
@given(configurations())
def test_what_is_shown_is_read_back_as_the_same(configuration: Configuration) -> None:
    """The output of ``config show`` is a configuration file that means what was shown."""
    assert parse(render(configuration), NAME) == configuration


def test_the_effective_configuration_comes_in_the_schemas_order() -> None:
    """``config show`` lists every key, sections in the order of the documentation."""
    assert list(key_paths(yaml.safe_load(render(Configuration())))) == PATHS_BY_DEFAULT


def test_credentials_in_a_url_are_masked() -> None:
    """Even a URL that was never parsed here is shown without its password."""
    shown = render(Configuration(aws=Aws(endpoint_url="https://user:hunter2@x.example/y")))
    assert "hunter2" not in shown
    assert "https://***@x.example/y" in shown


def test_the_shipped_file_shows_every_key_with_its_default() -> None:
    """An administrator reads in config/config.yaml every key there is, each at its default."""
    text = (SHIPPED / NAME).read_text(encoding="utf-8")
    assert parse(text, NAME) == Configuration()
    assert list(key_paths(yaml.safe_load(text))) == PATHS_BY_DEFAULT
    assert all(f"{name}: /" in text for name in ("ca_file", "cert_file", "key_file"))


def test_the_shipped_schema_is_what_the_program_prints() -> None:
    """Editors that complete from config/schema.json know exactly the keys that the daemon knows."""
    shipped = json.loads((SHIPPED / "schema.json").read_text(encoding="utf-8"))
    assert shipped == json_schema(), "write it anew: ssm-status-reporter config schema > config/schema.json"


def test_the_schema_describes_every_key() -> None:
    """Each key has a description and its default, and no others are allowed."""

    def walk(schema: dict[str, object], prefix: str) -> Iterator[str]:
        assert schema["additionalProperties"] is False
        properties = schema["properties"]
        assert isinstance(properties, dict)
        for name, key in properties.items():
            yield prefix + name
            section = next((part for part in (key, *key.get("anyOf", ())) if "properties" in part), None)
            if section is not None:
                assert section["description"]
                yield from walk(section, f"{prefix}{name}.")
            else:
                assert key["description"]
                assert "default" in key

    assert list(walk(json_schema(), "")) == list(paths())
