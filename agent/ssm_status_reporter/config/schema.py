"""The configuration: one struct a section, every key with its kind, its bounds and its default.

Rules:
  * Names and defaults are relied on by every configuration there is; the attribute of a key with a unit carries
    the unit (``debounce.window`` is ``window_ms``), the key in YAML does not.
  * Every number has a named bound with its reason (``bounds.py``). What concerns several keys at once
    is in ``rules.py``.
  * The reader, the renderer and the JSON Schema are driven by what stands here and by nothing else.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from msgspec import Struct, field

from ssm_status_reporter.config import bounds, texts
from ssm_status_reporter.config.kinds import Choice, Kind, Switch, Text
from ssm_status_reporter.domain.quantity import duration_ms, size_bytes

DEFAULT_PATH: Final = Path("/etc/ssm-status-reporter/config.yaml")
"""Where the configuration is when nobody says otherwise."""


class AfterAccept(StrEnum):
    """What becomes of a results file once its result is committed."""

    REMOVE = "remove"
    KEEP = "keep"


class AgentAssociations(StrEnum):
    """Which of the SSM Agent's runs are reported."""

    AUTO = "auto"
    LEGACY = "legacy"
    ALL = "all"


class Compare(StrEnum):
    """Which members make a report news; ``auto`` learns it from the service's answers."""

    AUTO = "auto"
    STATUS = "status"
    STATUS_AND_MESSAGE = "status+message"


class LogLevel(StrEnum):
    """The least severe events that are logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """How log lines look."""

    AUTO = "auto"
    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Key:
    """What a key means to an administrator, and what it takes. A list takes ``items_max`` of the kind."""

    description: str
    kind: Kind
    items_max: int | None = None


_ON_OFF: Final = Switch()
_NAME: Final = Text(texts.anything)
_FILE: Final = Text(texts.file_path, Path)
_DIRECTORY: Final = Text(texts.path, Path)


def _at(path: str) -> Any:
    return field(default_factory=lambda: Path(path))


class Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A mapping in the configuration; its docstring is its description."""


class Node(Section, frozen=True):
    """Which managed node this is."""

    instance_id: Annotated[
        str,
        Key(
            "i-…, mi-… or auto: from the SSM Agent's registration (hybrid), then IMDSv2 (EC2).",
            Text(texts.instance_id),
        ),
    ] = texts.AUTO
    region: Annotated[str, Key("us-east-1 … or auto, as instance_id.", Text(texts.region))] = texts.AUTO
    allow: Annotated[
        tuple[str, ...],
        Key(
            "Further managed nodes this one may report for (a gateway); * and ? are wildcards.",
            Text(texts.node_pattern),
            bounds.NODES_ALLOWED_MAX,
        ),
    ] = ()


class Aws(Section, frozen=True):
    """How the service is reached. Credentials are the SDK's: environment, shared files, instance profile."""

    endpoint_url: Annotated[
        str | None, Key("Another endpoint: a VPC endpoint, the emulator.", Text(texts.endpoint_url))
    ] = None
    profile: Annotated[
        str | None, Key("Profile of the shared credentials file; null: the SDK's default chain.", _NAME)
    ] = None
    ca_bundle: Annotated[
        Path | None, Key("PEM file of the certificate authorities to trust; null: the SDK's own.", _FILE)
    ] = None


class ResultsDirectory(Section, frozen=True):
    """Results that runners write as files."""

    enabled: Annotated[bool, Key("Whether the directory is watched.", _ON_OFF)] = True
    path: Annotated[Path, Key("The directory that runners write into.", _DIRECTORY)] = _at(
        "/var/spool/ssm-status-reporter"
    )
    after_accept: Annotated[
        AfterAccept,
        Key(
            "remove: a file is a message, gone once stored. keep: a status file that its runner overwrites.",
            Choice(AfterAccept),
        ),
    ] = AfterAccept.REMOVE
    max_file_size_bytes: Annotated[int, Key("Larger files are refused.", bounds.FILE_SIZE)] = field(
        name="max_file_size", default=size_bytes("64KiB")
    )


class SsmAgent(Section, frozen=True):
    """Results of the SSM Agent's own runs, read from its state files."""

    enabled: Annotated[
        Literal["auto"] | bool,
        Key(
            "auto: whenever path exists, now or later. true: the same, and its absence is complained of.",
            Switch(("auto",)),
        ),
    ] = "auto"
    path: Annotated[Path, Key("The SSM Agent's data directory.", _DIRECTORY)] = _at("/var/lib/amazon/ssm")
    associations: Annotated[
        AgentAssociations,
        Key(
            "auto: those the service knows under (instance id, document), asked by DescribeAssociation. "
            "legacy: only runs whose AssociationID is the document's name, without asking. all: every run.",
            Choice(AgentAssociations),
        ),
    ] = AgentAssociations.AUTO


class Tls(Section, frozen=True):
    """TLS to the broker. {} trusts the system's certificate authorities and sends no certificate."""

    ca_file: Annotated[
        Path | None, Key("PEM file of the certificate authorities to trust; null: the system's.", _FILE)
    ] = None
    cert_file: Annotated[Path | None, Key("PEM file of the client's certificate; needs key_file.", _FILE)] = None
    key_file: Annotated[Path | None, Key("PEM file of the client's private key; needs cert_file.", _FILE)] = None


class Mqtt(Section, frozen=True):
    """Results that arrive over MQTT."""

    enabled: Annotated[bool, Key("Whether to connect to the broker.", _ON_OFF)] = False
    host: Annotated[str, Key("The broker's host name or address.", Text(texts.host))] = "localhost"
    port: Annotated[int | None, Key("The broker's port; null: 8883 with tls, else 1883.", bounds.PORT)] = None
    client_id: Annotated[
        str | None, Key("Unique on the broker; null: ssm-status-reporter-<instance id>.", _NAME)
    ] = None
    username: Annotated[str | None, Key("The name to log in with; null: anonymous.", _NAME)] = None
    password_file: Annotated[Path | None, Key("A file that holds the password alone.", _FILE)] = None
    tls: Tls | None = None
    topic_prefix: Annotated[
        str, Key("Subscribes <prefix>/<instance id>/results at QoS 1.", Text(texts.topic_prefix))
    ] = "ssm-status"
    shared_group: Annotated[
        str | None, Key("$share group name, for several gateways on one broker.", Text(texts.share_group))
    ] = None

    @property
    def broker_port(self) -> int:
        """The port to connect to."""
        return self.port or (1883 if self.tls is None else 8883)


class Sources(Section, frozen=True):
    """Where results come from."""

    results_directory: ResultsDirectory = ResultsDirectory()
    ssm_agent: SsmAgent = SsmAgent()
    mqtt: Mqtt = Mqtt()


class Debounce(Section, frozen=True):
    """What changes are worth a call."""

    window_ms: Annotated[
        int,
        Key(
            "The first change goes out at once; further ones wait out the window and the newest wins.",
            bounds.WINDOW,
        ),
    ] = field(name="window", default=duration_ms("2s"))
    compare: Annotated[
        Compare, Key("What makes a report news; auto learns what the service compares.", Choice(Compare))
    ] = Compare.AUTO


class Backoff(Section, frozen=True):
    """Pauses between attempts: random(0, min(max, initial * 2^n)), for as long as it takes."""

    initial_ms: Annotated[int, Key("The bound of the first pause.", bounds.BACKOFF_INITIAL)] = field(
        name="initial", default=duration_ms("1s")
    )
    max_ms: Annotated[int, Key("The bound of any pause.", bounds.BACKOFF_MAX)] = field(
        name="max", default=duration_ms("5m")
    )


class Park(Section, frozen=True):
    """Reports for associations that the service does not know (yet)."""

    retry_every_ms: Annotated[int, Key("How often a parked report is tried.", bounds.RETRY_EVERY)] = field(
        name="retry_every", default=duration_ms("15m")
    )
    give_up_after_ms: Annotated[int, Key("When a parked report becomes a dead letter.", bounds.GIVE_UP_AFTER)] = (
        field(name="give_up_after", default=duration_ms("24h"))
    )


class Delivery(Section, frozen=True):
    """How reports go out."""

    concurrency: Annotated[int, Key("Calls in flight; never two for one association.", bounds.CONCURRENCY)] = 4
    rate: Annotated[float, Key("Calls a second, adapted downward while the service throttles.", bounds.RATE)] = 5.0
    burst: Annotated[int, Key("Calls that may go out at once after a quiet time.", bounds.BURST)] = 10
    timeout_ms: Annotated[int, Key("How long one call may take.", bounds.CALL_TIMEOUT)] = field(
        name="timeout", default=duration_ms("10s")
    )
    backoff: Backoff = Backoff()
    park: Park = Park()


class Outbox(Section, frozen=True):
    """Where reports are until the service has them."""

    path: Annotated[Path, Key("The outbox, an SQLite database; one daemon each.", _FILE)] = _at(
        "/var/lib/ssm-status-reporter/outbox.db"
    )
    max_dead_letters: Annotated[int, Key("Dead letters kept; the oldest go first.", bounds.DEAD_LETTERS)] = 1000


class Reconcile(Section, frozen=True):
    """Comparing with what the service really holds, by DescribeAssociation."""

    interval_ms: Annotated[int, Key("How often; 0s: never.", bounds.RECONCILE_INTERVAL)] = field(
        name="interval", default=duration_ms("6h")
    )
    on_start: Annotated[bool, Key("Whether also when the daemon starts.", _ON_OFF)] = True


class Log(Section, frozen=True):
    """What the daemon says about its work."""

    level: Annotated[LogLevel, Key("The least severe events that are logged.", Choice(LogLevel))] = LogLevel.INFO
    format: Annotated[
        LogFormat,
        Key("text: readable. json: one object a line. auto: text on a terminal, else json.", Choice(LogFormat)),
    ] = LogFormat.AUTO


class Metrics(Section, frozen=True):
    """Prometheus metrics."""

    listen: Annotated[
        str | None, Key("host:port that serves /metrics and /healthz.", Text(texts.listen_address))
    ] = None
    textfile: Annotated[
        Path | None, Key("A file for node_exporter's textfile collector; its name ends in .prom.", _FILE)
    ] = None

    @property
    def listen_address(self) -> tuple[str, int] | None:
        """Host and port to listen on, an IPv6 host without its brackets."""
        return None if self.listen is None else texts.split_address(self.listen)


class Configuration(Section, frozen=True):
    """Configuration of ssm-status-reporter. Every key has a default; an empty file is valid on EC2."""

    node: Node = Node()
    aws: Aws = Aws()
    sources: Sources = Sources()
    debounce: Debounce = Debounce()
    delivery: Delivery = Delivery()
    outbox: Outbox = Outbox()
    reconcile: Reconcile = Reconcile()
    log: Log = Log()
    metrics: Metrics = Metrics()
