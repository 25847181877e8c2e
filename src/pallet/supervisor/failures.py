"""Failures that came over a zygote pipe, as the error kinds they were.

Owns   the way back from data to exceptions.
Runs   on the event loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pallet import errors

if TYPE_CHECKING:
    from pallet.zygote.messages import Failure


class InvalidCommandError(errors.InvalidParameterError):
    """A container or exec cannot be started as configured (400)."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        """126 cannot be invoked, 127 not found."""


class StartError(errors.SystemFailureError):
    """The host or the runtime refused a start (500)."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        """128, as Docker stores it."""


class WorkerError(errors.SystemFailureError):
    """A worker failed with something that is no kind of ``pallet.errors``, or was killed."""


def start_error(failure: Failure) -> errors.PalletError:
    """Return the exception of a failed start."""
    if failure.kind == "InvalidParameterError" and failure.exit_code:
        return InvalidCommandError(failure.message, failure.exit_code)
    if failure.kind == "SystemFailureError":
        return StartError(failure.message, failure.exit_code or 128)
    return worker_error(failure)


def worker_error(failure: Failure) -> errors.PalletError:
    """Return the exception of a failed worker: the same kind, with the same words."""
    kind = getattr(errors, failure.kind, None)
    if isinstance(kind, type) and issubclass(kind, errors.PalletError):
        return kind(failure.message)
    return WorkerError(failure.message)
