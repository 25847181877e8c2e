"""What clients have for registries, in the forms that transfers take.

Owns   the meaning of ``BuildClient.credentials``.
Runs   on the loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pallet.spec.engine.auth import AuthConfig
from pallet.spec.own.buildwire import IDENTITY_TOKEN_USER, REGISTRY_TOKEN_USER
from pallet.transfer.auth import LoginCredentials

if TYPE_CHECKING:
    from pallet.build.ports import BuildClient
    from pallet.spec.reference import Reference


def auth_config(found: tuple[str, str] | None) -> AuthConfig:
    """What a client answered as the Engine API has it."""
    user, secret = found or ("", "")
    if user == IDENTITY_TOKEN_USER:
        return AuthConfig(identitytoken=secret)
    if user == REGISTRY_TOKEN_USER:
        return AuthConfig(registrytoken=secret)
    return AuthConfig(username=user, password=secret)


async def login(client: BuildClient, reference: Reference) -> LoginCredentials:
    """What the client has for a reference's registry."""
    return LoginCredentials.from_config(auth_config(await client.credentials(reference.domain)))
