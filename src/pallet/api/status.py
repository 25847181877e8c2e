"""The only table from error kinds to HTTP status, and the shape of an error reply.

Spec   Engine API ErrorResponse; semantics "errors".
"""

from __future__ import annotations

import logging
import secrets
from typing import Final

import msgspec

from pallet import errors
from pallet.http.messages import Response

logger = logging.getLogger(__name__)

STATUS: Final[dict[type[errors.PalletError], int]] = {
    errors.InvalidParameterError: 400,
    errors.UnauthorizedError: 401,
    errors.ForbiddenError: 403,
    errors.NotFoundError: 404,
    errors.ConflictError: 409,
    errors.NotModifiedError: 304,
    errors.NotImplementedApiError: 501,
    errors.UnavailableError: 503,
    errors.DeadlineError: 500,
    errors.DataLossError: 500,
    errors.SystemFailureError: 500,
}


def status_of(error: BaseException) -> int:
    """Return the HTTP status of an error; 500 for what is none of Pallet's kinds."""
    for kind in type(error).__mro__:
        status = STATUS.get(kind)
        if status is not None:
            return status
    return 500


def message_of(error: BaseException) -> str:
    """Return the text for the client; an unforeseen error is logged and gets a number."""
    if isinstance(error, errors.PalletError):
        return str(error)
    ticket = secrets.token_hex(4)
    logger.error("unforeseen error %s", ticket, exc_info=error)
    return f"internal error {ticket}: {type(error).__name__}: {error}"


def error_reply(error: BaseException) -> Response:
    """Turn an error into its reply; 304 has no body."""
    status = status_of(error)
    if status == 304:
        return Response(status)
    return message_reply(status, message_of(error))


def message_reply(status: int, message: str) -> Response:
    """Make the reply ``{"message": …}``."""
    return Response(status, msgspec.json.encode({"message": message}) + b"\n", "application/json")
