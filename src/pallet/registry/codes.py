"""Error codes of the registry protocol with their texts and statuses.

Owns   the only table from code to status; every refusal of this package is a ``RegistryHttpError``.
Runs   anywhere; pure.
Needs  nothing.
Spec   distribution-spec "Error codes".
"""

from __future__ import annotations

import json
from typing import Any

CODES: dict[str, tuple[int, str]] = {
    "BLOB_UNKNOWN": (404, "blob unknown to registry"),
    "BLOB_UPLOAD_INVALID": (400, "blob upload invalid"),
    "BLOB_UPLOAD_UNKNOWN": (404, "blob upload unknown to registry"),
    "DIGEST_INVALID": (400, "provided digest did not match uploaded content"),
    "MANIFEST_BLOB_UNKNOWN": (400, "blob unknown to registry"),
    "MANIFEST_INVALID": (400, "manifest invalid"),
    "MANIFEST_UNKNOWN": (404, "manifest unknown"),
    "NAME_INVALID": (400, "invalid repository name"),
    "NAME_UNKNOWN": (404, "repository name not known to registry"),
    "PAGINATION_NUMBER_INVALID": (400, "invalid number of results requested"),
    "RANGE_INVALID": (416, "invalid content range"),
    "SIZE_INVALID": (400, "provided length did not match content length"),
    "TAG_INVALID": (400, "manifest tag did not match URI"),
    "UNAUTHORIZED": (401, "authentication required"),
    "DENIED": (403, "requested access to the resource is denied"),
    "UNSUPPORTED": (405, "The operation is unsupported."),
    "TOOMANYREQUESTS": (429, "too many requests"),
    "UNAVAILABLE": (503, "service unavailable"),
    "NOT_FOUND": (404, "page not found"),
}


class RegistryHttpError(Exception):
    """A refusal: the reply's status, headers and body.

    Args:
        code: a key of ``CODES``.
        detail: what it is about; any JSON value.
        status: instead of the code's usual one.
        headers: to send along (``WWW-Authenticate``, ``Location``, ``Range``).
    """

    def __init__(
        self, code: str, detail: Any = None, *, message: str = "", status: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        usual, text = CODES[code]
        super().__init__(message or text)
        self.code = code
        self.detail = detail
        self.status = status or usual
        self.headers = headers or {}

    def body(self) -> bytes:
        """The JSON document of the reply."""
        entry = {"code": self.code, "message": str(self)}
        if self.detail is not None:
            entry["detail"] = self.detail
        return json.dumps({"errors": [entry]}).encode() + b"\n"
