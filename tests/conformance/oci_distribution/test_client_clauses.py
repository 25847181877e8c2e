"""Clauses of registry.tsv on clients that no pull, push or login of another test shows."""

from __future__ import annotations

import base64
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from pallet.api.routes.build import registry_config
from pallet.api.routes.images import registry_auth
from pallet.spec.engine.auth import AuthConfig
from pallet.transfer.auth import LoginCredentials
from pallet.transfer.client import RepositoryClient
from pallet.transfer.failures import RefusedError
from pallet.transfer.resolver import Endpoint
from pallet.transfer.transport import Transport
from tests.support.access import token_access
from tests.support.faultyregistry import FaultyRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pallet.http.messages import Request

pytestmark = pytest.mark.conformance


@pytest.fixture
def transport() -> Iterator[Transport]:
    made = Transport()
    yield made
    made.close()


def test_auth02_no_challenge_no_credentials(tmp_path: Path, transport: Transport) -> None:
    with FaultyRegistry(tmp_path) as server:
        asking = RepositoryClient(transport, Endpoint(url=f"http://{server.authority}"), "a/b",
                                  credentials=LoginCredentials(username="joe", password="secret"))
        asking.ping()
        assert "Authorization" not in server.seen_headers["GET /v2/"]
        assert not any(line.startswith("GET /token") for line in server.requests)


def test_auth12_registry_token_is_sent_unchanged(tmp_path: Path, transport: Transport) -> None:
    with FaultyRegistry(tmp_path, access=token_access()) as server:
        asking = RepositoryClient(transport, Endpoint(url=f"http://{server.authority}"), "a/b",
                                  credentials=LoginCredentials.from_config(AuthConfig(registrytoken="a.b.c")))
        with pytest.raises(RefusedError) as refused:
            asking.manifest("1")
        assert refused.value.status == 401
        assert server.seen_headers["GET /v2/a/b/manifests/1"]["Authorization"] == "Bearer a.b.c"
        assert not any(line.startswith("GET /token") for line in server.requests)


def request(name: str, value: str | None) -> Request:
    return cast("Request", SimpleNamespace(header=lambda asked: value if asked.lower() == name else None))


def test_auth17_x_registry_auth() -> None:
    document: dict[str, Any] = {"username": "j?>", "password": "p", "serveraddress": "r", "identitytoken": "i"}
    text = base64.urlsafe_b64encode(json.dumps(document).encode()).decode()
    found = registry_auth(request("x-registry-auth", text))
    assert found is not None
    assert (found.username, found.password, found.serveraddress, found.identitytoken) == ("j?>", "p", "r", "i")
    empty = registry_auth(request("x-registry-auth", "e30="))
    assert empty is None or empty == AuthConfig()
    assert registry_auth(request("x-registry-auth", None)) is None


def test_auth18_x_registry_config() -> None:
    document = {"https://index.docker.io/v1/": {"username": "hub", "password": "h"}, "r:5000": {"auth": "am9lOnM="}}
    text = base64.urlsafe_b64encode(json.dumps(document).encode()).decode()
    found = registry_config(request("x-registry-config", text))
    assert found["https://index.docker.io/v1/"].username == "hub"
    assert LoginCredentials.from_config(found["r:5000"]) == LoginCredentials(username="joe", password="s")
    assert registry_config(request("x-registry-config", None)) == {}
