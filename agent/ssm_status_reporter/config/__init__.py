"""The configuration: a YAML file, checked whole, as frozen values with defaults.

``schema`` says what there is; ``document`` makes a tree with line numbers of a text, ``reading`` walks it
along the schema and collects every error; ``rules`` compares keys with each other; ``rendering`` writes a
configuration out. Loading does no more than read the one file.
"""

from ssm_status_reporter.config.errors import BadConfiguration, ConfigurationError
from ssm_status_reporter.config.files import is_there, load, load_or_default
from ssm_status_reporter.config.reading import parse
from ssm_status_reporter.config.rules import Finding, advice
from ssm_status_reporter.config.schema import (
    DEFAULT_PATH,
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
)

__all__ = [
    "DEFAULT_PATH",
    "AfterAccept",
    "AgentAssociations",
    "Aws",
    "Backoff",
    "BadConfiguration",
    "Compare",
    "Configuration",
    "ConfigurationError",
    "Debounce",
    "Delivery",
    "Finding",
    "Log",
    "LogFormat",
    "LogLevel",
    "Metrics",
    "Mqtt",
    "Node",
    "Outbox",
    "Park",
    "Reconcile",
    "ResultsDirectory",
    "Sources",
    "SsmAgent",
    "Tls",
    "advice",
    "is_there",
    "load",
    "load_or_default",
    "parse",
]
