"""The service's errors: what a code is answered with, in the JSON 1.1 form.

Rules:
  * Errors in the service model take their HTTP status from it; those common to all services are in
    ``COMMON``. A code that is in neither is a client error.
  * A modelled error carries ``Message`` as the model spells it, or no text if its shape has no member.

Source: botocore's service model ssm-2014-11-06; the common errors as the endpoint answers them over JSON
1.1, which is 400 where the reference of other protocols says 403 or 404.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

import msgspec

COMMON: Final[Mapping[str, tuple[HTTPStatus, str | None]]] = {
    "AccessDeniedException": (HTTPStatus.BAD_REQUEST, "User is not authorized to perform the action"),
    "ExpiredTokenException": (HTTPStatus.BAD_REQUEST, "The security token included in the request is expired"),
    "IncompleteSignatureException": (
        HTTPStatus.BAD_REQUEST,
        "The request signature does not conform to AWS standards",
    ),
    "InternalFailure": (HTTPStatus.INTERNAL_SERVER_ERROR, "The request processing has failed"),
    "InvalidSignatureException": (
        HTTPStatus.BAD_REQUEST,
        "The request signature we calculated does not match the signature you provided.",
    ),
    "MissingAuthenticationTokenException": (HTTPStatus.BAD_REQUEST, "Missing Authentication Token"),
    "RequestEntityTooLargeException": (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The request body is too large"),
    "RequestExpired": (HTTPStatus.BAD_REQUEST, "Request has expired"),
    "RequestLimitExceeded": (HTTPStatus.SERVICE_UNAVAILABLE, "Request limit exceeded."),
    "RequestTimeout": (HTTPStatus.REQUEST_TIMEOUT, "The request timed out"),
    "SerializationException": (HTTPStatus.BAD_REQUEST, None),
    "ServiceUnavailable": (HTTPStatus.SERVICE_UNAVAILABLE, "The service is temporarily unavailable"),
    "SlowDown": (HTTPStatus.SERVICE_UNAVAILABLE, "Please reduce your request rate"),
    "ThrottlingException": (HTTPStatus.BAD_REQUEST, "Rate exceeded"),
    "UnknownOperationException": (HTTPStatus.BAD_REQUEST, None),
    "UnrecognizedClientException": (
        HTTPStatus.BAD_REQUEST,
        "The security token included in the request is invalid.",
    ),
    "ValidationException": (HTTPStatus.BAD_REQUEST, None),
}
"""Errors that any operation may answer: status and default text."""

TEXTS: Final[Mapping[str, str]] = {
    "AssociationDoesNotExist": "The specified association doesn't exist.",
    "InternalServerError": "An error occurred on the server side.",
    "InvalidAssociationVersion": "The version you specified isn't valid.",
    "InvalidDocument": "The specified SSM document doesn't exist.",
    "InvalidInstanceId": "The specified managed node isn't valid or isn't in a valid state.",
    "InvalidNextToken": "The specified token isn't valid.",
    "InvalidTarget": "The target isn't valid or doesn't exist.",
    "TooManyUpdates": "There are concurrent updates for a resource that supports one update at a time.",
}
"""Default texts of modelled errors."""


class ServiceError(Exception):
    """An answer other than success. ``message`` None means the code's default text."""

    def __init__(
        self, code: str, message: str | None = None, *, status: int | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.status = status
        self.retry_after_s = retry_after_s


def validation_error(message: str) -> ServiceError:
    """A request that breaks a rule no shape states."""
    return ServiceError("ValidationException", message)


def status_of(error: ServiceError, modelled: Mapping[str, int]) -> int:
    """The HTTP status: the error's own, else the model's, else the common one, else 400."""
    if error.status is not None:
        return error.status
    common = COMMON.get(error.code, (HTTPStatus.BAD_REQUEST, None))[0]
    return modelled.get(error.code, common)


def body_of(error: ServiceError, modelled: Mapping[str, int]) -> bytes:
    """The JSON 1.1 body: ``__type`` and, where there is one, the text."""
    text = error.message
    if text is None:
        text = TEXTS.get(error.code) if error.code in modelled else COMMON.get(error.code, (None, None))[1]
    if text is None:
        return msgspec.json.encode({"__type": error.code})
    upper = error.code in modelled or error.code in {"AccessDeniedException", "SerializationException"}
    return msgspec.json.encode({"__type": error.code, "Message" if upper else "message": text})
