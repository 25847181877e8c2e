"""Access control by users, rules, tokens and limits.

Owns   the order of the checks: limits on wrong passwords, credentials, limits on requests, rights, limits on
       pulls; and what changes on SIGHUP.
Runs   in the server's threads, and on its loop where ``prompt`` says so.
Needs  the settings; for tokens the ``PyJWT`` and ``cryptography`` packages, for users ``bcrypt``.
Spec   Docker token authentication: challenges; RFC 6750 (``error``), RFC 7617.

A request without the rights it needs gets 401 with a challenge as long as better credentials may help: always
with bearer tokens, which clients get for one scope at a time, and for nobody in particular. A user known by
name and password gets 403. Tokens issued here are also held against the present rules and users, so a change
counts at once and not only when tokens expire.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pallet.errors import InvalidParameterError
from pallet.registry.auth import keys
from pallet.registry.auth.endpoint import TokenEndpoint
from pallet.registry.auth.libraries import HASHING, SIGNING, require
from pallet.registry.auth.limits import Buckets, Limits
from pallet.registry.auth.model import ANYBODY, TOKEN_PATH, Access, Caller, OpenAccess, basic_credentials
from pallet.registry.auth.passwords import Passwords
from pallet.registry.auth.rules import Policy
from pallet.registry.auth.settings import AuthConfig, LimitsConfig, TokenConfig
from pallet.registry.auth.tokens import Issuer, Verifier
from pallet.registry.codes import RegistryHttpError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pallet.registry.auth.model import AccessControl
    from pallet.registry.auth.settings import RuleConfig
    from pallet.registry.auth.tokens import Claims
    from pallet.registry.config import RegistryConfig

logger = logging.getLogger(__name__)


class GuardedAccess:
    """Decides by one version of the settings.

    Args:
        root: where a signing key is kept that no setting names.
        users: instead of those of ``auth.htpasswd``.
        issuer: instead of one with a key from a file.

    Raises:
        InvalidParameterError: settings that contradict each other, files that cannot be read.
    """

    is_open = False

    def __init__(
        self, auth: AuthConfig, rules: Sequence[RuleConfig] = (), limits: LimitsConfig | None = None, *,
        root: Path | None = None, users: Passwords | None = None, issuer: Issuer | None = None,
        buckets: Buckets | None = None,
    ) -> None:
        token = auth.token
        if auth.htpasswd or users is not None:
            require(HASHING, "users")
        self._limits = Limits(limits or LimitsConfig(), buckets)
        self._policy = Policy(auth, rules)
        self._users = users or (Passwords(Path(auth.htpasswd)) if auth.htpasswd else None)
        self._realm = auth.realm.replace('"', "'")
        self._external = token is not None and token.is_external
        if self._external and (self._users is not None or rules or auth.anonymous or auth.default):
            message = "with an external issuer, users and rules are its matter: leave them out here"
            raise InvalidParameterError(message)
        if token is None and self._users is not None and self._policy.serves_anybody:
            # A client that got in without credentials never offers any (auth-02), and one that was
            # asked for basic ones does not come without: only tokens let it do both.
            token = TokenConfig()
        if token is not None:
            require(SIGNING, "tokens")
        self._token = token
        self._issuer = None if token is None or self._external else issuer or _issuer(token, root)
        self._verifier = self._issuer.verifier if self._issuer is not None else \
            _verifier(token) if token is not None else None
        self._endpoint = None if token is None or self._issuer is None else TokenEndpoint(
            self._issuer, self._users, self._policy, service=token.service, check=self._check)

    def prompt(self, header: str, access: Access) -> bool:
        """See ``AccessControl``."""
        if access.manifest and self._limits.concern_pulls:
            return False
        if not header:
            return True  # nothing to look at
        scheme, _, value = header.partition(" ")
        if scheme.lower() == "bearer":
            return self._verifier is None or self._verifier.recall(value.strip()) is not None
        credentials = basic_credentials(header)
        return credentials is None or self._users is None or self._users.remembers(*credentials)

    def authorize(self, header: str, access: Access, base_url: str, peer: str = "") -> Caller:
        """See ``AccessControl``."""
        user, claims, problem = self._who(header, peer)
        self._limits.request(user, peer)
        if problem or not self._permitted(user, claims, access, has_credentials=bool(header)):
            if header and not problem:
                problem = "insufficient_scope"
            if user and claims is None:
                raise RegistryHttpError("DENIED", _detail(access))
            raise self._challenge(access, base_url, problem)
        headers = self._limits.pull(user, peer, counted=access.counted) if access.manifest else None
        if not user and not headers:
            return ANYBODY
        return Caller(name=user, headers=headers or {}, sees_all=self._external)

    def warm(self, header: str, peer: str) -> None:
        """See ``AccessControl``."""
        credentials = basic_credentials(header)
        if credentials is not None and self._users is not None:
            with suppress(RegistryHttpError):
                self._limits.may_log_in(peer)
                self._users.check(*credentials)

    def _who(self, header: str, peer: str) -> tuple[str, Claims | None, str]:
        """User, the token's claims if there is a token, and what is wrong with the credentials."""
        if not header or (self._users is None and self._verifier is None):
            return "", None, ""
        scheme, _, value = header.partition(" ")
        if scheme.lower() == "bearer" and self._verifier is not None:
            claims = self._verifier.verify(value.strip())
            if claims is None:
                return "", None, "invalid_token"
            if self._issuer is not None and claims.subject and (
                    self._users is None or not self._users.knows(claims.subject)):
                return "", None, "invalid_token"
            return claims.subject, claims, ""
        credentials = basic_credentials(header)
        if credentials is None or not self._check(*credentials, peer):
            return "", None, "invalid_token"
        return credentials[0], None, ""

    def _check(self, name: str, password: str, peer: str) -> bool:
        """Whether a password is right; wrong ones are counted against the address."""
        if self._users is None:
            return False
        if self._users.remembers(name, password):
            return True
        self._limits.may_log_in(peer)
        if self._users.check(name, password):
            return True
        self._limits.login_failed(peer)
        # People type passwords where names belong: only known names are written down.
        logger.warning("login of %s from %s failed", repr(name) if self._users.knows(name) else "an unknown user",
                       peer or "somewhere")
        return False

    def _permitted(self, user: str, claims: Claims | None, access: Access, *, has_credentials: bool) -> bool:
        if not access.actions:
            # The base: clients learn there what to authenticate with, if there is anything.
            return has_credentials or (self._users is None and self._verifier is None)
        if claims is not None:
            kind, name = ("repository", access.name) if access.name else ("registry", "catalog")
            if not claims.covers(kind, name, access.actions):
                return False
            if self._external:
                return True
        elif self._external:
            return False
        if not access.name:
            return self._policy.may_list(user)
        return self._policy.rights(user, access.name) >= access.actions

    def _challenge(self, access: Access, base_url: str, problem: str) -> RegistryHttpError:
        if self._token is None:
            challenge = f'Basic realm="{self._realm}"'
        else:
            realm = self._token.realm or f"{base_url}{TOKEN_PATH}"
            challenge = f'Bearer realm="{_quoted(realm)}",service="{_quoted(self._token.service)}"'
            if access.scope:
                challenge += f',scope="{access.scope}"'
            if problem:
                challenge += f',error="{problem}"'
        return RegistryHttpError("UNAUTHORIZED", _detail(access), headers={"WWW-Authenticate": challenge})

    def sees(self, caller: Caller) -> Callable[[str], bool] | None:
        """See ``AccessControl``: the repositories in which the caller has the right ``catalog``."""
        if caller.sees_all:
            return None
        return lambda name: "catalog" in self._policy.rights(caller.name, name)

    def token(self, method: str, query: str, header: str, body: bytes, peer: str = "") -> bytes:
        """See ``AccessControl``."""
        if self._endpoint is None:
            raise RegistryHttpError("NOT_FOUND")
        self._limits.request("", peer)
        return self._endpoint.answer(method, query, header, body, peer)

    def jwks(self) -> bytes:
        """See ``AccessControl``."""
        if self._issuer is None:
            raise RegistryHttpError("NOT_FOUND")
        return keys.jwk_set([self._issuer.jwk])


class ReloadableAccess:
    """The access control of a configuration, replaced while requests come. Make it before workers are forked."""

    def __init__(self, config: RegistryConfig) -> None:
        """Begin; InvalidParameterError for settings that are wrong."""
        self._buckets = Buckets()
        self._current = access_of(config, self._buckets)

    def reload(self, config: RegistryConfig) -> None:
        """Go by another configuration; what was counted goes on.

        Raises:
            InvalidParameterError: something is wrong with it; nothing changed.
        """
        self._current = access_of(config, self._buckets)

    @property
    def is_open(self) -> bool:
        """See ``AccessControl``."""
        return self._current.is_open

    def prompt(self, header: str, access: Access) -> bool:
        """See ``AccessControl``."""
        return self._current.prompt(header, access)

    def authorize(self, header: str, access: Access, base_url: str, peer: str = "") -> Caller:
        """See ``AccessControl``."""
        return self._current.authorize(header, access, base_url, peer)

    def warm(self, header: str, peer: str) -> None:
        """See ``AccessControl``."""
        self._current.warm(header, peer)

    def sees(self, caller: Caller) -> Callable[[str], bool] | None:
        """See ``AccessControl``."""
        return self._current.sees(caller)

    def token(self, method: str, query: str, header: str, body: bytes, peer: str = "") -> bytes:
        """See ``AccessControl``."""
        return self._current.token(method, query, header, body, peer)

    def jwks(self) -> bytes:
        """See ``AccessControl``."""
        return self._current.jwks()


def access_of(config: RegistryConfig, buckets: Buckets | None = None) -> AccessControl:
    """The access control of a configuration: open to all when nothing says otherwise.

    Raises:
        InvalidParameterError: see ``GuardedAccess``.
    """
    auth = config.auth
    if not (auth.htpasswd or auth.token or config.rule or auth.anonymous or auth.default is not None):
        limits = Limits(config.limits, buckets)
        if not limits.concern_requests:
            return OpenAccess()
        everything = AuthConfig(anonymous=("pull", "push", "delete", "catalog"))
        return GuardedAccess(everything, limits=config.limits, buckets=limits.buckets)
    return GuardedAccess(auth, config.rule, config.limits, root=Path(config.storage.root), buckets=buckets)


def _issuer(token: TokenConfig, root: Path | None) -> Issuer:
    if token.key:
        key = keys.load(Path(token.key))
    elif root is not None:
        key = keys.load_or_make(root / "token-key.pem")
    else:
        message = "tokens need a signing key"
        raise InvalidParameterError(message)
    return Issuer(key, issuer=token.issuer, service=token.service, lifetime_s=token.lifetime_s,
                  refresh_s=token.refresh_s)


def _verifier(token: TokenConfig) -> Verifier:
    """For tokens of an issuer elsewhere."""
    if not token.realm:
        message = "an external issuer needs auth.token.realm, the URL where clients get tokens"
        raise InvalidParameterError(message)
    if token.key:
        message = "auth.token.key is for tokens issued here, not for an external issuer's"
        raise InvalidParameterError(message)
    found = keys.parse_jwks(keys.read(Path(token.jwks_file)), token.jwks_file) if token.jwks_file else {}
    roots = keys.read_roots(Path(token.root_certificates)) if token.root_certificates else []
    url = token.jwks_url
    fetch = (lambda: {**found, **keys.fetch_jwks(url)}) if url else None
    return Verifier(keys.KeySet(found, roots=roots, fetch=fetch), issuer=token.issuer, service=token.service)


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _detail(access: Access) -> list[dict[str, str]]:
    if not access.name:
        return [{"Type": "registry", "Class": "", "Name": "catalog", "Action": action}
                for action in sorted(access.actions)]
    return [{"Type": "repository", "Class": "", "Name": access.name, "Action": action}
            for action in sorted(access.actions)]
