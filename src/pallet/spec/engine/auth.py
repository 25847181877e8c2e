"""Registry credentials as clients send them (``X-Registry-Auth``, ``POST /auth``).

Spec   Engine API AuthConfig, AuthResponse.
"""

from __future__ import annotations

from msgspec import Struct, field


class AuthConfig(Struct, frozen=True, kw_only=True):
    """Credentials for one registry; all empty is anonymous."""

    username: str = ""
    password: str = ""
    auth: str = ""
    """base64 of ``username:password``, instead of the two."""
    email: str = ""
    serveraddress: str = ""
    identitytoken: str = ""
    registrytoken: str = ""


class AuthResponse(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Reply of a successful login."""

    identity_token: str = ""
    status: str = field(default="Login Succeeded")
