"""What the service manager is told: sd_notify(3), a datagram on the socket that $NOTIFY_SOCKET names.

Own code because it is one ``sendto``: the packages that offer it are unmaintained or need systemd's headers.
Without the variable (no service manager, or not Type=notify) nothing is sent. A manager that cannot be told, or reads
nothing any more, is said once and changes nothing: delivering does not depend on who watches.
"""

import os
import socket
from collections.abc import Mapping

import structlog

from ssm_status_reporter.domain.limits import NOTIFY_SECONDS_MAX

log = structlog.get_logger()


class ServiceManager:
    """Sends states to the service manager, if there is one."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET")
        self._unheard = False
        self._address = None if not address else "\0" + address[1:] if address[0] == "@" else address
        self._socket: socket.socket | None = None
        if self._address is not None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.settimeout(NOTIFY_SECONDS_MAX)

    def notify(self, **states: str | int) -> None:
        """Send the states, such as ``READY=1``, in one message."""
        if self._socket is None or self._address is None:
            return
        message = "\n".join(f"{name}={value}" for name, value in states.items())
        try:
            self._socket.sendto(message.encode(), self._address)
        except OSError as error:
            if not self._unheard:
                log.warning(
                    "the service manager cannot be told",
                    socket=self._address,
                    error=error.strerror or str(error),
                    hint="start the daemon by its unit, or without NOTIFY_SOCKET",
                )
            self._unheard = True
        else:
            self._unheard = False

    def close(self) -> None:
        """Say nothing more."""
        if self._socket is not None:
            self._socket.close()
