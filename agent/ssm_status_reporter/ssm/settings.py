"""What a client needs to know of the service."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """None leaves it to the SDK's own configuration."""

    region: str
    endpoint_url: str | None
    profile: str | None
    ca_bundle: Path | None
    timeout_ms: int
    connections: int
