"""What can go wrong between the command line and a daemon."""

from __future__ import annotations

from pallet.errors import PalletError, UnavailableError


class DaemonError(PalletError):
    """The daemon answered with an error.

    Args:
        status: HTTP status.
        message: the daemon's words, without prefix.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"Error response from daemon: {message}")
        self.status = status
        self.message = message


class ConnectionFailedError(UnavailableError):
    """Nothing answers at the daemon's address.

    Args:
        message: text for the user.
        errno: the system's code where there is one; ENOENT and ECONNREFUSED mean "not running".
    """

    def __init__(self, message: str, errno: int | None = None) -> None:
        super().__init__(message)
        self.errno = errno


class ProtocolError(UnavailableError):
    """The other side does not speak HTTP/1.1 as expected, or closed in the middle of a reply."""


class UsageError(PalletError):
    """An address, context or configuration the user gave makes no sense."""
