"""What the texts in a configuration must look like: one check for each sort.

Each check returns when the text will do and raises `UnacceptableError` when not. None of them looks at the
network or the file system, and none quotes what might be a secret.
"""

import re
from ipaddress import ip_address
from typing import Final
from urllib.parse import SplitResult, urlsplit

from ssm_status_reporter.config.errors import UnacceptableError
from ssm_status_reporter.domain.association import INSTANCE_ID

AUTO: Final = "auto"
"""The value that means: find out."""

PORT_MAX: Final = 65535

REGION: Final = re.compile(r"[a-z]+(-[a-z0-9]+)*-[0-9]+", re.ASCII)
_ZONE: Final = re.compile(r"([a-z]+(?:-[a-z0-9]+)*-[0-9]+)[a-z]", re.ASCII)
_NODE_PATTERN: Final = re.compile(r"[\w*?-]+", re.ASCII)
_HOST: Final = re.compile(r"(?=.{1,253}$)[\w-]{1,63}(\.[\w-]{1,63})*\.?", re.ASCII)


def instance_id(text: str) -> None:
    """``auto``, ``i-…`` or ``mi-…``."""
    if text != AUTO and not INSTANCE_ID.fullmatch(text):
        raise UnacceptableError(
            f"{text!r} is no instance id", "write auto, i- and 8 or 17 characters, or mi- and 17 characters"
        )


def region(text: str) -> None:
    """``auto`` or the name of a region. Which regions exist is the service's to say: new ones appear."""
    if text == AUTO or REGION.fullmatch(text):
        return
    zone = _ZONE.fullmatch(text)
    if zone:
        raise UnacceptableError(f"{text!r} is an availability zone", f"its region is {zone.group(1)}")
    raise UnacceptableError(f"{text!r} is no region", "write auto, or a region such as eu-central-1")


def node_pattern(text: str) -> None:
    """An instance id, in which ``*`` and ``?`` stand for anything and for any one character."""
    fixed = re.split(r"[*?]", text, maxsplit=1)[0]
    if not _NODE_PATTERN.fullmatch(text) or (fixed == text and not INSTANCE_ID.fullmatch(text)):
        raise UnacceptableError(f"{text!r} is no instance id and no pattern for one", "write such as mi-*")
    if not any(fixed.startswith(start) or start.startswith(fixed) for start in ("i-", "mi-")):
        raise UnacceptableError(f"no instance id matches {text!r}", "they start with i- or mi-")


def endpoint_url(text: str) -> None:
    """``http(s)://host[:port][/path]``. Credentials in it are refused, and not quoted."""
    parts = _split(text)
    if parts.username is not None or parts.password is not None:
        raise UnacceptableError(
            "holds credentials", "remove them: the AWS credentials are the SDK's own, see aws.profile"
        )
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise UnacceptableError(
            "is no http or https URL", "write such as https://vpce-1a2b3c.ssm.eu-central-1.vpce.amazonaws.com"
        )
    if parts.query or parts.fragment:
        raise UnacceptableError(
            "must end after the host, the port and the path", "remove the ? or # and what follows"
        )
    if re.search(r"\s", text):
        raise UnacceptableError("holds a blank")
    host(parts.hostname)


def host(text: str) -> None:
    """A host name or an IP address, without scheme and port."""
    if is_address(text):
        return
    if "://" in text:
        raise UnacceptableError("must be a host, not a URL", "leave out the scheme; tls: {} turns TLS on")
    name, colon, port = text.rpartition(":")
    if colon and port.isdecimal():
        raise UnacceptableError("must be a host without a port", f"write host: {name} and port: {port}")
    if not _HOST.fullmatch(text):
        raise UnacceptableError(f"{text!r} is neither a host name nor an IP address")


def listen_address(text: str) -> None:
    """``host:port``, an IPv6 host in brackets."""
    split_address(text)


def split_address(text: str) -> tuple[str, int]:
    """Host and port of ``host:port``; raises `UnacceptableError`."""
    name, _, port = text.rpartition(":")
    if not name or not re.fullmatch("[0-9]{1,5}", port, re.ASCII) or not 0 < int(port) <= PORT_MAX:
        raise UnacceptableError(f"{text!r} is not host:port", "write such as 127.0.0.1:9107")
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
    elif ":" in name:
        raise UnacceptableError(f"{text!r} is ambiguous", "put an IPv6 address in brackets: [::1]:9107")
    host(name)
    return name, int(port)


def topic_prefix(text: str) -> None:
    """The first levels of MQTT topics."""
    _no_topic_signs(text, "+#")
    if text.startswith("$"):
        raise UnacceptableError("must not start with $: such topics belong to the broker")
    if text.endswith("/"):
        raise UnacceptableError(
            "must not end in /: the daemon puts the / that follows", f"write {text.rstrip('/')}"
        )


def share_group(text: str) -> None:
    """The name of an MQTT shared subscription."""
    _no_topic_signs(text, "/+#")


def path(text: str) -> None:
    """A path on this machine."""
    if text.startswith("~"):
        raise UnacceptableError("~ is not expanded", "write the whole path: a daemon has no home to speak of")


def file_path(text: str) -> None:
    """A path that can be a file's."""
    path(text)
    if text.endswith(("/", "/.", "/..")):
        raise UnacceptableError(f"{text!r} names a directory, and a file is due")


def anything(_text: str) -> None:
    """Any text on one line."""


def is_address(text: str) -> bool:
    """Whether the text is an IP address."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def is_loopback(name: str) -> bool:
    """Whether traffic to this host stays on this machine."""
    return ip_address(name).is_loopback if is_address(name) else name.rstrip(".").lower() == "localhost"


def without_credentials(url: str) -> str:
    """The URL with what stands before the @ of its host replaced by ``***``."""
    return re.sub(r"(?<=://)[^/?#]*@", "***@", url)


def _split(text: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        _ = parts.port  # parsed only when asked for
    except ValueError as error:
        # What urlsplit says quotes the text, and the text may hold a password.
        raise UnacceptableError("is no URL") from error
    return parts


def _no_topic_signs(text: str, signs: str) -> None:
    found = next((sign for sign in text if sign in signs), None)
    if found:
        raise UnacceptableError(f"must not hold {found}: it has a meaning of its own in MQTT topics")
