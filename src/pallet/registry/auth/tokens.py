"""Bearer tokens: signing and verifying.

Owns   claims and their checks; which tokens were found good already.
Runs   in any thread.
Needs  the ``PyJWT`` and ``cryptography`` packages.
Spec   Docker token authentication (JWT with ``access``); RFC 7519; RFC 8725 (algorithms are the key's, and
       a token's ``typ`` keeps refresh tokens apart from others).
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pallet.registry.auth.keys import KeySet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pallet.registry.auth.keys import SigningKey

logger = logging.getLogger(__name__)

_LEEWAY_S = 30
_MAX_TOKEN_BYTES = 16 << 10
_MAX_ENTRIES = 256
_REMEMBERED = 4096
_REMEMBERED_BYTES = 4096
"""Longer ones are verified each time."""
_ACCESS_TYPE = "JWT"
_REFRESH_TYPE = "refresh+jwt"

Grants = dict[tuple[str, str], frozenset[str]]
"""(type, name) -> actions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What a good token says."""

    subject: str
    grants: Grants
    expires_at: float
    """Seconds since the epoch."""
    fingerprint: str = ""
    """Of the user's password at the time of a refresh token."""

    def covers(self, kind: str, name: str, actions: Iterable[str]) -> bool:
        """Whether all of these actions were granted."""
        granted = self.grants.get((kind, name), frozenset())
        return "*" in granted or granted.issuperset(actions)


class Verifier:
    """Checks tokens of one issuer for one audience."""

    def __init__(self, keys: KeySet, *, issuer: str, service: str,
                 now: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._issuer = issuer
        self._service = service
        self._now = now
        self._good: OrderedDict[str, Claims] = OrderedDict()
        self._lock = threading.Lock()

    def recall(self, token: str) -> Claims | None:
        """What a token says that was found good before; never slow."""
        with self._lock:
            claims = self._good.get(token)
        return claims if claims is not None and claims.expires_at + _LEEWAY_S > self._now() else None

    def verify(self, token: str) -> Claims | None:
        """What an access token says; None when it is not good (now, here, or at all)."""
        known = self.recall(token)
        if known is not None:
            return known
        claims = self._decode(token, refresh=False)
        if claims is not None and len(token) <= _REMEMBERED_BYTES:
            with self._lock:
                self._good[token] = claims
                while len(self._good) > _REMEMBERED:
                    self._good.popitem(last=False)
        return claims

    def verify_refresh(self, token: str) -> Claims | None:
        """What a refresh token says; None when it is not good."""
        return self._decode(token, refresh=True)

    def _decode(self, token: str, *, refresh: bool) -> Claims | None:
        import jwt
        if len(token) > _MAX_TOKEN_BYTES:
            return None
        try:
            head = jwt.get_unverified_header(token)
            if (head.get("typ") == _REFRESH_TYPE) != refresh or "crit" in head or "b64" in head:
                return None
            key = self._keys.find(head)
            if key is None:
                return None
            claims = jwt.decode(
                token, key.key, algorithms=list(key.algorithms), audience=self._service, issuer=self._issuer,
                leeway=_LEEWAY_S, options={"require": ["exp", "iss", "aud"]})
            return _claims(claims)
        except (jwt.PyJWTError, ValueError, TypeError, KeyError, RecursionError) as error:
            logger.debug("token refused: %s", error)
            return None


def _claims(claims: Mapping[str, Any]) -> Claims:
    """Shape what was signed; raises ValueError, TypeError or KeyError where it is not what tokens hold."""
    subject, entries = claims.get("sub") or "", claims.get("access") or []
    if not isinstance(subject, str) or not isinstance(entries, list) or len(entries) > _MAX_ENTRIES:
        message = "malformed claims"
        raise TypeError(message)
    grants: Grants = {}
    for entry in entries:
        kind, name, actions = entry["type"], entry["name"], entry["actions"]
        if not (isinstance(kind, str) and isinstance(name, str) and isinstance(actions, list)):
            message = "malformed access entry"
            raise TypeError(message)
        wanted = frozenset(action for action in actions if isinstance(action, str))
        grants[kind, name] = grants.get((kind, name), frozenset()) | wanted
    return Claims(subject=subject, grants=grants, expires_at=float(claims["exp"]),
                  fingerprint=str(claims.get("pwd", "")))


class Issuer:
    """Makes tokens, which its own ``verifier`` takes."""

    def __init__(self, key: SigningKey, *, issuer: str, service: str, lifetime_s: int, refresh_s: int,
                 now: Callable[[], float] = time.time) -> None:
        self._key = key
        self._issuer = issuer
        self._service = service
        self._now = now
        self.lifetime_s = lifetime_s
        self._refresh_s = refresh_s
        self.jwk = key.jwk
        self.verifier = Verifier(KeySet({key.key_id: key.public}), issuer=issuer, service=service, now=now)

    def access(self, subject: str, grants: Grants) -> tuple[str, int]:
        """A token, and when it was issued (seconds since the epoch)."""
        now = int(self._now())
        return self._sign({
            "iss": self._issuer, "sub": subject, "aud": self._service, "iat": now, "nbf": now,
            "exp": now + self.lifetime_s, "jti": secrets.token_hex(8),
            "access": [{"type": kind, "name": name, "actions": sorted(actions)}
                       for (kind, name), actions in grants.items()],
        }, _ACCESS_TYPE), now

    def refresh(self, subject: str, fingerprint: str) -> str:
        """A refresh token; it is good as long as the user's password stays."""
        now = int(self._now())
        return self._sign({"iss": self._issuer, "sub": subject, "aud": self._service, "iat": now,
                           "exp": now + self._refresh_s, "pwd": fingerprint}, _REFRESH_TYPE)

    def _sign(self, claims: Mapping[str, object], kind: str) -> str:
        import jwt
        return jwt.encode(dict(claims), self._key.key, algorithm=self._key.algorithm,
                          headers={"typ": kind, "kid": self._key.key_id})
