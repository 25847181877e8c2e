"""Sections of the registry's configuration about access: ``[auth]``, ``[[rule]]``, ``[limits]``, ``[tls]``.

Owns   names, defaults and checks of these settings.
Runs   once at start, and again on SIGHUP.
Needs  nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import msgspec

from pallet.errors import InvalidParameterError

Right = Literal["pull", "push", "delete", "catalog"]
ALL_RIGHTS: tuple[Right, ...] = ("pull", "push", "delete", "catalog")
_PERIODS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class TokenConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[auth.token]``: bearer tokens, issued here, or elsewhere when keys to verify them are given."""

    service: str = "pallet-registry"
    """Audience of the tokens."""
    issuer: str = "pallet-registry"
    realm: str = ""
    """URL of the token endpoint; "" is this registry's own, under the name that the client used."""
    key: str = ""
    """PEM file of the signing key; "" is ``token-key.pem`` in the root, made at the first start."""
    lifetime_s: int = 300
    refresh_s: int = 90 * 86400
    """Of the refresh token that a login gets."""
    jwks_file: str = ""
    jwks_url: str = ""
    """Fetched at start, and again when a token names a key that is not in it."""
    root_certificates: str = ""
    """PEM bundle: a token is signed by one of these, or by a certificate (``x5c``) that leads to one."""

    @property
    def is_external(self) -> bool:
        """Whether tokens are issued elsewhere."""
        return bool(self.jwks_file or self.jwks_url or self.root_certificates)


class AuthConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[auth]``."""

    htpasswd: str = ""
    """File of ``NAME:HASH`` lines, bcrypt only; read again when it changes."""
    realm: str = "pallet registry"
    """What a basic challenge calls this registry."""
    groups: dict[str, tuple[str, ...]] = {}
    default: tuple[Right, ...] | None = None
    """Rights of users on repositories that no rule fits; None is all of them, or none once there are
    rules."""
    anonymous: tuple[Right, ...] = ()
    """Everybody's rights on repositories that no rule fits."""
    token: TokenConfig | None = None


class RuleConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[[rule]]``: what somebody may do in some repositories. Rules that fit add up."""

    repository: str | tuple[str, ...]
    """Patterns; ``*`` takes slashes too, ``{user}`` is the user's own name."""
    users: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    anonymous: bool = False
    """For everybody. Without users, groups and this a rule is for everybody who logged in."""
    allow: tuple[Right, ...]

    @property
    def patterns(self) -> tuple[str, ...]:
        """``repository`` as a list."""
        return (self.repository,) if isinstance(self.repository, str) else self.repository


class LimitsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[limits]``. Rates are ``"COUNT/PERIOD"``, as ``"100/6h"`` or ``"20/s"``; "" is no limit."""

    requests: str = ""
    """Of a user."""
    anonymous_requests: str = ""
    """Of an address, by clients that are not logged in."""
    pulls: str = ""
    """GETs of manifests, of a user."""
    anonymous_pulls: str = ""
    login_failures: str = "100/10m"
    """Wrong passwords, of an address; then it has to wait, without any being looked at."""
    max_manifest_bytes: int = 4 << 20
    max_blob_bytes: int = 0
    """0: no limit."""
    repository_bytes: int = 0
    """Sum of the blobs in one repository; 0: no limit."""


class TlsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[tls]``."""

    certificate: str = ""
    """PEM file of the chain, the server's own certificate first; "" is plain HTTP."""
    key: str = ""
    client_ca: str = ""
    """PEM bundle of the authorities that clients' certificates come from."""
    require_client: bool = True
    """With ``client_ca``: clients without a certificate are turned away."""
    min_version: Literal["1.2", "1.3"] = "1.2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """``count`` in ``period_s`` seconds."""

    count: int
    period_s: float


def parse_rate(text: str, name: str) -> Rate | None:
    """Read ``"100/6h"``; None for "".

    Raises:
        InvalidParameterError: it is something else.
    """
    if not text:
        return None
    match = re.fullmatch(r"([1-9][0-9]{0,8})\s*/\s*([1-9][0-9]{0,4})?\s*([smhd])", text)
    if match is None:
        message = f"limits.{name}: want COUNT/PERIOD as in \"100/6h\" or \"20/s\", got {text!r}"
        raise InvalidParameterError(message)
    return Rate(count=int(match[1]), period_s=int(match[2] or 1) * _PERIODS_S[match[3]])
