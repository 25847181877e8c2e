"""Names in credentials, for logs and notifications.

Owns   nothing: whether the credentials are right was decided elsewhere, before.
Runs   anywhere; pure.
Needs  nothing.
Spec   RFC 7617; RFC 7519 (``sub``).
"""

from __future__ import annotations

import base64
import json


def claimed_user(header: str) -> str:
    """User name of an ``Authorization`` header's value; "" when it has none."""
    scheme, _, value = header.partition(" ")
    try:
        if scheme.lower() == "basic":
            return base64.b64decode(value).decode("utf-8", "replace").partition(":")[0]
        if scheme.lower() == "bearer":
            payload = value.split(".")[1]
            claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
            return str(claims.get("sub", ""))
    except (ValueError, IndexError, AttributeError):
        pass
    return ""
