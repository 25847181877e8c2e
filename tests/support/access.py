"""Access controls for registries in tests: users with cheap hashes, with basic authentication or tokens."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from pallet.registry.auth import keys
from pallet.registry.auth.guard import GuardedAccess
from pallet.registry.auth.htpasswd import hash_password
from pallet.registry.auth.passwords import Passwords
from pallet.registry.auth.settings import AuthConfig, TokenConfig
from pallet.registry.auth.tokens import Issuer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pallet.registry.auth.settings import LimitsConfig, Right, RuleConfig


@functools.cache
def cheap_hash(password: str) -> str:
    """bcrypt with the least cost."""
    return hash_password(password, cost=4)


@functools.cache
def signing_key() -> keys.SigningKey:
    """One for the session."""
    import tempfile
    from pathlib import Path
    with tempfile.TemporaryDirectory() as directory:
        return keys.load_or_make(Path(directory) / "key.pem")


JOE: Mapping[str, str] = {"joe": "secret"}


def basic_access(passwords: Mapping[str, str] = JOE) -> GuardedAccess:
    """Everything for those who know a password."""
    return GuardedAccess(AuthConfig(), users=_users(passwords))


def token_access(passwords: Mapping[str, str] = JOE, *, anonymous: Sequence[Right] = (),
                 lifetime_s: int = 300, rules: Sequence[RuleConfig] = (),
                 limits: LimitsConfig | None = None) -> GuardedAccess:
    """The same by tokens."""
    token = TokenConfig()
    issuer = Issuer(signing_key(), issuer=token.issuer, service=token.service, lifetime_s=lifetime_s,
                    refresh_s=3600)
    auth = AuthConfig(token=token, anonymous=tuple(anonymous))
    return GuardedAccess(auth, rules, limits, users=_users(passwords), issuer=issuer)


def write_users(path: Path, passwords: Mapping[str, str] = JOE) -> Path:
    """An htpasswd file."""
    path.write_text("".join(f"{name}:{cheap_hash(password)}\n" for name, password in passwords.items()))
    return path


def _users(passwords: Mapping[str, str]) -> Passwords:
    return Passwords({name: cheap_hash(password) for name, password in passwords.items()})
