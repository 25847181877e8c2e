"""Who may do what: open to all, basic authentication, or Docker's bearer tokens.

Owns   the users file, the challenge of a 401 and the token endpoint.
Runs   in the server's threads.
Needs  nothing outside the standard library.
Spec   Docker token authentication (challenge, GET and OAuth2 POST, JWT with ``access``); RFC 7519.

Users file: a line a user, ``name:hash``, where hash is what ``hash_password`` makes. Every user may
pull and push; ``anonymous_pull`` lets everybody else pull.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from pallet.errors import InvalidParameterError
from pallet.registry.codes import RegistryHttpError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

TOKEN_PATH = "/token"  # noqa: S105 - a path
_LIFETIME_S = 300
_SCRYPT = {"n": 1 << 14, "r": 8, "p": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What a request needs: ``actions`` on repository ``name`` ("" is the registry itself)."""

    name: str = ""
    actions: frozenset[str] = field(default=frozenset())

    @property
    def scope(self) -> str:
        """The token scope to ask for."""
        if not self.name:
            return "registry:catalog:*" if self.actions else ""
        return f"repository:{self.name}:{','.join(sorted(self.actions))}"


def hash_password(password: str) -> str:
    """Hash for a line of the users file."""
    salt = secrets.token_bytes(16)
    key = hashlib.scrypt(password.encode(), salt=salt, n=_SCRYPT["n"], r=_SCRYPT["r"],
                         p=_SCRYPT["p"])
    return f"$scrypt${_encode(salt)}${_encode(key)}"


class Users:
    """Names and password hashes."""

    def __init__(self, hashes: Mapping[str, str]) -> None:
        self._hashes = dict(hashes)
        # scrypt is slow on purpose and basic authentication comes with every request: what was
        # right once is remembered, under a key that dies with the process.
        self._cache_key = secrets.token_bytes(32)
        self._right: dict[str, bytes] = {}

    @classmethod
    def read(cls, path: Path) -> Users:
        """Read a users file.

        Raises:
            InvalidParameterError: a line is malformed or its hash is of another kind.
        """
        hashes: dict[str, str] = {}
        for number, line in enumerate(path.read_text().splitlines(), 1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            name, colon, hashed = text.partition(":")
            if not colon or not hashed.startswith(("$scrypt$", "{SHA}")):
                message = (f"{path}:{number}: want NAME:HASH with a $scrypt$ or {{SHA}} hash "
                           "(other htpasswd hashes are not supported)")
                raise InvalidParameterError(message)
            hashes[name] = hashed
        return cls(hashes)

    def check(self, name: str, password: str) -> bool:
        """Whether the password is right; takes the same time for unknown names."""
        mac = hmac.new(self._cache_key, password.encode(), hashlib.sha256).digest()
        if hmac.compare_digest(self._right.get(name, b""), mac):
            return True
        right = self._slow_check(name, password)
        if right:
            self._right[name] = mac
        return right

    def _slow_check(self, name: str, password: str) -> bool:
        hashed = self._hashes.get(name, "$scrypt$AAAA$AAAA")
        if hashed.startswith("{SHA}"):
            made = base64.b64encode(hashlib.sha1(password.encode(), usedforsecurity=False).digest())
            return hmac.compare_digest(made, hashed.removeprefix("{SHA}").encode())
        _, _, salt, key = hashed.split("$")
        made = hashlib.scrypt(password.encode(), salt=_decode(salt), n=_SCRYPT["n"],
                              r=_SCRYPT["r"], p=_SCRYPT["p"])
        return hmac.compare_digest(made, _decode(key)) and name in self._hashes


class OpenAccess:
    """Everybody may do everything."""

    is_open = True

    def authorize(self, header: str, access: Access, base_url: str) -> None:
        """Accept."""

    def token(self, method: str, query: str, header: str, body: bytes) -> bytes:
        """There is no token endpoint."""
        raise RegistryHttpError("NOT_FOUND")


class BasicAccess:
    """User name and password with every request."""

    is_open = False

    def __init__(self, users: Users, *, anonymous_pull: bool = False) -> None:
        self._users = users
        self._anonymous_pull = anonymous_pull

    def authorize(self, header: str, access: Access, base_url: str) -> None:
        """Accept or raise UNAUTHORIZED with a basic challenge."""
        credentials = _basic(header)
        if credentials is not None and self._users.check(*credentials):
            return
        if credentials is None and self._anonymous_pull and access.actions <= {"pull"}:
            return
        raise RegistryHttpError("UNAUTHORIZED", headers={
            "WWW-Authenticate": 'Basic realm="pallet registry"'})

    def token(self, method: str, query: str, header: str, body: bytes) -> bytes:
        """There is no token endpoint."""
        raise RegistryHttpError("NOT_FOUND")


class TokenAccess:
    """Bearer tokens from this server's own token endpoint."""

    is_open = False

    def __init__(self, users: Users, *, service: str = "pallet-registry",
                 anonymous_pull: bool = False, lifetime_s: int = _LIFETIME_S) -> None:
        self._users = users
        self._service = service
        self._anonymous_pull = anonymous_pull
        self._lifetime_s = lifetime_s
        self._key = secrets.token_bytes(32)

    def authorize(self, header: str, access: Access, base_url: str) -> None:
        """Accept a token that covers ``access``, or raise with a bearer challenge."""
        scheme, _, token = header.partition(" ")
        problem = ""
        if scheme.lower() == "bearer":
            claims = self._verify(token.strip())
            if claims is None:
                problem = "invalid_token"
            elif _covers(claims, access):
                return
            else:
                problem = "insufficient_scope"
        challenge = f'Bearer realm="{base_url}{TOKEN_PATH}",service="{self._service}"'
        if access.scope:
            challenge += f',scope="{access.scope}"'
        if problem:
            challenge += f',error="{problem}"'
        raise RegistryHttpError("UNAUTHORIZED", _detail(access),
                                headers={"WWW-Authenticate": challenge})

    def token(self, method: str, query: str, header: str, body: bytes) -> bytes:
        """Answer the token endpoint; the reply's JSON.

        Raises:
            RegistryHttpError: UNAUTHORIZED, for wrong credentials.
        """
        form = parse_qs(body.decode("utf-8", "replace") if method == "POST" else query)
        user, offline = self._who(method, form, header)
        scopes = [scope for value in form.get("scope", []) for scope in value.split()]
        access = [entry for scope in scopes if (entry := self._grant(scope, user)) is not None]
        now = int(time.time())
        claims = {"iss": self._service, "sub": user, "aud": self._service, "iat": now, "nbf": now,
                  "exp": now + self._lifetime_s, "jti": secrets.token_hex(8), "access": access}
        token = self._sign(claims)
        reply = {"token": token, "access_token": token, "expires_in": self._lifetime_s,
                 "issued_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))}
        if offline and user:
            reply["refresh_token"] = self._sign({"sub": user, "refresh": True})
        return json.dumps(reply).encode()

    def _who(self, method: str, form: Mapping[str, list[str]], header: str) -> tuple[str, bool]:
        """User name ("" is anonymous) and whether a refresh token is wanted."""
        def value(key: str) -> str:
            return form.get(key, [""])[0]

        if method == "POST":
            if value("grant_type") == "refresh_token":
                claims = self._verify(value("refresh_token"), refresh=True)
                if claims is None:
                    raise RegistryHttpError("UNAUTHORIZED", message="invalid refresh token")
                return str(claims["sub"]), True
            credentials: tuple[str, str] | None = (value("username"), value("password"))
            offline = value("access_type") == "offline"
        else:
            credentials = _basic(header)
            offline = value("offline_token") == "true"
        if credentials is None:
            return "", False
        if not self._users.check(*credentials):
            raise RegistryHttpError("UNAUTHORIZED", message="incorrect username or password")
        return credentials[0], offline

    def _grant(self, scope: str, user: str) -> dict[str, object] | None:
        kind, _, rest = scope.partition(":")
        name, _, wanted = rest.rpartition(":")
        if not name:
            return None
        actions = set(wanted.split(","))
        if not user:
            actions &= {"pull"} if self._anonymous_pull and kind == "repository" else set()
        return {"type": kind, "name": name, "actions": sorted(actions)}

    def _sign(self, claims: Mapping[str, object]) -> str:
        head = _encode(json.dumps({"typ": "JWT", "alg": "HS256"}).encode())
        payload = f"{head}.{_encode(json.dumps(claims).encode())}"
        return f"{payload}.{_encode(self._mac(payload))}"

    def _mac(self, payload: str) -> bytes:
        return hmac.new(self._key, payload.encode(), hashlib.sha256).digest()

    def _verify(self, token: str, *, refresh: bool = False) -> dict[str, object] | None:
        payload, _, signature = token.rpartition(".")
        try:
            if not hmac.compare_digest(self._mac(payload), _decode(signature)):
                return None
            claims: dict[str, object] = json.loads(_decode(payload.partition(".")[2]))
        except (ValueError, binascii.Error):
            return None
        if bool(claims.get("refresh")) != refresh:
            return None
        expires = claims.get("exp", time.time() + 1)
        return claims if isinstance(expires, (int, float)) and expires > time.time() else None


AccessControl = OpenAccess | BasicAccess | TokenAccess


def _covers(claims: Mapping[str, object], access: Access) -> bool:
    if not access.actions:
        return True
    wanted = ("repository", access.name) if access.name else ("registry", "catalog")
    granted: set[str] = set()
    entries = claims.get("access")
    for entry in entries if isinstance(entries, list) else []:
        if (entry.get("type"), entry.get("name")) == wanted:
            granted.update(entry.get("actions", ()))
    return "*" in granted or access.actions <= granted


def _detail(access: Access) -> list[dict[str, str]]:
    return [{"Type": "repository", "Class": "", "Name": access.name, "Action": action}
            for action in sorted(access.actions)]


def _basic(header: str) -> tuple[str, str] | None:
    scheme, _, value = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, _, password = base64.b64decode(value).decode("utf-8", "replace").partition(":")
    except (ValueError, binascii.Error):
        return None
    return name, password


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
