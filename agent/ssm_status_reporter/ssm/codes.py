"""What each error code of the service means, as tables.

The order in ``answer.py`` decides where a code could mean two things; a code in no table is an error nobody
documented, and parks the report.

Sources: botocore's service model ssm-2014-11-06 (errors of the two operations); the API reference's common errors;
botocore's retry classes (throttled, transient); the clock codes that other SDKs of the vendor correct.
"""

from enum import StrEnum
from typing import Final

from ssm_status_reporter.domain.association import Association


class Operation(StrEnum):
    """The two operations, named as the API and as IAM name them."""

    UPDATE = "UpdateAssociationStatus"
    DESCRIBE = "DescribeAssociation"


class Meaning(StrEnum):
    """What an error code says, before the circumstances are weighed."""

    UNCHANGED = "unchanged"
    BUSY = "busy"
    THROTTLED = "throttled"
    TRANSIENT = "transient"
    ABSENT = "absent"
    NODE = "node"
    REFUSED = "refused"
    CREDENTIALS = "credentials"
    SIGNATURE = "signature"
    """The clock's fault or the credentials': the reply's date and text tell."""
    CLOCK = "clock"
    PERMISSION = "permission"
    NOT_OFFERED = "not offered"
    UNKNOWN = "unknown"


_CODES: Final[dict[Meaning, tuple[str, ...]]] = {
    Meaning.UNCHANGED: ("StatusUnchanged",),
    Meaning.BUSY: ("TooManyUpdates",),
    Meaning.THROTTLED: (
        "BandwidthLimitExceeded",
        "EC2ThrottledException",
        "LimitExceededException",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
        "TransactionInProgressException",
    ),
    Meaning.TRANSIENT: (
        "InternalFailure",
        "InternalServerError",
        "InternalServerException",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "ServiceUnavailableException",
    ),
    Meaning.ABSENT: ("AssociationDoesNotExist",),
    Meaning.NODE: ("InvalidInstanceId",),
    Meaning.REFUSED: ("InvalidDocument", "SerializationException", "ValidationException"),
    Meaning.CREDENTIALS: (
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "UnrecognizedClientException",
    ),
    Meaning.SIGNATURE: (
        "IncompleteSignature",
        "IncompleteSignatureException",
        "InvalidSignatureException",
        "SignatureDoesNotMatch",
    ),
    Meaning.CLOCK: ("RequestExpired", "RequestInTheFuture", "RequestTimeTooSkewed"),
    Meaning.PERMISSION: ("AccessDenied", "AccessDeniedException", "NotAuthorized"),
    Meaning.NOT_OFFERED: ("InvalidAction", "UnknownOperation", "UnknownOperationException"),
}

MEANINGS: Final[dict[str, Meaning]] = {code: meaning for meaning, codes in _CODES.items() for code in codes}
"""Every code with a meaning of its own."""

_REMEDIES: Final[dict[Meaning, str]] = {
    Meaning.BUSY: "another update of this association is under way; it is retried shortly",
    Meaning.THROTTLED: "the service asks for a lower rate; the daemon slows down by itself, from delivery.rate",
    Meaning.TRANSIENT: "the service failed; it is retried by itself",
    Meaning.ABSENT: (
        "only associations created with the InstanceId parameter have this API, not those made with Targets; "
        "check the document's name, the node and the region (aws ssm describe-association)"
    ),
    Meaning.NODE: (
        "the service does not take this node: it is not registered in this account and region, the SSM Agent does "
        "not run on it, it is in an invalid state, or these credentials may not access it"
    ),
    Meaning.REFUSED: "the service will never take this report: correct what hands it in",
    Meaning.CREDENTIALS: (
        "the credentials are expired or unknown to the service; they are loaded afresh by themselves, so check "
        "what renews them: the instance role, or the SSM Agent and its shared credentials file"
    ),
    Meaning.SIGNATURE: (
        "the secret key does not belong to the access key, or something between here and the service changes "
        "requests; check the credentials and any proxy"
    ),
    Meaning.CLOCK: "the clock of this machine is wrong: start time synchronisation (chrony, systemd-timesyncd)",
    Meaning.NOT_OFFERED: "this endpoint does not offer the operation; check aws.endpoint_url and the region",
    Meaning.UNKNOWN: "the API documents no such error: ask the service's support, naming the request id",
}

PROXY: Final = (
    "not the service's answer: a proxy or gateway in between refuses the call; check HTTPS_PROXY, NO_PROXY and "
    "aws.endpoint_url"
)
"""Remedy for a reply that the service cannot have written."""


def hint(meaning: Meaning, operation: Operation, association: Association) -> str:
    """What an operator does about it."""
    if meaning is not Meaning.PERMISSION:
        return _REMEDIES[meaning]
    node = "managed-instance" if association.instance_id.startswith("mi-") else "instance"
    return (
        f"allow ssm:{operation} to these credentials on {node}/{association.instance_id} and "
        f"document/{association.document.rpartition('/')[2]}, and look for a policy that denies it"
    )
