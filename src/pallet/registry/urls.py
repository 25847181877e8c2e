"""URLs of the registry protocol: what a path names, and which rights a request on it needs.

Owns   the grammar of paths below ``/v2/``.
Runs   anywhere; pure.
Needs  nothing.
Spec   distribution-spec v1.1 end-1 to end-14; Docker's ``_catalog``; Docker token authentication: scopes.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from pallet.registry.auth.model import Access
from pallet.spec import reference as references

_PATH = re.compile(
    r"/v2/(?P<name>.+)/(?:(?P<kind>manifests|blobs|referrers)/(?P<ref>[^/]+)"
    r"|tags/(?P<tags>list)|blobs/uploads/(?P<upload>[^/]*))")
_MAX_NAME = 255
_PULL = frozenset({"pull"})
_PUSH = frozenset({"pull", "push"})
_DELETE = frozenset({"delete"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a path names: ``kind`` is base, catalog, manifests, blobs, referrers, tags or uploads."""

    kind: str
    name: str = ""
    """The repository; it may be malformed."""
    ref: str = ""
    """Tag, digest or upload."""

    @property
    def is_valid(self) -> bool:
        """Whether the repository's name is well-formed."""
        return not self.name or (len(self.name) <= _MAX_NAME and references.is_repository(self.name))

    def access(self, method: str) -> Access:
        """What a request with this method needs."""
        if self.kind == "base":
            return Access()
        if self.kind == "catalog":
            return Access(actions=frozenset({"*"}))
        if method in {"GET", "HEAD"}:
            manifest = self.kind == "manifests"
            return Access(name=self.name, actions=_PULL, manifest=manifest,
                          counted=manifest and method == "GET")
        # Who may push may give up a push.
        delete = method == "DELETE" and self.kind != "uploads"
        return Access(name=self.name, actions=_DELETE if delete else _PUSH)


@functools.lru_cache(4096)
def access_of(method: str, path: str) -> Access | None:
    """What a request needs, from memory where it can: it is asked for every reply that is kept."""
    target = parse(path)
    return None if target is None else target.access(method)


_BASE, _CATALOG = Target(kind="base"), Target(kind="catalog")


def parse(path: str) -> Target | None:
    """What ``path`` names; None when it is nothing of the protocol."""
    if path in {"/v2", "/v2/"}:
        return _BASE
    if path == "/v2/_catalog":
        return _CATALOG
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    if match["tags"]:
        return Target(kind="tags", name=match["name"])
    if match["upload"] is not None:
        return Target(kind="uploads", name=match["name"], ref=match["upload"])
    return Target(kind=match["kind"], name=match["name"], ref=match["ref"])
