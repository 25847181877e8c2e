"""Access to a registry: basic authentication, tokens, rules, in the order of their checks."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest

from pallet.errors import InvalidParameterError
from pallet.registry.auth import Access, OpenAccess
from pallet.registry.auth.guard import GuardedAccess, ReloadableAccess, access_of
from pallet.registry.auth.passwords import Passwords
from pallet.registry.auth.rules import Policy
from pallet.registry.auth.settings import AuthConfig, LimitsConfig, RuleConfig, TokenConfig
from pallet.registry.codes import RegistryHttpError
from pallet.registry.config import RegistryConfig, StorageConfig, read_config
from tests.support.access import basic_access, cheap_hash, token_access, write_users
from tests.support.registry import basic

if TYPE_CHECKING:
    from pathlib import Path

PULL = Access(name="a/b", actions=frozenset({"pull"}))
PUSH = Access(name="a/b", actions=frozenset({"pull", "push"}))
DELETE = Access(name="a/b", actions=frozenset({"delete"}))
CATALOG = Access(actions=frozenset({"*"}))
JOE = basic("joe", "secret")


def refusal(access: GuardedAccess, header: str, wanted: Access) -> RegistryHttpError:
    with pytest.raises(RegistryHttpError) as error:
        access.authorize(header, wanted, "http://r")
    return error.value


def challenge(access: GuardedAccess, header: str, wanted: Access) -> str:
    error = refusal(access, header, wanted)
    assert (error.status, error.code) == (401, "UNAUTHORIZED")
    return error.headers["WWW-Authenticate"]


def reply(access: GuardedAccess, header: str = "", **fields: str | list[str]) -> dict[str, object]:
    found: dict[str, object] = json.loads(access.token("GET", urlencode(fields, doseq=True), header, b""))
    return found


def posted(access: GuardedAccess, **fields: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(access.token("POST", "", "", urlencode(fields).encode()))
    return found


def bearer(access: GuardedAccess, *scopes: str, header: str = "") -> str:
    return f"Bearer {reply(access, header, scope=list(scopes))['token']}"


def granted(token: object) -> list[dict[str, object]]:
    payload = str(token).split(".")[1]
    found: list[dict[str, object]] = json.loads(base64.urlsafe_b64decode(payload + "==="))["access"]
    return found


# --- basic


def test_basic() -> None:
    """auth-13: the right password passes; without one there is a challenge, at the base too."""
    access = basic_access()
    assert access.authorize(JOE, PUSH, "http://r").name == "joe"
    for header in ("", basic("joe", "no"), basic("ann", "secret"), "Basic !", "Basic", "Digest x", "Bearer x"):
        for wanted in (PULL, Access(), CATALOG):
            assert challenge(access, header, wanted) == 'Basic realm="pallet registry"'
    assert not access.is_open


def test_who_is_known_but_may_not_is_denied() -> None:
    """auth-24: DENIED only after valid authentication."""
    rules = [RuleConfig(repository="a/*", users=("ann",), allow=("pull", "push")),
             RuleConfig(repository="a/*", users=("joe",), allow=("pull",))]
    access = GuardedAccess(AuthConfig(), rules, users=Passwords({"joe": cheap_hash("secret")}))
    access.authorize(JOE, PULL, "http://r")
    error = refusal(access, JOE, PUSH)
    assert (error.status, error.code) == (403, "DENIED")
    assert challenge(access, "", PUSH)


def test_basic_credentials_that_are_no_text() -> None:
    access = basic_access()
    for raw in (b"joe", b"\xff\xfe:secret", b"joe:secret\0", b"joe:" + b"x" * 100_000, b":", b"\0:\0"):
        assert challenge(access, "Basic " + base64.b64encode(raw).decode(), PULL)


# --- tokens


def test_challenge_names_realm_service_and_scope() -> None:
    """auth-01"""
    access = token_access()
    assert challenge(access, "", PUSH) == (
        'Bearer realm="http://r/token",service="pallet-registry",scope="repository:a/b:pull,push"')
    assert challenge(access, "", Access()) == 'Bearer realm="http://r/token",service="pallet-registry"'
    assert 'scope="registry:catalog:*"' in challenge(access, "", CATALOG)


def test_tokens_cover_what_was_granted() -> None:
    """auth-15: a pull token does not push, nor pull from elsewhere; a forged one is invalid."""
    access = token_access()
    pull = bearer(access, "repository:a/b:pull", header=JOE)
    assert access.authorize(pull, PULL, "http://r").name == "joe"
    access.authorize(pull, Access(), "http://r")
    for other in (PUSH, DELETE, CATALOG, Access(name="c", actions=frozenset({"pull"}))):
        assert 'error="insufficient_scope"' in challenge(access, pull, other)
    assert 'error="invalid_token"' in challenge(access, pull[:-6] + "abcdef", PULL)
    assert 'error="invalid_token"' in challenge(access, "Bearer x.y.z", Access())


def test_anonymous_tokens() -> None:
    """auth-14: nobody in particular gets a token, which is good for what everybody may."""
    closed, opened = token_access(), token_access(anonymous=["pull"])
    assert granted(reply(closed, scope="repository:a/b:pull")["token"]) == []
    assert challenge(closed, bearer(closed, "repository:a/b:pull"), PULL)
    token = bearer(opened, "repository:a/b:pull,push")
    opened.authorize(token, PULL, "http://r")
    assert 'error="insufficient_scope"' in challenge(opened, token, PUSH)
    opened.authorize("", PULL, "http://r")
    assert challenge(opened, "", Access())
    assert "refresh_token" not in reply(opened, offline_token="true")


def test_several_scopes_in_one_token() -> None:
    """auth-03: as parameters of a GET, and joined by spaces in a POST."""
    access = token_access()
    first, second = "repository:a/b:pull,push", "repository:c:pull"
    want = [{"type": "repository", "name": "a/b", "actions": ["pull", "push"]},
            {"type": "repository", "name": "c", "actions": ["pull"]}]
    assert granted(reply(access, JOE, scope=[first, second])["token"]) == want
    answer = posted(access, grant_type="password", username="joe", password="secret",
                    scope=f"{first} {second}", service="pallet-registry", client_id="docker")
    assert granted(answer["access_token"]) == want
    assert answer["scope"] == f"{first} {second}"
    assert granted(reply(access, JOE, scope=["repository:c:pull", "repository:c:push"])["token"]) == [
        {"type": "repository", "name": "c", "actions": ["pull", "push"]}]


def test_replies_of_the_token_endpoint() -> None:
    """auth-06, auth-09: both names of the token, its age, and no refresh token unasked."""
    answer = reply(token_access(), JOE)
    assert answer["token"] == answer["access_token"]
    assert answer["expires_in"] == 300
    assert str(answer["issued_at"]).endswith("Z")
    assert "refresh_token" not in answer
    answer = posted(token_access(), grant_type="password", username="joe", password="secret")
    assert answer.keys() == {"access_token", "expires_in", "issued_at", "scope"}


@pytest.mark.parametrize("scope", [
    "repository:../a:pull", "repository:A:pull", "repository:a//b:pull", "repository:a/b/:pull",
    "repository:a%2fb:pull", "repository::pull", "repository:a", "repository:a:", "repository", ":::", "",
    "repository:a:PULL", "repository:a:pull;push", "registry:catalog:pull", "registry:other:*",
    "x:a:pull", "repository:a\0b:pull", "repository:a b:pull", "repository:*:pull", "repository:a/b:pull\n:pull",
    "repository:a:b:pull"])
def test_scopes_that_give_nothing(scope: str) -> None:
    assert granted(reply(token_access(), JOE, scope=scope)["token"]) == []


@pytest.mark.parametrize(("scope", "actions"), [
    ("repository:a:*", ["delete", "pull", "push"]), ("repository(plugin):a:pull", ["pull"]),
    ("repository:a:pull,delete,nonsense", ["delete", "pull"]), ("registry:catalog:*", ["*"])])
def test_scopes_that_give(scope: str, actions: list[str]) -> None:
    (entry,) = granted(reply(token_access(), JOE, scope=scope)["token"])
    assert entry["actions"] == actions


def test_catalog_needs_its_own_scope() -> None:
    """auth-03, docker-catalog: no token but one for ``registry:catalog:*`` lists repositories."""
    access = token_access(anonymous=["pull"])
    access.authorize(bearer(access, "registry:catalog:*", header=JOE), CATALOG, "http://r")
    for other in (bearer(access, "registry:catalog:*"), bearer(access, "repository:a/b:pull", header=JOE),
                  bearer(access)):
        assert 'error="insufficient_scope"' in challenge(access, other, CATALOG)
        access.authorize(other, Access(), "http://r")


def test_refresh_tokens(tmp_path: Path) -> None:
    """auth-10: one buys new tokens until the password changes or the user goes; it is no token itself."""
    path = write_users(tmp_path / "users")
    access = GuardedAccess(AuthConfig(htpasswd=str(path), token=TokenConfig()), root=tmp_path)
    refresh = str(reply(access, JOE, offline_token="true")["refresh_token"])
    assert 'error="invalid_token"' in challenge(access, f"Bearer {refresh}", PULL)
    fields = {"grant_type": "refresh_token", "refresh_token": refresh, "scope": "repository:a/b:pull"}
    answer = posted(access, **fields)
    assert answer["refresh_token"] == refresh
    access.authorize(f"Bearer {answer['access_token']}", PULL, "http://r")
    for text in ("x.y.z", "", str(answer["access_token"])):
        with pytest.raises(RegistryHttpError, match="invalid refresh token"):
            posted(access, grant_type="refresh_token", refresh_token=text)
    write_users(path, {"joe": "other"})
    with pytest.raises(RegistryHttpError, match="invalid refresh token"):
        posted(access, **fields)
    write_users(path, {"ann": "x"})
    assert 'error="invalid_token"' in challenge(access, f"Bearer {answer['access_token']}", PULL)


def test_refusals_of_the_token_endpoint() -> None:
    """A wrong password is told there, not as an anonymous token that fails later."""
    access = token_access()
    for header in (basic("joe", "no"), basic("ann", "secret"), "Bearer x", "Basic ?"):
        with pytest.raises(RegistryHttpError, match="incorrect username or password") as error:
            access.token("GET", "", header, b"")
        assert error.value.status == 401
    with pytest.raises(RegistryHttpError, match="incorrect"):
        access.token("GET", "account=ann", JOE, b"")
    with pytest.raises(RegistryHttpError, match="incorrect"):
        posted(access, grant_type="password", username="joe", password="no")
    for body in (b"", b"grant_type=client_credentials", b"\xff\xfe", b"&" * 1000):
        with pytest.raises(RegistryHttpError) as error:
            access.token("POST", "", "", body)
        assert error.value.status == 400
    with pytest.raises(RegistryHttpError, match="issues tokens for"):
        access.token("GET", "service=another", JOE, b"")
    with pytest.raises(RegistryHttpError) as error:
        access.token("PUT", "", "", b"")
    assert error.value.status == 405


def test_basic_works_where_tokens_do() -> None:
    access = token_access()
    access.authorize(JOE, PUSH, "http://r")
    assert 'error="invalid_token"' in challenge(access, basic("joe", "no"), PUSH)


def test_anonymous_rights_bring_tokens(tmp_path: Path) -> None:
    """auth-02: after a base without a challenge clients offer no credentials, and none come without after one."""
    auth = AuthConfig(htpasswd=str(write_users(tmp_path / "users")), anonymous=("pull",))
    access = GuardedAccess(auth, root=tmp_path)
    assert challenge(access, "", Access()).startswith("Bearer ")
    access.authorize(bearer(access, "repository:a/b:pull"), PULL, "http://r")


# --- rules


def policy(*rules: RuleConfig, **auth: object) -> Policy:
    return Policy(AuthConfig(groups={"dev": ("ann", "joe")}, **auth), rules)  # type: ignore[arg-type]


def test_rules_add_up_and_govern_what_they_fit() -> None:
    rules = policy(
        RuleConfig(repository="team/*", groups=("dev",), allow=("push",)),
        RuleConfig(repository="team/*", users=("bot",), allow=("pull",)),
        RuleConfig(repository=("team/app", "x"), users=("joe",), allow=("delete", "catalog")),
        RuleConfig(repository="public/*", anonymous=True, allow=("pull",)),
        RuleConfig(repository="inner/*", allow=("pull",)))
    assert rules.rights("joe", "team/app") == {"pull", "push", "delete", "catalog"}
    assert rules.rights("ann", "team/app/deep") == {"pull", "push"}
    assert rules.rights("bot", "team/app") == {"pull"}
    assert rules.rights("eve", "team/app") == rules.rights("", "team/app") == frozenset()
    assert rules.rights("", "public/a") == rules.rights("eve", "public/a") == {"pull"}
    assert rules.rights("", "inner/a") == frozenset()
    assert rules.rights("eve", "inner/a") == {"pull"}
    assert rules.rights("joe", "elsewhere") == rules.rights("joe", "team") == frozenset()
    assert [rules.may_list(user) for user in ("joe", "ann", "")] == [True, False, False]


def test_defaults_hold_where_no_rule_fits() -> None:
    everything = {"pull", "push", "delete", "catalog"}
    assert policy().rights("joe", "a") == everything
    assert policy().rights("", "a") == frozenset()
    rules = policy(RuleConfig(repository="secret/*", users=("ann",), allow=("pull",)),
                   default=("pull", "catalog"), anonymous=("pull",))
    assert rules.rights("joe", "a") == {"pull", "catalog"}
    assert rules.rights("", "a") == {"pull"}
    assert rules.rights("joe", "secret/a") == rules.rights("", "secret/a") == frozenset()
    assert rules.may_list("joe")
    assert not rules.may_list("")


def test_a_user_s_own_repositories() -> None:
    rules = policy(RuleConfig(repository="users/{user}/*", allow=("push", "delete")), default=("pull",))
    assert rules.rights("joe", "users/joe/x") == {"pull", "push", "delete"}
    assert rules.rights("joe", "users/ann/x") == rules.rights("", "users/joe/x") == frozenset()
    for trick in ("*", ".*", "j?e", "[j]oe", "joe|ann", "joe/../ann"):
        assert rules.rights(trick, "users/joe/x") == frozenset()


def test_an_unknown_group_is_an_error() -> None:
    with pytest.raises(InvalidParameterError, match="no group 'ops'"):
        policy(RuleConfig(repository="*", groups=("ops",), allow=("pull",)))


def test_rules_hold_for_tokens_that_were_issued_before() -> None:
    """A right that was taken away is gone at once, whatever a token says."""
    rules = [RuleConfig(repository="*", users=("joe",), allow=("push",))]
    before = token_access(rules=rules)
    token = bearer(before, "repository:a/b:pull,push,delete", header=JOE)
    assert granted(token)[0]["actions"] == ["pull", "push"]
    before.authorize(token, PUSH, "http://r")
    after = token_access(rules=[RuleConfig(repository="*", users=("joe",), allow=("pull",))])
    after.authorize(token, PULL, "http://r")
    assert 'error="insufficient_scope"' in challenge(after, token, PUSH)


def test_the_catalog_shows_what_its_right_covers() -> None:
    rules = [RuleConfig(repository="a/*", users=("joe",), allow=("catalog",)),
             RuleConfig(repository="b/*", users=("joe",), allow=("pull",))]
    access = token_access(rules=rules)
    caller = access.authorize(bearer(access, "registry:catalog:*", header=JOE), CATALOG, "http://r")
    sees = access.sees(caller)
    assert sees is not None
    assert [name for name in ("a/x", "b/x", "c") if sees(name)] == ["a/x"]


# --- what may be asked on a loop


def test_prompt_answers_need_no_hashing() -> None:
    access = token_access()
    assert access.prompt("", PULL)
    assert access.prompt("nonsense", PULL)
    assert not access.prompt(JOE, PULL)
    access.authorize(JOE, PULL, "http://r")
    assert access.prompt(JOE, PULL)
    token = bearer(access, "repository:a/b:pull", header=JOE)
    assert not access.prompt(token, PULL)
    access.authorize(token, PULL, "http://r")
    assert access.prompt(token, PULL)
    manifest = Access(name="a", actions=frozenset({"pull"}), manifest=True, counted=True)
    assert access.prompt("", manifest)
    assert not token_access(limits=LimitsConfig(pulls="1/s")).prompt("", manifest)


# --- settings


def test_settings(tmp_path: Path) -> None:
    path = tmp_path / "registry.toml"
    users = write_users(tmp_path / "users")
    path.write_text(f"""
[storage]
root = "{tmp_path}"
[auth]
htpasswd = "{users}"
anonymous = ["pull"]
default = []
[auth.groups]
dev = ["joe"]
[auth.token]
lifetime_s = 60
[[rule]]
repository = ["team/*", "x"]
groups = ["dev"]
allow = ["push", "delete"]
[limits]
pulls = "100/6h"
[tls]
min_version = "1.3"
""")
    access = access_of(read_config(path))
    assert not access.is_open
    assert json.loads(access.token("GET", "", JOE, b""))["expires_in"] == 60
    assert (tmp_path / "token-key.pem").stat().st_mode & 0o777 == 0o600
    assert json.loads(access.jwks())["keys"][0]["alg"] == "ES256"


@pytest.mark.parametrize(("text", "message"), [
    ('[auth]\nusers = "x"', "users"), ('[[rule]]\nallow = ["pull"]', "repository"),
    ('[[rule]]\nrepository = "*"\nallow = ["write"]', "write"), ("[tls]\nmin_version = \"1.0\"", "1.0")])
def test_wrong_settings(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "registry.toml"
    path.write_text(text)
    with pytest.raises(InvalidParameterError, match=message):
        read_config(path)


def test_settings_that_contradict_each_other(tmp_path: Path) -> None:
    users = str(write_users(tmp_path / "users"))
    external = TokenConfig(realm="http://i/token", jwks_url="http://i/keys")
    for auth, message in (
            (AuthConfig(htpasswd=users, token=external), "external issuer"),
            (AuthConfig(token=TokenConfig(jwks_url="http://i/keys")), "auth.token.realm"),
            (AuthConfig(token=TokenConfig(realm="r", jwks_url="u", key="k")), "auth.token.key"),
            (AuthConfig(htpasswd=str(tmp_path / "no")), "No such file"),
            (AuthConfig(token=TokenConfig(key=users)), "not a private key")):
        with pytest.raises(InvalidParameterError, match=message):
            GuardedAccess(auth, root=tmp_path)


def test_reload_takes_effect_or_changes_nothing(tmp_path: Path) -> None:
    storage = StorageConfig(root=str(tmp_path))
    users = str(write_users(tmp_path / "users"))
    closed = RegistryConfig(storage=storage, auth=AuthConfig(htpasswd=users))
    access = ReloadableAccess(RegistryConfig(storage=storage))
    access.authorize("", PUSH, "http://r")
    access.reload(closed)
    assert not access.is_open
    with pytest.raises(RegistryHttpError):
        access.authorize("", PULL, "http://r")
    with pytest.raises(InvalidParameterError):
        access.reload(RegistryConfig(auth=AuthConfig(htpasswd=str(tmp_path / "no"))))
    with pytest.raises(RegistryHttpError):
        access.authorize("", PULL, "http://r")


def test_open_registries_have_no_tokens() -> None:
    for access in (OpenAccess(), basic_access()):
        for call in (access.jwks, lambda access=access: access.token("GET", "", "", b"")):
            with pytest.raises(RegistryHttpError) as error:
                call()
            assert error.value.status == 404
