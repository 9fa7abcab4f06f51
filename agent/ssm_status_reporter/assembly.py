"""The assembly: the daemon's parts as the configuration wants them, each in its own terms.

What only some configurations need is imported where they name it: a daemon without a broker does without its libraries.
"""

from ssm_status_reporter.config import Configuration
from ssm_status_reporter.domain.limits import CONNECTIONS_MAX
from ssm_status_reporter.host.identity import Identity
from ssm_status_reporter.ports import Chance, Clock, Source, Teller
from ssm_status_reporter.sources.agent_reader import Absence, AgentSettings
from ssm_status_reporter.sources.results_directory import ResultsDirectory
from ssm_status_reporter.sources.seen import KeptFiles
from ssm_status_reporter.sources.spool_reader import Settings
from ssm_status_reporter.sources.ssm_agent import SsmAgent
from ssm_status_reporter.ssm.settings import ClientSettings


def sources(configuration: Configuration, identity: Identity, kept: KeptFiles, clock: Clock) -> list[Source]:
    """Where results come from, the broker aside."""
    found: list[Source] = []
    directory = configuration.sources.results_directory
    if directory.enabled:
        settings = Settings(
            str(directory.path.absolute()),
            directory.after_accept,
            directory.max_file_size_bytes,
            identity.instance_id,
            configuration.node.allow,
        )
        found.append(ResultsDirectory(settings, clock, kept))
    agent = configuration.sources.ssm_agent
    if agent.enabled is not False:
        absence = Absence.COMPLAINED_OF if agent.enabled is True else Absence.EXPECTED
        runs = AgentSettings(str(agent.path.absolute()), identity.instance_id, agent.associations, absence)
        found.append(SsmAgent(runs, clock))
    return found


def teller(configuration: Configuration, identity: Identity, clock: Clock, chance: Chance) -> Teller | None:
    """The broker: a source, and where outcomes are told."""
    mqtt = configuration.sources.mqtt
    if not mqtt.enabled:
        return None
    from ssm_status_reporter.sources.mqtt import Mqtt, MqttSettings  # noqa: PLC0415 (see above)

    return Mqtt(MqttSettings(mqtt, identity.instance_id, configuration.node.allow), clock, chance)


def client_settings(configuration: Configuration, identity: Identity) -> ClientSettings:
    """How the service is reached."""
    aws = configuration.aws
    return ClientSettings(
        region=identity.region,
        endpoint_url=aws.endpoint_url,
        profile=aws.profile,
        ca_bundle=aws.ca_bundle,
        timeout_ms=configuration.delivery.timeout_ms,
        connections=CONNECTIONS_MAX,
    )
