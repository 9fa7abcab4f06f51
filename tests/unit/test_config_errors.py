"""The configuration: what is refused, and what an administrator is told."""

from contextlib import suppress

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ssm_status_reporter.config import BadConfiguration, ConfigurationError, parse
from ssm_status_reporter.config.keys import paths

NAME = "config.yaml"
UNHURRIED = settings(deadline=None)
"""How long an example takes is the machine's business, which others share."""


def errors_of(text: str) -> tuple[ConfigurationError, ...]:
    """What is wrong with the text; fails the test when nothing is."""
    with pytest.raises(BadConfiguration) as refused:
        parse(text, NAME)
    return refused.value.errors


def only_error_of(text: str) -> ConfigurationError:
    """The one thing wrong with the text."""
    errors = errors_of(text)
    assert len(errors) == 1, errors
    return errors[0]


@pytest.mark.parametrize(
    ("text", "key", "line", "reason", "hint"),
    [
        # Unknown keys.
        ("debonce: {}", "debonce", 1, "unknown key `debonce`", "did you mean `debounce`?"),
        ("log:\n  levle: info", "log.levle", 2, "unknown key", "did you mean `level`?"),
        ("sources: {results-directory: {}}", "sources.results-directory", 1, "unknown", "`results_directory`"),
        ("delivery:\n  retry_every: 1m", "delivery.retry_every", 2, "unknown", "`delivery.park.retry_every`"),
        ("delivery.rate: 5", "delivery.rate", 1, "unknown", "write `rate` under `delivery`"),
        ("log: {zzz: 1}", "log.zzz", 1, "unknown", "here are only level, format"),
        ("on: true", "on", 1, "unknown key `on`", None),
        ("<<: {}", "<<", 1, "unknown key", None),
        # Sections, lists and values in each other's places.
        ("[]", "", 1, "not a mapping", "node"),
        ("hello", "", 1, "not a mapping", None),
        ("debounce: 2s", "debounce", 1, "must be a section", "window"),
        ("debounce:\n- window: 2s", "debounce", 2, "must be a section", None),
        ("sources: {mqtt: {tls: true}}", "sources.mqtt.tls", 1, "must be a section", "ca_file"),
        ("log: {level: {a: 1}}", "log.level", 1, "must be one value, not a section", None),
        ("log: {level: [info]}", "log.level", 1, "must be one value, not a list", None),
        ("node: {allow: mi-*}", "node.allow", 1, "must be a list", "[mi-*]"),
        ("node:\n  allow:\n  - mi-*\n  - [i-*]", "node.allow[1]", 4, "must be one value", None),
        (f"node: {{allow: [{','.join(['mi-*'] * 1001)}]}}", "node.allow", 1, "1001 entries", None),
        # Repeated keys.
        ("log:\n  level: info\n  level: debug", "log.level", 3, "set twice, first on line 2", "remove one"),
        ("aws: {}\nnode: {}\naws: {}", "aws", 3, "set twice, first on line 1", None),
        # Durations and sizes.
        ("debounce:\n\n  window: 2", "debounce.window", 3, "a number without a unit", "2s or 2ms"),
        ("debounce: {window: 1:30}", "debounce.window", 1, "not a duration: '1:30'", "ms, s, m, h"),
        ("debounce: {window: 1.5s}", "debounce.window", 1, "not a duration", "ms, s, m, h"),
        ("debounce: {window: -2s}", "debounce.window", 1, "not a duration", None),
        ("debounce: {window: .inf}", "debounce.window", 1, "not a duration", None),
        ("debounce: {window: true}", "debounce.window", 1, "must be a duration, not true", None),
        ("debounce: {window: }", "debounce.window", 1, "must be a duration, not empty", None),
        ("debounce: {window: 2h}", "debounce.window", 1, "2h is out of range, 0s to 1h", None),
        ("delivery: {timeout: 99ms}", "delivery.timeout", 1, "out of range, 100ms to 5m: ", None),
        ("delivery: {backoff: {initial: 0s}}", "delivery.backoff.initial", 1, "out of range", None),
        ("delivery: {park: {retry_every: 0s}}", "delivery.park.retry_every", 1, "out of range", None),
        (
            "sources: {results_directory: {max_file_size: 64}}",
            "sources.results_directory.max_file_size",
            1,
            "a number without a unit",
            "64KiB or 64B",
        ),
        (
            "sources: {results_directory: {max_file_size: 64KB}}",
            "sources.results_directory.max_file_size",
            1,
            "not a size",
            "KiB",
        ),
        (
            "sources: {results_directory: {max_file_size: 2MiB}}",
            "sources.results_directory.max_file_size",
            1,
            "out of range",
            None,
        ),
        # Numbers.
        ("delivery: {concurrency: 0}", "delivery.concurrency", 1, "0 is out of range, 1 to 256: ", None),
        ("delivery: {concurrency: 257}", "delivery.concurrency", 1, "out of range", None),
        ("delivery: {concurrency: -1}", "delivery.concurrency", 1, "out of range", None),
        ("delivery: {concurrency: 4.0}", "delivery.concurrency", 1, "a whole number in plain decimal", None),
        ("delivery: {concurrency: '4'}", "delivery.concurrency", 1, "a whole number, not '4'", "without quotes"),
        ("delivery: {concurrency: yes}", "delivery.concurrency", 1, "a whole number, not yes (true", None),
        ("delivery: {concurrency: 017}", "delivery.concurrency", 1, "plain decimal digits", None),
        ("delivery: {concurrency: 0o17}", "delivery.concurrency", 1, "a whole number, not '0o17'", None),
        ("delivery: {concurrency: 0x10}", "delivery.concurrency", 1, "plain decimal digits", None),
        ("delivery: {concurrency: 1_0}", "delivery.concurrency", 1, "plain decimal digits", None),
        ("delivery: {concurrency: 1:30}", "delivery.concurrency", 1, "plain decimal digits", None),
        (f"delivery: {{concurrency: {'9' * 9999}}}", "delivery.concurrency", 1, "whole number", None),
        (f"delivery: {{rate: {'9' * 999}}}", "delivery.rate", 1, "out of range", None),
        ("delivery: {rate: 0}", "delivery.rate", 1, "0 is out of range, 0.1 to 100000: ", None),
        (f"delivery: {{rate: 1{':00' * 200}.5}}", "delivery.rate", 1, "must be a number", None),
        ("delivery: {rate: .nan}", "delivery.rate", 1, "plain decimal digits", None),
        ("delivery: {rate: -.inf}", "delivery.rate", 1, "plain decimal digits", None),
        ("delivery: {rate: fast}", "delivery.rate", 1, "a number, not 'fast'", None),
        ("sources: {mqtt: {port: 65536}}", "sources.mqtt.port", 1, "out of range, 1 to 65535", None),
        ("delivery: {burst: 0}", "delivery.burst", 1, "out of range", None),
        ("outbox: {max_dead_letters: 0}", "outbox.max_dead_letters", 1, "out of range", None),
        # Booleans and names.
        ("reconcile: {on_start: 'true'}", "reconcile.on_start", 1, "true or false, not 'true'", "without quotes"),
        ("reconcile: {on_start: 1}", "reconcile.on_start", 1, "must be true or false, not 1", None),
        ("reconcile: {on_start: }", "reconcile.on_start", 1, "must be true or false, not empty", None),
        (
            "sources: {ssm_agent: {enabled: x}}",
            "sources.ssm_agent.enabled",
            1,
            "must be auto, true or false",
            None,
        ),
        ("log: {level: warn}", "log.level", 1, "must be one of debug, info, warning, error", "`warning`"),
        ("log: {format: JSON}", "log.format", 1, "must be one of auto, text, json", "`json`"),
        ("log: {level: off}", "log.level", 1, "not off (false to YAML)", None),
        ("debounce: {compare: message}", "debounce.compare", 1, "must be one of", "`status+message`"),
        # Texts.
        ("node: {region: }", "node.region", 1, "must not be empty", "default"),
        ("node: {region: ''}", "node.region", 1, "must not be empty", None),
        ("node: {region: us-east-1a}", "node.region", 1, "availability zone", "us-east-1"),
        ("node: {region: Frankfurt}", "node.region", 1, "no region", "eu-central-1"),
        ("node: {instance_id: i-123}", "node.instance_id", 1, "no instance id", "mi-"),
        ("node: {allow: [host-*]}", "node.allow[0]", 1, "no instance id matches", "i- or mi-"),
        ("node: {allow: [auto]}", "node.allow[0]", 1, "no instance id", "mi-*"),
        ("node: {allow: ['mi-[0-9]*']}", "node.allow[0]", 1, "no instance id", "mi-*"),
        ("aws: {profile: 017}", "aws.profile", 1, "YAML reads 017 as a number", 'quote it: "017"'),
        ("aws: {profile: no}", "aws.profile", 1, "YAML reads no as false", 'quote it: "no"'),
        ('aws: {profile: "a\\nb"}', "aws.profile", 1, "control character", None),
        ('aws: {profile: "\\uD800"}', "aws.profile", 1, "does not print", None),
        (f"aws: {{profile: {'x' * 1025}}}", "aws.profile", 1, "longer than 1024", None),
        ("aws: {ca_bundle: ~/ca.pem}", "aws.ca_bundle", 1, "~ is not expanded", "whole path"),
        ("outbox: {path: /var/lib/}", "outbox.path", 1, "names a directory", None),
        ("aws: {endpoint_url: localhost:8000}", "aws.endpoint_url", 1, "no http or https URL", None),
        ("aws: {endpoint_url: 'ftp://x'}", "aws.endpoint_url", 1, "no http or https URL", None),
        ("aws: {endpoint_url: 'https://x:99999'}", "aws.endpoint_url", 1, "is no URL", None),
        ("aws: {endpoint_url: 'https://x/?a=b'}", "aws.endpoint_url", 1, "must end after", None),
        ("aws: {endpoint_url: 'https://x y/'}", "aws.endpoint_url", 1, "holds a blank", None),
        ("sources: {mqtt: {host: 'mqtt://b'}}", "sources.mqtt.host", 1, "not a URL", "scheme"),
        ("sources: {mqtt: {host: 'b:1883'}}", "sources.mqtt.host", 1, "without a port", "port: 1883"),
        ("sources: {mqtt: {host: a/b}}", "sources.mqtt.host", 1, "neither a host name nor", None),
        ("sources: {mqtt: {topic_prefix: a/+}}", "sources.mqtt.topic_prefix", 1, "must not hold +", None),
        ("sources: {mqtt: {topic_prefix: '#'}}", "sources.mqtt.topic_prefix", 1, "must not hold #", None),
        ("sources: {mqtt: {topic_prefix: $SYS}}", "sources.mqtt.topic_prefix", 1, "start with $", None),
        ("sources: {mqtt: {topic_prefix: a/}}", "sources.mqtt.topic_prefix", 1, "end in /", "write a"),
        ("sources: {mqtt: {shared_group: a/b}}", "sources.mqtt.shared_group", 1, "must not hold /", None),
        ("metrics: {listen: 9107}", "metrics.listen", 1, "YAML reads 9107 as a number", None),
        ("metrics: {listen: ':9107'}", "metrics.listen", 1, "not host:port", "127.0.0.1:9107"),
        ("metrics: {listen: 'localhost:0'}", "metrics.listen", 1, "not host:port", None),
        ("metrics: {listen: '::1:9107'}", "metrics.listen", 1, "ambiguous", "[::1]:9107"),
        # Between keys.
        (
            "delivery:\n  backoff:\n    max: 1s\n    initial: 2s",
            "delivery.backoff.initial",
            4,
            "2s is more than delivery.backoff.max, 1s",
            "raise max",
        ),
        ("delivery:\n  backoff:\n    max: 500ms", "delivery.backoff.initial", 3, "is more than", None),
        ("delivery: {park: {give_up_after: 1m}}", "delivery.park.give_up_after", 1, "is less than", None),
        (
            "sources: {mqtt: {password_file: /p}}",
            "sources.mqtt.password_file",
            1,
            "without a user name",
            "username",
        ),
        ("sources: {mqtt: {tls: {key_file: /k}}}", "sources.mqtt.tls.key_file", 1, "go together", "cert_file"),
        ("sources: {mqtt: {tls: {cert_file: /k}}}", "sources.mqtt.tls.cert_file", 1, "go together", "key_file"),
        # Not YAML, or more of it than is read here.
        ("log:\n\tlevel: info", "", 2, "not YAML", "spaces, not tabs"),
        ("log: [", "", 1, "not YAML", None),
        ("a: b: c", "", 1, "not YAML", "indentation"),
        ("node: {}\nallow\n", "", 3, "not YAML", "colon"),
        ("node:\n  allow:\n  - *", "", 3, "not YAML", "quoted"),
        ("log: {level: @x}", "", 1, "not YAML", "quoted"),
        ("log: {}\n---\nlog: {}", "", 2, "more than one YAML document", "---"),
        ("log: &a {}\naws: *a", "", 2, "aliases", None),
        ("log: !!python/name:os.system x", "", 1, "tag", None),
        ("log: !x {}", "", 1, "tag", None),
        ("? [a]\n: b", "", 1, "a key must be a plain name", None),
        ("x: " + "[" * 17 + "]" * 17, "", 1, "nested more than 16 deep", None),
        ("x: " + "[" * 100_000, "", 1, "nested more than 16 deep", None),
        ("log:\n  level: \x07", "", 2, "U+0007 is not allowed", None),
    ],
)
def test_an_error_names_key_line_and_remedy(text: str, key: str, line: int, reason: str, hint: str | None) -> None:
    """Whoever made the mistake reads which key, on which line, what is wrong, and what to write."""
    error = only_error_of(text)
    assert (error.key, error.line) == (key, line)
    assert reason in error.reason
    if hint is not None:
        assert hint in (error.hint or "")


def test_every_error_is_reported_at_once_in_the_order_of_the_file() -> None:
    """A file with five mistakes takes one round of corrections, not five."""
    errors = errors_of(
        "debonce: {}\n"
        "log:\n"
        "  level: loud\n"
        "delivery:\n"
        "  backoff: {initial: 10s, max: 5s}\n"
        "  rate: fast\n"
        "node: {allow: [x, mi-*, y]}\n"
    )
    assert [(error.line, error.key) for error in errors] == [
        (1, "debonce"),
        (3, "log.level"),
        (5, "delivery.backoff.initial"),
        (6, "delivery.rate"),
        (7, "node.allow[0]"),
        (7, "node.allow[2]"),
    ]
    assert all(error.column for error in errors)


def test_errors_read_as_one_line_each() -> None:
    """An error reads as compilers write theirs: file, line, what, and the remedy."""
    with pytest.raises(BadConfiguration) as refused:
        parse("\ndebonce: {}\nlog: {level: loud}", "/etc/x.yaml")
    first, second = str(refused.value).splitlines()
    assert first == "/etc/x.yaml:2: debonce: unknown key `debonce` (did you mean `debounce`?)"
    assert second.startswith("/etc/x.yaml:3: log.level: must be one of debug, info, warning, error, not 'loud'")


def test_a_bad_value_raises_no_conflict_with_another_key() -> None:
    """One mistake is one error: a default in its place is not compared with its neighbours."""
    assert only_error_of("delivery: {backoff: {initial: soon, max: 10ms}}").key == "delivery.backoff.initial"


@pytest.mark.parametrize("url", ["https://user:hunter2@x/", "https://user:hun/ter2@x", "http://hunter2@x"])
def test_a_password_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    """The error does not carry the secret into a terminal or the journal."""
    with pytest.raises(BadConfiguration) as refused:
        parse(f"aws: {{endpoint_url: '{url}'}}", NAME)
    assert refused.value.errors[0].key == "aws.endpoint_url"
    assert "hun" not in str(refused.value)


def test_a_small_file_cannot_grow() -> None:
    """A file of nested aliases is refused at the first of them, not expanded."""
    levels = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    assert "aliases" in only_error_of("\n".join(levels)).reason


@UNHURRIED
@given(st.text())
def test_no_text_whatever_gets_past_as_anything_but_errors(text: str) -> None:
    """Whatever stands in the file, the answer is a configuration or a list of errors, never a traceback."""
    with suppress(BadConfiguration):
        parse(text, NAME)


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates()
_TREES = st.recursive(
    _SCALARS,
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.sampled_from([path.rpartition(".")[2] for path in paths()]) | st.text(), children)
    ),
    max_leaves=20,
)


@UNHURRIED
@given(st.dictionaries(st.sampled_from([path for path in paths() if "." not in path]), _TREES, max_size=4))
def test_no_tree_whatever_gets_past_as_anything_but_errors(tree: dict[str, object]) -> None:
    """As for any text, with keys that exist and values of any sort in them."""
    with suppress(BadConfiguration):
        parse(yaml.safe_dump(tree), NAME)
