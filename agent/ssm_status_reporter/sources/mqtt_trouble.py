"""Why there is no connection to the broker: each reason with what the operator can do about it.

Pure. Reasons are as short as a log line wants them; none quotes a password or a key.
"""

import socket
import ssl
from dataclasses import dataclass
from typing import Final

from paho.mqtt.reasoncodes import ReasonCode

from ssm_status_reporter.domain.limits import MQTT_ANSWER_SECONDS_MAX

_UNSPECIFIED: Final = 0x80
_NOT_AUTHORIZED: Final = 0x87
_LOGIN: Final = "check sources.mqtt.username and what is in sources.mqtt.password_file"
_POLICY: Final = "let the broker's access rules (ACL, policy) allow this client its topics"
_WAIT: Final = "it will be tried again"
_ADDRESS: Final = "check sources.mqtt.host and sources.mqtt.port, and that the broker runs"
_AUTHORITY: Final = "set sources.mqtt.tls.ca_file to the authority that signed the broker's certificate"
_CLIENT_CERTIFICATE: Final = (
    "set sources.mqtt.tls.cert_file and key_file to a client certificate that the broker trusts"
)
_PREFIX: Final = "failed to receive on socket: "  # paho's
_TLS_OR_NOT: Final = "if the broker expects TLS on this port, set sources.mqtt.tls: {}; else look into its log"
_HOST_NAME: Final = "set sources.mqtt.host to a name in the broker's certificate"

_HINTS: Final = {
    0x82: "check that sources.mqtt.host and port are those of an MQTT broker",
    0x85: "set another sources.mqtt.client_id",
    0x86: _LOGIN,
    0x8A: "let the broker lift the ban on this client",
    0x8D: "look for a network that loses packets or a machine that sleeps",
    0x8E: "another client connects as the same: give each its own sources.mqtt.client_id",
    0x8F: "set another sources.mqtt.topic_prefix",
    0x95: "raise the broker's packet size, or lower what is sent",
    0x9E: "this broker knows no shared subscriptions: leave out sources.mqtt.shared_group",
    0xA2: "this broker allows no wildcards: leave node.allow empty",
}
"""By reason code of MQTT 5; what is not here passes by itself, or is the broker's to tell."""

_CERTIFICATE_HINTS: Final = {
    9: "set the clock of this machine: the broker's certificate is not valid yet",
    10: "let the broker get a new certificate, or set the clock of this machine",
    62: _HOST_NAME,
    64: _HOST_NAME,
}
"""By OpenSSL's verification code (X509_V_ERR_…)."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is wrong, and what to do."""

    reason: str
    hint: str = _WAIT
    passing: bool = False
    """No more than that the broker is not there: nothing new to whoever knows that the connection is lost."""


class BrokerError(Exception):
    """There is no connection to the broker; carries the trouble."""

    def __init__(self, trouble: Trouble) -> None:
        self.trouble = trouble
        super().__init__(trouble.reason)


def of_file(what: str, error: OSError | ValueError) -> Trouble:
    """A file of the configuration cannot be used. ``what`` is its key."""
    if isinstance(error, ssl.SSLError):
        wanted = "PEM files that belong together, the key without a passphrase"
        return Trouble(f"{what} cannot be used: {error.reason or error}", f"give it {wanted}")
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        hint = "check the path, and that the user ssm-status-reporter may read it"
        return Trouble(f"{what} cannot be read: {error.strerror}{where}", hint)
    return Trouble(f"{what} cannot be used: {error}", "write the one line that it should hold")


def of_dialling(error: OSError) -> Trouble:
    """There is no connection, or no TLS on it."""
    match error:
        case ssl.SSLCertVerificationError():
            hint = _CERTIFICATE_HINTS.get(error.verify_code, _AUTHORITY)
            return Trouble(f"the broker's certificate is not trusted: {error.verify_message}", hint)
        case ssl.SSLError():
            return _of_tls(error.reason or str(error))
        case socket.gaierror():
            return Trouble(f"the name cannot be looked up: {error.strerror}", "check sources.mqtt.host and DNS")
        case TimeoutError():
            return Trouble("no answer in time", f"{_ADDRESS}; look for a firewall in between", passing=True)
        case ConnectionResetError():
            return Trouble("the connection was closed at once", _TLS_OR_NOT, passing=True)
        case _:
            return Trouble(error.strerror or str(error), _ADDRESS, passing=True)


def of_handshake(error: OSError) -> Trouble:
    """There is a connection, and no TLS on it."""
    if isinstance(error, ConnectionError):
        return _of_tls("EOF: the connection was closed during the handshake")
    return of_dialling(error)


def of_answer(code: ReasonCode) -> Trouble:
    """The broker refuses the connection (CONNACK)."""
    hint = f"{_LOGIN}, and let the broker allow this client to connect" if code.value == _NOT_AUTHORIZED else None
    return Trouble(f"the broker refuses: {code}", hint or _HINTS.get(code.value, _WAIT))


def of_subscription(code: ReasonCode, subscription: str) -> Trouble:
    """The broker refuses the subscription (SUBACK)."""
    return Trouble(
        f"the broker refuses the subscription to {subscription}: {code}", _HINTS.get(code.value, _POLICY)
    )


def of_publication(code: ReasonCode) -> Trouble:
    """The broker refuses a publication (PUBACK)."""
    return Trouble(f"the broker refuses it: {code}", _HINTS.get(code.value, _POLICY))


def of_end(code: ReasonCode, network_error: str | None, *, answered: bool) -> Trouble:
    """The connection ended.

    ``code`` is the broker's word, or what the client made of the silence; ``network_error`` is the last error of the
    socket; ``answered``: the broker had accepted the connection.
    """
    if code.value == _NOT_AUTHORIZED:
        return Trouble(f"the broker closed the connection: {code}", _POLICY)
    if code.value != _UNSPECIFIED:
        return Trouble(f"the connection ended: {code}", _HINTS.get(code.value, _WAIT))
    reason = "the broker closed the connection" if network_error is None else network_error.removeprefix(_PREFIX)
    if "SSL" in reason:
        return _of_tls(reason)
    if not answered:
        return Trouble(f"{reason}, without an answer", _TLS_OR_NOT, passing=True)
    return Trouble(reason, "it will be tried again; the broker's log may tell why", passing=True)


def of_silence(about: str, seconds: float = MQTT_ANSWER_SECONDS_MAX) -> Trouble:
    """The broker did not answer in time."""
    hint = "look at the broker: it accepts connections and is stuck or overloaded"
    return Trouble(f"the broker did not answer {about} within {seconds:.0f} s", hint, passing=True)


def _of_tls(reason: str) -> Trouble:
    """An error of the socket, which may be a TLS alert."""
    shouted = reason.upper().replace(" ", "_")
    if "CERTIFICATE_REQUIRED" in shouted or "ALERT" in shouted:
        return Trouble(f"TLS: {reason}", _CLIENT_CERTIFICATE)
    if "WRONG_VERSION_NUMBER" in shouted or "EOF" in shouted:
        hint = "the broker may speak no TLS on this port: set sources.mqtt.port, or leave out sources.mqtt.tls"
        return Trouble(f"TLS: {reason}", hint)
    return Trouble(reason, passing=True)
