"""Clauses of registry.tsv on access: challenges, basic authentication, tokens, and refusals that depend on them."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

from pallet.registry.auth.settings import LimitsConfig, RuleConfig
from pallet.registry.server import RegistryServer
from tests.conformance.oci_distribution.test_clauses import refused
from tests.conformance.oci_distribution.test_distribution import Client, Reply, digest
from tests.support.access import basic_access, token_access
from tests.support.registry import basic

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.conformance

JOE = basic("joe", "secret")


@dataclass
class Guarded:
    """A registry that wants to know who asks."""

    client: Client

    def call(self, method: str, path: str, authorization: str = "", body: Any = None) -> Reply:
        headers = {"Authorization": authorization} if authorization else {}
        return self.client.call(method, path, body, headers)

    def token(self, authorization: str = JOE, **query: str | list[str]) -> dict[str, Any]:
        reply = self.call("GET", f"/token?{urlencode(query, doseq=True)}", authorization)
        assert reply.status == 200, reply.body
        found: dict[str, Any] = json.loads(reply.body)
        return found


def running(root: Path, access: Any) -> Iterator[Guarded]:
    server = RegistryServer(("127.0.0.1", 0), root, access=access)
    server.start()
    yield Guarded(Client(server.authority))
    server.stop()


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[Guarded]:
    rules = [RuleConfig(repository="*", allow=("pull", "push", "delete")),
             RuleConfig(repository="public/*", anonymous=True, allow=("pull",))]
    yield from running(tmp_path, token_access(rules=rules))


@pytest.fixture
def passwords(tmp_path: Path) -> Iterator[Guarded]:
    yield from running(tmp_path, basic_access())


def claims(token: str) -> dict[str, Any]:
    payload = token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return found


def test_code11_auth01_auth24_challenge_has_the_scope_that_is_needed(tokens: Guarded) -> None:
    host = tokens.client.authority
    for method, path, scope in (
            ("GET", "/v2/a/b/manifests/1", 'scope="repository:a/b:pull"'),
            ("POST", "/v2/a/b/blobs/uploads/", 'scope="repository:a/b:pull,push"'),
            ("DELETE", "/v2/a/b/manifests/1", 'scope="repository:a/b:delete"'),
            ("GET", "/v2/_catalog", 'scope="registry:catalog:*"')):
        reply = tokens.call(method, path)
        refused(reply, 401, "UNAUTHORIZED")
        challenge = reply.headers["www-authenticate"]
        assert challenge.startswith(f'Bearer realm="http://{host}/token",service="pallet-registry",')
        assert scope in challenge


def test_auth02_auth13_basic_challenge_and_credentials(passwords: Guarded) -> None:
    reply = passwords.call("GET", "/v2/")
    assert (reply.status, reply.headers["www-authenticate"]) == (401, 'Basic realm="pallet registry"')
    assert passwords.call("GET", "/v2/", JOE).status == 200
    assert passwords.call("GET", "/v2/", basic("joe", "wrong")).status == 401


def test_code12_auth24_denied_only_to_who_is_known(tmp_path: Path) -> None:
    rules = [RuleConfig(repository="a/*", users=("joe",), allow=("pull",))]
    access = token_access(rules=rules)
    for server in running(tmp_path, access):
        assert server.call("POST", "/v2/a/b/blobs/uploads/").status == 401
        reply = server.call("POST", "/v2/a/b/blobs/uploads/", JOE)
        refused(reply, 403, "DENIED")


def test_auth03_auth04_scopes(tokens: Guarded) -> None:
    reply = tokens.token(scope=["repository:a/b:pull,push", "repository(plugin):c:pull", "registry:catalog:*"],
                         service="pallet-registry")
    names = {(entry["type"], entry["name"]): set(entry["actions"]) for entry in claims(reply["token"])["access"]}
    assert names[("repository", "a/b")] == {"pull", "push"}
    assert names[("repository", "c")] == {"pull"}
    bearer = f"Bearer {tokens.token(scope='repository:a/b:delete')['token']}"
    assert tokens.call("DELETE", "/v2/a/b/manifests/x", bearer).status == 404
    assert tokens.call("GET", "/v2/a/b/manifests/x", bearer).status == 401


def test_auth04_mount_needs_both_scopes(tokens: Guarded) -> None:
    push = f"Bearer {tokens.token(scope=['repository:a/b:pull,push', 'repository:c/d:pull,push'])['token']}"
    digest_ = digest(b"shared")
    assert tokens.call("POST", f"/v2/c/d/blobs/uploads/?digest={digest_}", push, b"shared").status == 201
    only = f"Bearer {tokens.token(scope='repository:a/b:pull,push')['token']}"
    path = f"/v2/a/b/blobs/uploads/?mount={digest_}&from=c/d"
    assert tokens.call("POST", path, only, b"").status == 202
    assert tokens.call("POST", path, push, b"").status == 201


def test_auth05_auth06_auth07_reply_of_the_token_endpoint(tokens: Guarded) -> None:
    reply = tokens.token(service="pallet-registry", scope="repository:a:pull", account="joe", client_id="docker")
    assert reply["token"] == reply["access_token"]
    assert reply["expires_in"] >= 60
    assert reply["issued_at"].endswith("Z")
    assert "refresh_token" not in reply
    assert tokens.call("GET", "/token?service=pallet-registry", basic("joe", "wrong")).status == 401


def test_auth08_auth09_auth10_oauth2_and_refresh_tokens(tokens: Guarded) -> None:
    def post(**fields: str) -> Reply:
        return tokens.client.call("POST", "/token", urlencode(fields).encode(), {
            "Content-Type": "application/x-www-form-urlencoded"})

    first = post(grant_type="password", service="pallet-registry", client_id="docker", access_type="offline",
                 username="joe", password="secret", scope="repository:a:pull")
    assert first.status == 200
    document = json.loads(first.body)
    assert {"access_token", "scope", "expires_in", "issued_at", "refresh_token"} <= document.keys()
    again = post(grant_type="refresh_token", service="pallet-registry", client_id="docker",
                 refresh_token=document["refresh_token"], scope="repository:a:pull")
    bearer = f"Bearer {json.loads(again.body)['access_token']}"
    assert tokens.call("GET", "/v2/a/manifests/1", bearer).status == 404
    assert post(grant_type="refresh_token", refresh_token="x.y.z", scope="repository:a:pull").status in {400, 401}
    assert tokens.token(offline_token="true")["refresh_token"]


def test_auth11_bearer_is_a_signed_token_for_this_service(tokens: Guarded) -> None:
    token = tokens.token(scope="repository:a:pull")["token"]
    found = claims(token)
    assert {"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "access"} <= found.keys()
    assert (found["sub"], found["aud"]) == ("joe", "pallet-registry")
    assert found["exp"] > time.time()
    assert found["access"] == [{"type": "repository", "name": "a", "actions": ["pull"]}]
    assert tokens.call("GET", "/v2/a/manifests/1", f"Bearer {token}").status == 404
    head, _payload, signature = token.split(".")
    forged = base64.urlsafe_b64encode(json.dumps({**found, "sub": "ann"}).encode()).rstrip(b"=").decode()
    reply = tokens.call("GET", "/v2/a/manifests/1", f"Bearer {head}.{forged}.{signature}")
    assert reply.status == 401
    assert 'error="invalid_token"' in reply.headers["www-authenticate"]


def test_auth14_anonymous_tokens(tokens: Guarded) -> None:
    token = tokens.token("", scope="repository:public/x:pull")["token"]
    assert tokens.call("GET", "/v2/public/x/manifests/1", f"Bearer {token}").status == 404
    token = tokens.token("", scope="repository:a/x:pull")["token"]
    assert tokens.call("GET", "/v2/a/x/manifests/1", f"Bearer {token}").status == 401


def test_auth15_insufficient_scope(tokens: Guarded) -> None:
    token = tokens.token(scope="repository:a:pull")["token"]
    reply = tokens.call("POST", "/v2/a/blobs/uploads/", f"Bearer {token}", b"")
    assert reply.status == 401
    assert 'error="insufficient_scope"' in reply.headers["www-authenticate"]


def test_code14_too_many_requests_with_retry_after(tmp_path: Path) -> None:
    access = token_access(anonymous=("pull",), limits=LimitsConfig(anonymous_requests="2/h"))
    for server in running(tmp_path, access):
        replies = [server.call("GET", "/v2/a/manifests/1") for _ in range(4)]
        refused(replies[-1], 429, "TOOMANYREQUESTS")
        assert int(replies[-1].headers["retry-after"]) > 0
