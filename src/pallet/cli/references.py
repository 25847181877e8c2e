"""Image references where the command line needs their parts: pulls, pushes, tags, credentials."""

from __future__ import annotations

from pallet.cli.errors import CommandError
from pallet.errors import InvalidParameterError
from pallet.spec.reference import Reference, parse_normalized

TYPE_CHECKING = False

INDEX_SERVER = "https://index.docker.io/v1/"


def parse_reference(text: str) -> Reference:
    """Return ``text`` normalised.

    Raises:
        CommandError: "invalid reference format…".
    """
    try:
        return parse_normalized(text)
    except InvalidParameterError as error:
        raise CommandError(str(error)) from None


def repository_and_tag(text: str) -> tuple[str, str]:
    """Return ``("name", "tag or digest")`` of ``text`` as the API's two query parameters."""
    name, at, digest = text.partition("@")
    if at:
        return name, digest
    head, colon, tag = text.rpartition(":")
    if colon and "/" not in tag:
        return head, tag
    return text, ""


def auth_key(reference: Reference) -> str:
    """Return the key of the reference's registry in config.json's ``auths``."""
    return INDEX_SERVER if reference.domain == "docker.io" else reference.domain
