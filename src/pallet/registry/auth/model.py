"""What access control promises to the routes and the server.

Owns   ``Access`` (what a request needs), ``Caller`` (who sent it) and the ``AccessControl`` Protocol.
Runs   anywhere; pure.
Needs  nothing.
Spec   Docker token authentication: scopes.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pallet.registry.codes import RegistryHttpError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TOKEN_PATH = "/token"  # noqa: S105 - a path
JWKS_PATH = "/.well-known/jwks.json"

_NO_HEADERS: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What a request needs: ``actions`` on repository ``name`` ("" is the registry itself)."""

    name: str = ""
    actions: frozenset[str] = field(default=frozenset())
    manifest: bool = False
    """It reads a manifest: limits on pulls are shown with its reply."""
    counted: bool = False
    """It is a pull in the sense of these limits: a manifest's GET."""

    @property
    def scope(self) -> str:
        """The token scope to ask for."""
        if not self.name:
            return "registry:catalog:*" if self.actions else ""
        return f"repository:{self.name}:{','.join(sorted(self.actions))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who sent a request."""

    name: str = ""
    """User name; "" is nobody in particular."""
    headers: Mapping[str, str] = field(default_factory=lambda: _NO_HEADERS)
    """Fields that the reply carries for this caller (limits)."""
    sees_all: bool = False
    """The catalog is not filtered: whoever gave the right to it decided so."""


ANYBODY = Caller()


class AccessControl(Protocol):
    """Decides on requests. In any thread."""

    @property
    def is_open(self) -> bool:
        """Everybody may do everything."""
        ...

    def prompt(self, header: str, access: Access) -> bool:
        """Whether ``authorize`` answers from memory and has no fields for the reply.

        Then it may be called on a loop, and a kept reply be sent; else it may hash a password or fetch keys.
        """
        ...

    def authorize(self, header: str, access: Access, base_url: str, peer: str = "") -> Caller:
        """Let a request through.

        Args:
            header: its ``Authorization``, "" for none.
            base_url: ``http://host:port`` as the client sees this server.
            peer: the client's address, for limits.

        Raises:
            RegistryHttpError: UNAUTHORIZED with a challenge, DENIED, TOOMANYREQUESTS.
        """
        ...

    def warm(self, header: str, peer: str) -> None:
        """Hash the password in an ``Authorization``, so that ``authorize`` answers from memory. Refuses nothing."""
        ...

    def sees(self, caller: Caller) -> Callable[[str], bool] | None:
        """Which repositories the catalog shows to ``caller``; None is all of them."""
        ...

    def token(self, method: str, query: str, header: str, body: bytes, peer: str = "") -> bytes:
        """Answer the token endpoint; the reply's JSON.

        Raises:
            RegistryHttpError: NOT_FOUND where there is none; UNAUTHORIZED; TOOMANYREQUESTS.
        """
        ...

    def jwks(self) -> bytes:
        """Keys that verify tokens issued here, as a JWK set.

        Raises:
            RegistryHttpError: NOT_FOUND where none are issued.
        """
        ...


class OpenAccess:
    """Everybody may do everything."""

    is_open = True

    def prompt(self, header: str, access: Access) -> bool:
        """Always."""
        return True

    def authorize(self, header: str, access: Access, base_url: str, peer: str = "") -> Caller:
        """Accept."""
        return ANYBODY

    def warm(self, header: str, peer: str) -> None:
        """There are no passwords."""

    def sees(self, caller: Caller) -> Callable[[str], bool] | None:
        """Everything."""
        return None

    def token(self, method: str, query: str, header: str, body: bytes, peer: str = "") -> bytes:
        """There is no token endpoint."""
        raise RegistryHttpError("NOT_FOUND")

    def jwks(self) -> bytes:
        """There are no tokens."""
        raise RegistryHttpError("NOT_FOUND")


def basic_credentials(header: str) -> tuple[str, str] | None:
    """User and password of a basic ``Authorization``; None when it is of another kind or malformed."""
    scheme, _, value = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, password = base64.b64decode(value.strip(), validate=True).decode().partition(":")
    except (ValueError, binascii.Error):  # UnicodeDecodeError is a ValueError
        return None
    return (name, password) if colon else None
