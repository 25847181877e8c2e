"""Image references: Docker's grammar, normalised and familiar forms.

Owns   parsing of what users and clients type as an image's name. Pure, no I/O.
Runs   anywhere.
Needs  nothing.
Spec   distribution-spec "Pulling manifests" (name and tag grammar); Docker's defaulting:
       no domain means docker.io, a single component means library/.

```
reference = name [":" tag] ["@" digest]
name      = [domain "/"] path-component *("/" path-component)
domain    = host [":" port]            host = component *("." component) | "[" IPv6 "]"
component = alphanumeric, inner hyphens (either case)
path-component = lower alphanumerics joined by "." "_" "__" or any number of "-"
tag       = word character, then up to 127 of word characters, "." and "-"
```
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pallet.errors import InvalidParameterError
from pallet.spec import digest as digests

if TYPE_CHECKING:
    from pallet.types import Digest

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"
_LEGACY_DOMAIN = "index.docker.io"
_OFFICIAL = "library/"
_MAX_PATH = 255

_HOST = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_DOMAIN = rf"(?:{_HOST}(?:\.{_HOST})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = rf"{_COMPONENT}(?:/{_COMPONENT})*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"

_REFERENCE = re.compile(
    rf"(?P<domain>{_DOMAIN})/(?P<path>{_PATH})(?::(?P<tag>{_TAG}))?(?:@(?P<digest>{_DIGEST}))?")
_IDENTIFIER = re.compile(r"[a-f0-9]{64}")
_TAG_ONLY = re.compile(_TAG)
_REPOSITORY = re.compile(_PATH)


class ReferenceFormatError(InvalidParameterError):
    """A string is not an image reference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A normalised reference: ``domain`` and full ``path`` are always there.

    ``str()`` is the canonical form (``docker.io/library/debian:12``); ``familiar()`` is what
    Docker shows to people (``debian:12``).
    """

    domain: str
    path: str
    tag: str | None = None
    digest: Digest | None = None

    @property
    def name(self) -> str:
        """Canonical repository name with its domain, without tag or digest."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """Repository name as Docker shows it: docker.io and library/ are left out."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        path = self.path
        if path.startswith(_OFFICIAL) and "/" not in path[len(_OFFICIAL):]:
            return path[len(_OFFICIAL):]
        return path

    @property
    def is_name_only(self) -> bool:
        """True when neither a tag nor a digest was given."""
        return self.tag is None and self.digest is None

    def familiar(self) -> str:
        """The whole reference as Docker shows it."""
        return self._with_suffix(self.familiar_name)

    def with_default_tag(self) -> Reference:
        """The same reference, with ``latest`` when it has neither tag nor digest."""
        return replace(self, tag=DEFAULT_TAG) if self.is_name_only else self

    def with_tag(self, tag: str) -> Reference:
        """The repository with ``tag`` and no digest.

        Raises:
            ReferenceFormatError: "invalid tag format".
        """
        if not _TAG_ONLY.fullmatch(tag):
            message = "invalid tag format"
            raise ReferenceFormatError(message)
        return Reference(domain=self.domain, path=self.path, tag=tag)

    def with_digest(self, digest: Digest) -> Reference:
        """The repository pinned to ``digest``, without a tag."""
        return Reference(domain=self.domain, path=self.path, digest=digest)

    def without_digest(self) -> Reference:
        """The same reference without its digest."""
        return replace(self, digest=None)

    def repository(self) -> Reference:
        """The repository alone."""
        return Reference(domain=self.domain, path=self.path)

    def _with_suffix(self, name: str) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        digest = f"@{self.digest}" if self.digest is not None else ""
        return f"{name}{tag}{digest}"

    def __str__(self) -> str:
        """Canonical form with tag and digest."""
        return self._with_suffix(self.name)


def parse_normalized(text: str) -> Reference:
    """Parse what a user typed; add docker.io and library/ where Docker does; add no tag.

    Raises:
        ReferenceFormatError: in Docker's words, beginning "invalid reference format" except
            for a bare 64-digit hex id and an over-long name.
    """
    if _IDENTIFIER.fullmatch(text):
        message = (f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
        raise ReferenceFormatError(message)
    domain, remainder = _split_domain(text)
    remote = remainder.partition(":")[0]
    if remote.lower() != remote:
        message = f"invalid reference format: repository name ({remote}) must be lowercase"
        raise ReferenceFormatError(message)
    match = _REFERENCE.fullmatch(f"{domain}/{remainder}")
    if match is None:
        message = "invalid reference format"
        raise ReferenceFormatError(message)
    if len(match["path"]) > _MAX_PATH:
        message = f"repository name must not be more than {_MAX_PATH} characters"
        raise ReferenceFormatError(message)
    digest = digests.parse(match["digest"]) if match["digest"] else None
    return Reference(domain=match["domain"], path=match["path"], tag=match["tag"], digest=digest)


def parse_repository_tag(repository: str, tag: str) -> Reference:
    """Join the two query parameters of ``/images/create``, ``/tag`` and ``/push``.

    ``tag`` may be empty (nothing is added), a tag, or a digest.

    Raises:
        ReferenceFormatError: either part is malformed.
    """
    reference = parse_normalized(repository)
    if not tag:
        return reference
    if digests.is_digest(tag):
        return reference.with_digest(digests.parse(tag))
    return reference.with_tag(tag)


def is_tag(text: str) -> bool:
    """Whether ``text`` is a well-formed tag."""
    return _TAG_ONLY.fullmatch(text) is not None


def is_repository(text: str) -> bool:
    """Whether ``text`` is a well-formed repository path (no domain), as registries name them."""
    return _REPOSITORY.fullmatch(text) is not None


def _split_domain(text: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    if slash and (any(c in first for c in ".:") or first == "localhost" or first.lower() != first):
        domain, remainder = first, rest
    else:
        domain, remainder = DEFAULT_DOMAIN, text
    if domain == _LEGACY_DOMAIN:
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in remainder:
        remainder = _OFFICIAL + remainder
    return domain, remainder
