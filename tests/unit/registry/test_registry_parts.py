"""The registry's store, users and tokens."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest

from pallet.errors import InvalidParameterError
from pallet.registry.auth import Access, BasicAccess, TokenAccess, Users, hash_password
from pallet.registry.codes import CODES, RegistryHttpError
from pallet.registry.server import parse_address

if TYPE_CHECKING:
    from pathlib import Path

PULL = Access(name="a/b", actions=frozenset({"pull"}))
PUSH = Access(name="a/b", actions=frozenset({"pull", "push"}))
USERS = Users({"joe": hash_password("secret")})


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def refused(access: BasicAccess | TokenAccess, header: str, wanted: Access) -> str:
    with pytest.raises(RegistryHttpError) as error:
        access.authorize(header, wanted, "http://r")
    assert error.value.status == 401
    return error.value.headers["WWW-Authenticate"]


def token(access: TokenAccess, scope: str, header: str = "") -> str:
    raw = access.token("GET", f"service=x&scope={scope}", header, b"")
    return "Bearer " + str(raw.split(b'"token": "')[1].split(b'"')[0], "ascii")


def test_users_file(tmp_path: Path) -> None:
    """scrypt and SHA lines; other hashes are refused by line, not ignored."""
    sha = "{SHA}" + base64.b64encode(__import__("hashlib").sha1(b"old").digest()).decode()
    path = tmp_path / "users"
    path.write_text(f"# people\njoe:{hash_password('secret')}\n\nann:{sha}\n")
    users = Users.read(path)
    assert users.check("joe", "secret")
    assert users.check("joe", "secret")
    assert not users.check("joe", "wrong")
    assert users.check("ann", "old")
    assert not users.check("nobody", "")
    path.write_text("joe:$2y$05$abc\n")
    with pytest.raises(InvalidParameterError, match=r"users:1: want NAME:HASH"):
        Users.read(path)


def test_basic() -> None:
    """The right password passes; a wrong one does not become anonymous."""
    access = BasicAccess(USERS, anonymous_pull=True)
    access.authorize(basic("joe", "secret"), PUSH, "http://r")
    access.authorize("", PULL, "http://r")
    assert refused(access, "", PUSH).startswith("Basic realm=")
    assert refused(access, basic("joe", "no"), PULL)


def test_tokens_cover_what_was_granted() -> None:
    """A pull token does not push, nor pull from elsewhere; a forged one is invalid."""
    access = TokenAccess(USERS)
    challenge = refused(access, "", PUSH)
    assert 'realm="http://r/token"' in challenge
    assert 'scope="repository:a/b:pull,push"' in challenge
    pull = token(access, "repository:a/b:pull", basic("joe", "secret"))
    access.authorize(pull, PULL, "http://r")
    assert 'error="insufficient_scope"' in refused(access, pull, PUSH)
    assert 'error="insufficient_scope"' in refused(
        access, pull, Access(name="c", actions=frozenset({"pull"})))
    assert 'error="invalid_token"' in refused(access, pull[:-3] + "abc", PULL)
    assert 'error="invalid_token"' in refused(TokenAccess(USERS), pull, PULL)


def test_anonymous_tokens() -> None:
    """Nobody gets nothing, or pulls where that is allowed."""
    closed, opened = TokenAccess(USERS), TokenAccess(USERS, anonymous_pull=True)
    assert refused(closed, token(closed, "repository:a/b:pull"), PULL)
    opened.authorize(token(opened, "repository:a/b:pull,push"), PULL, "http://r")
    assert refused(opened, token(opened, "repository:a/b:pull,push"), PUSH)


def test_catalog_needs_its_own_scope() -> None:
    """auth-03, docker-catalog: no token but one for ``registry:catalog:*`` lists repositories."""
    access, catalog = TokenAccess(USERS, anonymous_pull=True), Access(actions=frozenset({"*"}))
    joe = basic("joe", "secret")
    assert 'scope="registry:catalog:*"' in refused(access, "", catalog)
    access.authorize(token(access, "registry:catalog:*", joe), catalog, "http://r")
    for other in (token(access, "registry:catalog:*"), token(access, "repository:a/b:pull", joe),
                  token(access, "")):
        assert 'error="insufficient_scope"' in refused(access, other, catalog)
        access.authorize(other, Access(), "http://r")


def test_expired_and_refresh_tokens() -> None:
    """An old token is invalid; a refresh token buys a new one but is none itself."""
    access = TokenAccess(USERS, lifetime_s=-1)
    assert "invalid_token" in refused(access, token(access, "repository:a/b:pull",
                                                    basic("joe", "secret")), PULL)
    access = TokenAccess(USERS)
    raw = access.token("GET", "offline_token=true", basic("joe", "secret"), b"")
    refresh = raw.split(b'"refresh_token": "')[1].split(b'"')[0].decode()
    assert "invalid_token" in refused(access, f"Bearer {refresh}", PULL)
    body = f"grant_type=refresh_token&refresh_token={refresh}&scope=repository:a/b:pull"
    new = access.token("POST", "", "", body.encode()).split(b'"token": "')[1].split(b'"')[0]
    access.authorize(f"Bearer {new.decode()}", PULL, "http://r")
    with pytest.raises(RegistryHttpError):
        access.token("POST", "", "", b"grant_type=refresh_token&refresh_token=x.y.z")


def test_wrong_password_at_the_token_endpoint() -> None:
    """It is told there, not as an anonymous token that fails later."""
    with pytest.raises(RegistryHttpError, match="incorrect username or password"):
        TokenAccess(USERS).token("GET", "", basic("joe", "no"), b"")


@pytest.mark.parametrize(("text", "expected"), [
    ("127.0.0.1:5000", ("127.0.0.1", 5000)), (":5000", ("0.0.0.0", 5000)),
    ("[::1]:80", ("::1", 80)), ("localhost:0", ("localhost", 0))])
def test_addresses(text: str, expected: tuple[str, int]) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize("text", ["", "localhost", "a:b", ":99999"])
def test_bad_addresses(text: str) -> None:
    with pytest.raises(InvalidParameterError):
        parse_address(text)


def test_error_bodies() -> None:
    """``errors[].code/message/detail`` for every code there is."""
    for code in CODES:
        assert code.encode() in RegistryHttpError(code, {"x": 1}).body()
