"""The token endpoint: GET with basic credentials, and the OAuth2 POST.

Owns   its parameters, scopes and replies.
Runs   in the server's threads.
Needs  users, a policy, an issuer.
Spec   Docker token authentication: "Token specification", "OAuth2 token authentication", "Scopes".
"""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from pallet.registry.auth.model import basic_credentials
from pallet.registry.codes import RegistryHttpError
from pallet.spec import reference as references

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pallet.registry.auth.passwords import Passwords
    from pallet.registry.auth.rules import Policy
    from pallet.registry.auth.tokens import Grants, Issuer

_SCOPE = re.compile(r"(?P<type>[a-z0-9]+)(?:\([a-z0-9]*\))?:(?P<name>[^\s]+):(?P<actions>[a-z*]+(?:,[a-z*]+)*)")
_MAX_SCOPES = 64
_MAX_FIELDS = 128
_ACTIONS = frozenset({"pull", "push", "delete"})


class TokenEndpoint:
    """Answers requests for tokens.

    Args:
        check: whether a password is right; it also counts wrong ones against the client's address.
    """

    def __init__(self, issuer: Issuer, users: Passwords | None, policy: Policy, *, service: str,
                 check: Callable[[str, str, str], bool]) -> None:
        self._issuer = issuer
        self._users = users
        self._policy = policy
        self._service = service
        self._check = check

    def answer(self, method: str, query: str, header: str, body: bytes, peer: str) -> bytes:
        """The reply's JSON.

        Raises:
            RegistryHttpError: UNAUTHORIZED, UNSUPPORTED; TOOMANYREQUESTS.
        """
        if method == "POST":
            fields = _fields(body.decode("utf-8", "replace"))
            user, offline = self._posted(fields, peer)
        elif method == "GET":
            fields = _fields(query)
            user, offline = self._got(fields, header, peer)
        else:
            raise RegistryHttpError("UNSUPPORTED", headers={"Allow": "GET, POST"})
        service = _first(fields, "service")
        if service and service != self._service:
            raise RegistryHttpError("DENIED", {"service": service}, status=400,
                                    message=f"this issues tokens for {self._service!r} only")
        grants = self._grants(fields, user)
        token, issued_at = self._issuer.access(user, grants)
        reply: dict[str, object] = {
            "access_token": token, "expires_in": self._issuer.lifetime_s,
            "issued_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(issued_at))}
        if method == "GET":
            reply["token"] = token
        else:
            reply["scope"] = " ".join(
                f"{kind}:{name}:{','.join(sorted(actions))}" for (kind, name), actions in grants.items())
        if user and offline:
            reply["refresh_token"] = self._refresh_token(fields, user)
        return json.dumps(reply).encode()

    def _refresh_token(self, fields: dict[str, list[str]], user: str) -> str:
        """The one that came, or a new one."""
        assert self._users is not None
        return _first(fields, "refresh_token") or self._issuer.refresh(user, self._users.fingerprint(user))

    def _got(self, fields: dict[str, list[str]], header: str, peer: str) -> tuple[str, bool]:
        """User ("" is nobody) and whether a refresh token is wanted."""
        if not header:
            return "", False
        credentials = basic_credentials(header)
        account = _first(fields, "account")
        if credentials is None or not self._check(*credentials, peer) or account not in {"", credentials[0]}:
            raise _wrong()
        return credentials[0], _first(fields, "offline_token") == "true"

    def _posted(self, fields: dict[str, list[str]], peer: str) -> tuple[str, bool]:
        kind = _first(fields, "grant_type")
        if kind == "refresh_token":
            claims = self._issuer.verifier.verify_refresh(_first(fields, "refresh_token"))
            if claims is None or self._users is None or not claims.fingerprint \
                    or claims.fingerprint != self._users.fingerprint(claims.subject):
                raise RegistryHttpError("UNAUTHORIZED", message="invalid refresh token: log in again")
            return claims.subject, True
        if kind == "password":
            user = _first(fields, "username")
            if not self._check(user, _first(fields, "password"), peer):
                raise _wrong()
            return user, _first(fields, "access_type") == "offline"
        raise RegistryHttpError("UNSUPPORTED", {"grant_type": kind}, status=400,
                                message="want the grant_type password or refresh_token")

    def _grants(self, fields: dict[str, list[str]], user: str) -> Grants:
        """What of the scopes asked for the user gets; the same repository may come several times."""
        grants: Grants = {}
        for kind, name, actions in _scopes(fields.get("scope", ())):
            given = self._given(kind, name, actions, user)
            if given:
                grants[kind, name] = grants.get((kind, name), frozenset()) | given
        return grants

    def _given(self, kind: str, name: str, actions: frozenset[str], user: str) -> frozenset[str]:
        if kind == "registry":
            listed = name == "catalog" and "*" in actions and self._policy.may_list(user)
            return frozenset({"*"}) if listed else frozenset()
        if kind != "repository" or not references.is_repository(name):
            return frozenset()
        allowed = self._policy.rights(user, name) & _ACTIONS
        return allowed if "*" in actions else allowed & actions


def _scopes(values: object) -> Iterator[tuple[str, str, frozenset[str]]]:
    """Well-formed scopes: type, name, actions. Others give nothing."""
    assert isinstance(values, (list, tuple))
    texts = [text for value in values for text in value.split(" ") if text]
    for text in texts[:_MAX_SCOPES]:
        match = _SCOPE.fullmatch(text)
        if match is not None:
            yield match["type"], match["name"], frozenset(match["actions"].split(","))


def _fields(text: str) -> dict[str, list[str]]:
    try:
        return parse_qs(text, max_num_fields=_MAX_FIELDS)
    except ValueError as error:
        raise RegistryHttpError("UNSUPPORTED", status=400, message="too many parameters") from error


def _first(fields: dict[str, list[str]], name: str) -> str:
    return fields.get(name, [""])[0]


def _wrong() -> RegistryHttpError:
    return RegistryHttpError("UNAUTHORIZED", message="incorrect username or password")
