"""Credentials of a build's client, in the forms that transfers take."""

from __future__ import annotations

import pytest

from pallet.build.credentials import auth_config, login
from pallet.build.treeclient import TreeClient
from pallet.spec.engine.auth import AuthConfig
from pallet.spec.reference import parse_normalized
from pallet.transfer.auth import LoginCredentials


@pytest.mark.parametrize(("found", "auth"), [
    (None, AuthConfig()), (("me", "word"), AuthConfig(username="me", password="word")),
    (("<token>", "t"), AuthConfig(identitytoken="t")), (("<registrytoken>", "t"), AuthConfig(registrytoken="t"))])
def test_forms(found: tuple[str, str] | None, auth: AuthConfig) -> None:
    assert auth_config(found) == auth


@pytest.mark.parametrize(("auth", "found"), [
    (AuthConfig(username="me", password="word"), ("me", "word")),
    (AuthConfig(identitytoken="i"), ("<token>", "i")), (AuthConfig(registrytoken="r"), ("<registrytoken>", "r"))])
async def test_what_comes_with_a_classic_build(auth: AuthConfig, found: tuple[str, str]) -> None:
    client = TreeClient(None, None, {"r.example": auth})  # type: ignore[arg-type]  # neither is looked at
    assert await client.credentials("r.example") == found
    assert await client.credentials("other.example") is None
    made = await login(client, parse_normalized("r.example/x"))
    assert made == LoginCredentials(username=auth.username, password=auth.password, identity_token=auth.identitytoken,
                                    registry_token=auth.registrytoken)
