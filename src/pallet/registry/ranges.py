"""Range requests on blobs.

Owns   the reading of ``Range`` and ``If-Range``.
Runs   in the server's threads; pure.
Needs  nothing.
Spec   RFC 9110 14.1.2, 13.1.5; one range a request, others get the whole.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pallet.registry.codes import RegistryHttpError

if TYPE_CHECKING:
    from pallet.registry.messages import RegistryRequest

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def byte_range(request: RegistryRequest, etag: str, size: int) -> tuple[int, int] | None:
    """First and last byte that a request wants of what has ``etag``; None to send everything.

    Raises:
        RegistryHttpError: RANGE_INVALID.
    """
    # A range of what the client began with; of anything else it gets the whole.
    if request.headers.get("if-range", etag) != etag:
        return None
    header = request.headers.get("range", "")
    match = _RANGE.fullmatch(header.replace(" ", ""))
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        first, last = max(size - int(match[2]), 0), size - 1
    else:
        first = int(match[1])
        last = min(int(match[2]), size - 1) if match[2] else size - 1
    if first >= size or last < first:
        raise RegistryHttpError("RANGE_INVALID", header, headers={
            "Content-Range": f"bytes */{size}"})
    return first, last
