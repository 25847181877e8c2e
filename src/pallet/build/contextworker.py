"""Worker kind ``build.untar``: a context's tar into a directory.

Runs   in a zygote child, one archive a child; blocking.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pallet.errors import InvalidParameterError, PalletError
from pallet.layer.extract import Owner, extract
from pallet.layer.model import ArchiveError
from pallet.layer.worker import WorkerFailure, failure_of

if TYPE_CHECKING:
    from collections.abc import Sequence


class UntarRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Unpack an archive. fds: the archive (a pipe), the directory."""

    keep_owner: bool = False
    """Else everything is root's, as in a context."""


class UntarReply(msgspec.Struct, frozen=True, kw_only=True):
    """What ``run_untar`` answers."""

    entries: int = 0
    failure: WorkerFailure | None = None

    def result(self) -> int:
        """Return the number of entries or raise what went wrong."""
        if self.failure is not None:
            self.failure.raise_()
        return self.entries


_request = msgspec.json.Decoder(UntarRequest)


def run_untar(request: bytes, fds: Sequence[int]) -> bytes:
    """Worker kind ``build.untar``: ``UntarRequest`` to ``UntarReply``."""
    owner = None if _request.decode(request).keep_owner else Owner(0, 0)
    source_fd, root_fd = fds
    try:
        reply = UntarReply(entries=extract(source_fd, root_fd, "/", owner=owner))
    except ArchiveError as error:
        message = f"Error processing tar file(exit status 1): {error}"
        reply = UntarReply(failure=failure_of(InvalidParameterError(message)))
    except (PalletError, OSError) as error:
        reply = UntarReply(failure=failure_of(error))
    return msgspec.json.encode(reply)
