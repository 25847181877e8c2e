"""Who may do what in a registry; ``model`` is what the rest of it sees."""

from __future__ import annotations

from pallet.registry.auth.model import JWKS_PATH, TOKEN_PATH, Access, AccessControl, Caller, OpenAccess

__all__ = ["JWKS_PATH", "TOKEN_PATH", "Access", "AccessControl", "Caller", "OpenAccess"]
