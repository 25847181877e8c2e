"""gRPC's status codes and the error that carries one.

Spec   gRPC "Status codes and their use in gRPC".
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from pallet import errors
from pallet.api.status import message_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.any_pb2 import Any as AnyMessage


class Code(enum.IntEnum):
    """Status codes."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class GrpcError(Exception):
    """A call failed with ``code``; ``details`` are typed, for clients that know the types."""

    def __init__(self, code: Code, message: str, details: Sequence[AnyMessage] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details


_CODES: Final[dict[type[errors.PalletError], Code]] = {
    errors.InvalidParameterError: Code.INVALID_ARGUMENT,
    errors.UnauthorizedError: Code.UNAUTHENTICATED,
    errors.ForbiddenError: Code.PERMISSION_DENIED,
    errors.NotFoundError: Code.NOT_FOUND,
    errors.ConflictError: Code.FAILED_PRECONDITION,
    errors.UnavailableError: Code.UNAVAILABLE,
    errors.NotImplementedApiError: Code.UNIMPLEMENTED,
    errors.DeadlineError: Code.DEADLINE_EXCEEDED,
    errors.DataLossError: Code.DATA_LOSS,
    errors.CancelledRequestError: Code.CANCELLED,
}


def of_exception(error: BaseException) -> GrpcError:
    """Turn any error into the one a client sees; an unforeseen one is logged."""
    if isinstance(error, GrpcError):
        return error
    code = next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), Code.UNKNOWN)
    return GrpcError(code, message_of(error))
