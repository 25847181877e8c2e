"""Error kinds: every failure that leaves a package is one of these.

``api/status.py`` holds the only table from kind to HTTP status. A domain error subclasses exactly
one kind. The text of an error is wire format: clients match on Docker's words.

```
PalletError
├── InvalidParameterError    400      ├── UnavailableError          503
├── UnauthorizedError        401      ├── NotImplementedApiError    501
├── ForbiddenError           403      ├── DeadlineError             500
├── NotFoundError            404      ├── DataLossError             500
├── ConflictError            409      ├── SystemFailureError        500
├── NotModifiedError         304      └── CancelledRequestError     (no reply)
SyscallError (OSError)                kernel call, errno, path; never leaves ``engine`` as such
```
"""

from __future__ import annotations

import os


class PalletError(Exception):
    """Base of every error kind. ``str(error)`` is the message a client sees."""


class InvalidParameterError(PalletError):
    """The request cannot be understood or is contradictory (400)."""


class UnauthorizedError(PalletError):
    """Credentials are missing or wrong (401)."""


class ForbiddenError(PalletError):
    """The request is understood and refused (403)."""


class NotFoundError(PalletError):
    """The named object does not exist (404)."""


class ConflictError(PalletError):
    """The object's present state refuses the request (409)."""


class NotModifiedError(PalletError):
    """The object is already in the wanted state (304, no body)."""


class NotImplementedApiError(PalletError):
    """Docker has this, this host or driver cannot do it (501)."""


class UnavailableError(PalletError):
    """A needed service does not answer or is not enabled (503)."""


class DeadlineError(PalletError):
    """A time limit ran out (500)."""


class DataLossError(PalletError):
    """Stored or received bytes are not what they should be (500)."""


class SystemFailureError(PalletError):
    """The host refused something that should have worked (500)."""


class CancelledRequestError(PalletError):
    """The client went away; nobody reads the reply."""


class SyscallError(OSError):
    """A kernel call failed.

    Args:
        call: the syscall's name, for example ``mount``.
        errno: the kernel's code.
        path: the path or object the call was about, if there is one.
    """

    def __init__(self, call: str, errno: int, path: str | None = None) -> None:
        super().__init__(errno, os.strerror(errno), path)
        self.call = call
        self.path = path

    def __str__(self) -> str:
        """``mount /proc: operation not permitted``, as Go programs word it."""
        where = f" {self.path}" if self.path else ""
        return f"{self.call}{where}: {os.strerror(self.errno or 0).lower()}"
