"""The preflight, from the first look to the last finding."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Final

from ssm_status_reporter.assembly import client_settings
from ssm_status_reporter.config import Configuration, Mqtt
from ssm_status_reporter.domain.association import Association
from ssm_status_reporter.host.identity import Identity, NoIdentityError, find_identity
from ssm_status_reporter.ports import Clock
from ssm_status_reporter.preflight.finding import Finding, amiss, fine
from ssm_status_reporter.preflight.machine import agent_finding, disk_finding, outbox_findings, results_finding
from ssm_status_reporter.preflight.service import answer_findings, credentials_finding
from ssm_status_reporter.ssm.client import SsmClient
from ssm_status_reporter.ssm.credentials import NoKeysError

IDENTITY: Final = "identity"
BROKER: Final = "broker"
UNKNOWN_DOCUMENT: Final = "ssm-status-reporter-doctor"
"""What is asked about where no association is known: that there is none is an answer too."""


async def preflight(configuration: Configuration, clock: Clock) -> AsyncIterator[Finding]:
    """Every finding, as it is found."""
    node, agent = configuration.node, configuration.sources.ssm_agent
    try:
        identity = await find_identity(node.instance_id, node.region, agent.path, os.environ, clock)
    except NoIdentityError as error:
        yield amiss(IDENTITY, str(error), "mend what it names, or set node.instance_id and node.region")
        identity = None
    if identity is not None:
        told = sorted({identity.instance_id_from.value, identity.region_from.value})
        yield fine(IDENTITY, f"{identity.instance_id} in {identity.region} (by the {' and the '.join(told)})")
        async for finding in _service(configuration, identity, clock):
            yield finding
    yield results_finding(configuration.sources.results_directory)
    yield agent_finding(agent, None if identity is None else identity.instance_id)
    if configuration.sources.mqtt.enabled:
        yield await _broker(configuration.sources.mqtt)
    for finding in await asyncio.to_thread(_outbox, configuration.outbox.path):
        yield finding


def _outbox(path: Path) -> list[Finding]:
    return [*outbox_findings(path), disk_finding(path)]


async def _service(configuration: Configuration, identity: Identity, clock: Clock) -> AsyncIterator[Finding]:
    association = Association(identity.instance_id, UNKNOWN_DOCUMENT)
    async with SsmClient(client_settings(configuration, identity), clock) as client:
        try:
            origin = await client.credentials.origin()
        except NoKeysError as error:
            yield credentials_finding(error, clock.now().wall_ms)
        else:
            yield credentials_finding(origin, clock.now().wall_ms)
        answer = await client.describe(association)
        address = configuration.aws.endpoint_url or f"ssm in {identity.region}"
        for finding in answer_findings(answer, association, address, client.measured_skew_ms()):
            yield finding


async def _broker(section: Mqtt) -> Finding:
    """As far as the TLS handshake: a login under the daemon's name would end the daemon's own connection."""
    # What MQTT needs is imported where it is on.
    from ssm_status_reporter.sources.mqtt_dial import dial, read_credentials  # noqa: PLC0415
    from ssm_status_reporter.sources.mqtt_trouble import BrokerError  # noqa: PLC0415

    where = f"{section.host}:{section.broker_port}"
    try:
        credentials = await asyncio.to_thread(read_credentials, section)
        with closing(await dial(section.host, section.broker_port, credentials.tls)):
            secured = "without TLS" if credentials.tls is None else "with TLS"
            return fine(BROKER, f"{where} accepts connections, {secured}; a login is not tried")
    except BrokerError as error:
        return amiss(BROKER, f"{where}: {error.trouble.reason}", error.trouble.hint)
