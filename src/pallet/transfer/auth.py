"""Answers to a registry's challenges: bearer tokens and basic authentication.

Owns   credentials in memory, ``WWW-Authenticate`` parsing, token requests and their cache.
Runs   in transfer threads; an ``Authorizer`` belongs to one operation on one registry.
Needs  a ``Transport`` for token requests.
Spec   Docker token authentication (token, OAuth2 refresh); RFC 9110 challenges.
"""

from __future__ import annotations

import base64
import binascii
import re
import threading
import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec

from pallet.spec import distribution
from pallet.transfer import failures
from pallet.transfer.failures import BadContentError, RefusedError, UnreachableError
from pallet.transfer.transport import read_document

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pallet.spec.engine.auth import AuthConfig
    from pallet.transfer.transport import Transport

_MIN_TOKEN_S = 60
_CLIENT_ID = "docker"
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(
    rf'\s*,?\s*({_WORD})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_SCHEME = re.compile(rf"\s*,?\s*({_WORD})(?=\s|,|$)(?!\s*=)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """One authentication scheme a server offers; names are lower case."""

    scheme: str
    parameters: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Token:
    value: str
    expires_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginCredentials:
    """What is known for one registry. All empty is anonymous."""

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""

    @classmethod
    def from_config(cls, config: AuthConfig | None) -> LoginCredentials:
        """Read the Engine API's form; ``auth`` holds ``username:password`` in base64."""
        if config is None:
            return cls()
        username, password = config.username, config.password
        if config.auth and not username:
            try:
                text = base64.b64decode(config.auth).decode("utf-8", "replace").rstrip("\0")
            except (binascii.Error, ValueError):
                text = ""
            username, _, password = text.partition(":")
        return cls(username=username, password=password, identity_token=config.identitytoken,
                   registry_token=config.registrytoken)

    def __repr__(self) -> str:
        """Without secrets: credentials reach logs by accident."""
        return f"LoginCredentials(username={self.username!r})"

    def basic(self) -> str:
        """Value of a basic ``Authorization`` header."""
        raw = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(raw).decode()


def parse_challenges(values: Iterable[str]) -> list[Challenge]:
    """Parse every ``WWW-Authenticate`` header of a reply, in order."""
    found: list[Challenge] = []
    for value in values:
        position = 0
        while match := _SCHEME.match(value, position):
            position = match.end()
            parameters: dict[str, str] = {}
            while parameter := _PARAMETER.match(value, position):
                name, quoted, bare = parameter.groups()
                text = bare if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
                parameters[name.lower()] = text
                position = parameter.end()
            found.append(Challenge(scheme=match[1].lower(), parameters=parameters))
    return found


class Authorizer:
    """Finds the ``Authorization`` header for requests to one registry.

    It starts without one, learns the scheme from the first 401 and remembers it and the tokens.
    """

    def __init__(self, transport: Transport, credentials: LoginCredentials, *,
                 insecure: bool) -> None:
        self._transport = transport
        self._credentials = credentials
        self._insecure = insecure
        self._lock = threading.Lock()
        self._challenge: Challenge | None = None
        self._tokens: dict[tuple[str, ...], _Token] = {}
        self.identity_token = ""
        """A refresh token the server gave in place of the password (login only)."""

    def header(self, scopes: tuple[str, ...]) -> str | None:
        """Header value for a request that needs ``scopes``; None while no challenge is known.

        Raises:
            RegistryError: the token server refused or did not answer.
        """
        if self._credentials.registry_token:
            return f"Bearer {self._credentials.registry_token}"
        challenge = self._challenge
        if challenge is None:
            return None
        if challenge.scheme == "basic":
            return self._credentials.basic()
        with self._lock:
            token = self._tokens.get(scopes)
            if token is None or token.expires_at <= time.monotonic():
                token = self._fetch(challenge, scopes)
                self._tokens[scopes] = token
        return f"Bearer {token.value}"

    def learn(self, challenges: list[Challenge], scopes: tuple[str, ...], url: str) -> bool:
        """Take in the challenges of a 401; whether another try can help.

        Raises:
            UnreachableError: basic authentication is wanted and no credentials are known.
        """
        if self._credentials.registry_token:
            return False
        bearer = next((c for c in challenges if c.scheme == "bearer"), None)
        basic = next((c for c in challenges if c.scheme == "basic"), None)
        chosen = bearer or basic
        if chosen is None:
            return False
        if chosen.scheme == "basic" and not self._credentials.username:
            failure = UnreachableError("GET", url, "no basic auth credentials")
            failure.retry = False
            raise failure
        with self._lock:
            self._tokens.pop(scopes, None)
            self._challenge = chosen
        return True

    def _fetch(self, challenge: Challenge, scopes: tuple[str, ...]) -> _Token:
        realm = challenge.parameters.get("realm", "")
        parts = urlsplit(realm)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            message = "no valid realm in the authentication challenge"
            raise BadContentError(message)
        service = challenge.parameters.get("service", "")
        wanted = scopes or tuple(challenge.parameters.get("scope", "").split())
        if self._credentials.identity_token:
            reply = self._post(realm, service, wanted)
        else:
            reply = self._get(realm, service, wanted)
        value = reply.access_token or reply.token
        if not value:
            message = "authorization server did not include a token in the response"
            raise BadContentError(message)
        if reply.refresh_token:
            self.identity_token = reply.refresh_token
        lifetime = max(reply.expires_in, _MIN_TOKEN_S) - _age_s(reply.issued_at)
        return _Token(value=value, expires_at=time.monotonic() + lifetime)

    def _get(self, realm: str, service: str, scopes: tuple[str, ...]) -> distribution.TokenReply:
        parts = urlsplit(realm)
        query = parse_qsl(parts.query)
        if service:
            query.append(("service", service))
        query += [("scope", scope) for scope in scopes]
        headers = {}
        if self._credentials.username:
            query += [("account", self._credentials.username), ("client_id", _CLIENT_ID),
                      ("offline_token", "true")]
            headers["Authorization"] = self._credentials.basic()
        url = urlunsplit(parts._replace(query=urlencode(query)))
        response = self._transport.request("GET", url, headers=headers, insecure=self._insecure)
        return _token_reply(response.status, response.reason or "", read_document(response))

    def _post(self, realm: str, service: str, scopes: tuple[str, ...]) -> distribution.TokenReply:
        form = {"grant_type": "refresh_token", "service": service, "client_id": _CLIENT_ID,
                "scope": " ".join(scopes), "refresh_token": self._credentials.identity_token}
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        response = self._transport.request("POST", realm, headers=headers,
                                           body=urlencode(form).encode(), insecure=self._insecure)
        return _token_reply(response.status, response.reason or "", read_document(response))


def _token_reply(status: int, reason: str, body: bytes) -> distribution.TokenReply:
    if status != 200:
        failure = failures.from_reply(status, reason, body)
        if status == 401 and not failure.code:
            failure = RefusedError(401, "UNAUTHORIZED", str(failure))
        raise failure
    try:
        return distribution.token_decoder.decode(body)
    except msgspec.DecodeError as error:
        message = f"unable to decode token response: {error}"
        raise BadContentError(message) from error


def _age_s(issued_at: str) -> float:
    """Seconds since ``issued_at``, 0 when it is absent, malformed or in the future."""
    if not issued_at:
        return 0.0
    try:
        issued = datetime.fromisoformat(issued_at)
    except ValueError:
        return 0.0
    if issued.tzinfo is None:
        return 0.0
    return max(0.0, time.time() - issued.timestamp())
