"""Text that the service, a proxy or an exception wrote, made fit for a log line.

Rules:
  * No secrets: error messages quote the Authorization header (IncompleteSignature) or the canonical request with
    its session token (InvalidSignatureException). What follows such a name is masked, and so is any run of
    characters too long to be anything but a token.
  * One printable line: control, format and line-breaking characters become spaces.
  * Bounded, with the domain's visible mark.
"""

import re
from typing import Final

from ssm_status_reporter.domain.limits import CUT_MARK, ERROR_TEXT_CHARS_MAX

READ_CHARS_MAX: Final = 8 * 1024
"""Of a longer text, the rest is not even looked at."""
REQUEST_ID_CHARS_MAX: Final = 128
"""A request id is 36 characters; what is longer is none."""
TOKEN_CHARS_MIN: Final = 200
"""No word, name or ARN of this API is this long; a session token is longer."""

MASK: Final = "[masked]"

_NAMED_SECRET: Final = re.compile(
    r"(x-amz-security-token|x-amz-credential|x-amz-signature|security[_-]?token|session[_-]?token|secret[_-]?access[_-]?key"
    r"|proxy-authorization|authorization|credential|signature)"
    r"""(["']?\s*[:=]\s*["']?)(?:(?:AWS4-HMAC-SHA256|Basic|Bearer)\s+)?(?!Credential\s*=)[^\s,;&"'<>]+""",
    re.IGNORECASE,
)
_LONG_RUN: Final = re.compile(rf"[A-Za-z0-9+/=_%-]{{{TOKEN_CHARS_MIN},}}")
_USER_INFO: Final = re.compile(r"://[^/\s@]+@")


def plain(text: str) -> str:
    """The text on one printable line, without secrets, at most ``ERROR_TEXT_CHARS_MAX`` characters."""
    line = printable(text[:READ_CHARS_MAX])
    line = _NAMED_SECRET.sub(rf"\1\2{MASK}", line)
    line = _USER_INFO.sub(f"://{MASK}@", line)
    line = _LONG_RUN.sub(MASK, line)
    if len(line) <= ERROR_TEXT_CHARS_MAX:
        return line
    return line[: ERROR_TEXT_CHARS_MAX - len(CUT_MARK)] + CUT_MARK


def printable(text: str) -> str:
    """The text on one line: what does not print becomes a space, and spaces do not repeat."""
    if not text.isprintable():
        text = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(text.split())
