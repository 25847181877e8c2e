"""Documents of the registry protocol: errors, tokens, tag lists.

Owns   the JSON forms a registry client and a registry server exchange, apart from manifests.
Runs   anywhere; pure.
Needs  msgspec.
Spec   distribution-spec "Error codes", "Listing tags"; Docker token authentication.
"""

from __future__ import annotations

from typing import Any

import msgspec


class ErrorInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry of an error reply. ``code`` is one of the specification's upper-case words."""

    code: str = ""
    message: str = ""
    detail: Any = None


class ErrorReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Body of a 4xx reply. ``details`` is what some token servers send instead of ``errors``."""

    errors: list[ErrorInfo] | None = None
    details: str = ""
    error: str = ""
    error_description: str = ""


class TokenReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a token server answers; ``access_token`` wins over ``token``.

    ``expires_in`` is in seconds; ``issued_at`` is RFC 3339.
    """

    token: str = ""
    access_token: str = ""
    expires_in: int = 0
    issued_at: str = ""
    refresh_token: str = ""
    scope: str = ""


class TagList(msgspec.Struct, frozen=True, kw_only=True):
    """Tags of a repository in lexical order; null when there are none on some registries."""

    name: str = ""
    tags: list[str] | None = None


class Catalog(msgspec.Struct, frozen=True, kw_only=True):
    """Repositories of a registry (Docker's own extension)."""

    repositories: list[str]


error_decoder = msgspec.json.Decoder(ErrorReply)
token_decoder = msgspec.json.Decoder(TokenReply)
tags_decoder = msgspec.json.Decoder(TagList)
catalog_decoder = msgspec.json.Decoder(Catalog)
