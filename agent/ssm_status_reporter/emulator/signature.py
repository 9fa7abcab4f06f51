"""SigV4 as far as an emulator sees it: present, well formed, of today. The signature itself is not verified.

Rules:
  * No Authorization at all, a partial one, a malformed one and a skewed date are four different answers.
  * A signature is good for five minutes either side of the emulator's clock.

Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-signing-elements.html and, for the
texts, what the endpoints answer.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

from ssm_status_reporter.emulator.errors import ServiceError

SKEW_MAX: Final = timedelta(minutes=5)
SERVICE: Final = "ssm"
SCOPE_ELEMENTS: Final = 5

_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_AUTHORIZATION: Final = re.compile(
    rf"{_ALGORITHM}\s+Credential=(?P<key>[^/,\s]+)/(?P<date>[^/,\s]*)/(?P<region>[^/,\s]*)/(?P<service>[^/,\s]*)"
    r"/(?P<term>[^/,\s]*),\s*SignedHeaders=(?P<headers>[^,\s]+),\s*Signature=(?P<signature>[^,\s]+)"
)
_ACCESS_KEY_ID: Final = re.compile(r"Credential=([^/,\s]+)")
_SIGNATURE: Final = re.compile(r"[0-9a-f]{64}")
_DATE: Final = re.compile(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Signature:
    """Who signed, and for which region."""

    access_key_id: str
    region: str


def access_key_id_of(authorization: str) -> str | None:
    """The access key id that an Authorization header names, however malformed the rest."""
    found = _ACCESS_KEY_ID.search(authorization)
    return None if found is None else found.group(1)


def read_signature(headers: Mapping[str, str], now: datetime) -> Signature:
    """The signature of a request; raises `ServiceError` as the service refuses what is absent or malformed."""
    authorization = headers.get("Authorization", "")
    if not authorization:
        raise ServiceError("MissingAuthenticationTokenException")
    found = _AUTHORIZATION.fullmatch(authorization)
    date = headers.get("X-Amz-Date") or headers.get("Date")
    if found is None or date is None:
        raise _incomplete(authorization, date)
    signed_at = _moment(date)
    if signed_at is None:
        raise ServiceError(
            "IncompleteSignatureException",
            f"Date must be in ISO-8601 'basic format'. Got '{date}'. See http://en.wikipedia.org/wiki/ISO_8601",
        )
    if found["service"] != SERVICE:
        raise _wrong(f"Credential should be scoped to correct service: '{SERVICE}'. ")
    if found["term"] != "aws4_request":
        raise _wrong("Credential should be scoped with a valid terminator: 'aws4_request'. ")
    day = signed_at.strftime("%Y%m%d")
    if found["date"] != day:
        raise _wrong(
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "
            f"'{found['date']}' != '{day}', from '{_basic(signed_at)}'."
        )
    if signed_at < now - SKEW_MAX:
        raise _wrong(
            f"Signature expired: {_basic(signed_at)} is now earlier than {_basic(now - SKEW_MAX)} "
            f"({_basic(now)} - 5 min.)"
        )
    if signed_at > now + SKEW_MAX:
        raise _wrong(
            f"Signature not yet current: {_basic(signed_at)} is still later than {_basic(now + SKEW_MAX)} "
            f"({_basic(now)} + 5 min.)"
        )
    if _SIGNATURE.fullmatch(found["signature"]) is None:
        raise ServiceError("InvalidSignatureException")
    return Signature(access_key_id=found["key"], region=found["region"])


def _incomplete(authorization: str, date: str | None) -> ServiceError:
    """What an Authorization header lacks, all of it, as the service lists it."""
    if not authorization.startswith(_ALGORITHM):
        return ServiceError(
            "IncompleteSignatureException", f"Unsupported AWS 'algorithm': '{authorization.partition(' ')[0]}'"
        )
    lacks = [
        f"Authorization header requires '{parameter}' parameter."
        for parameter in ("Credential", "Signature", "SignedHeaders")
        if re.search(rf"\b{parameter}=[^,\s]", authorization) is None
    ]
    if date is None:
        lacks.append("Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.")
    credential = re.search(r"Credential=([^,\s]*)", authorization)
    if not lacks and credential is not None and credential.group(1).count("/") != SCOPE_ELEMENTS - 1:
        lacks.append(
            "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, "
            f"got '{credential.group(1)}'"
        )
    # The signature is left out of what is quoted: it goes into logs.
    return ServiceError("IncompleteSignatureException", " ".join(lacks) or None)


def _wrong(message: str) -> ServiceError:
    return ServiceError("InvalidSignatureException", message)


def _moment(text: str) -> datetime | None:
    """An X-Amz-Date, or a Date header in its own form."""
    found = _DATE.fullmatch(text)
    try:
        if found is not None:
            year, month, day, hour, minute, second = map(int, found.groups())
            return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        return parsedate_to_datetime(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _basic(moment: datetime) -> str:
    return moment.strftime("%Y%m%dT%H%M%SZ")
