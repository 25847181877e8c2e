"""The mirror's section of the configuration file, and which names are mirrored.

Owns   ``[mirror]``, ``[[mirror.upstream]]`` and the way from a request's name to an upstream.
Runs   anywhere; pure.
Needs  nothing.

A mirrored repository is stored as ``<prefix>/<path>``: the upstream's host, with ``:`` before a port
turned into ``.``, and the path there. No top-level domain is a number, so the host can be told from it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from pallet.errors import InvalidParameterError
from pallet.spec import reference as references
from pallet.spec.reference import DEFAULT_DOMAIN

ANY_HOST = "*"
DIRECTORY = "mirror"
"""Below the registry's root: blobs on their way."""
_HOST = re.compile(r"[a-z0-9]+(?:[.-][a-z0-9]+)*(?::[0-9]+)?")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(?:i?b)?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_HUB_NAMES = frozenset({"index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"})


class CredentialsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[[mirror.upstream.credentials]]``: the first whose patterns fit a repository are used."""

    repositories: tuple[str, ...] = ("*",)
    """Patterns of paths on the upstream."""
    username: str = ""
    password: str = ""
    password_file: str = ""
    """Read at start, instead of ``password``."""
    identity_token: str = ""

    def secret(self) -> str:
        """The password, wherever it is.

        Raises:
            InvalidParameterError: its file cannot be read.
        """
        if not self.password_file:
            return self.password
        try:
            return Path(self.password_file).read_text(encoding="utf-8").rstrip("\r\n")
        except OSError as error:
            message = f"mirror: {error}"
            raise InvalidParameterError(message) from error


class UpstreamConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[[mirror.upstream]]``: a registry to mirror."""

    host: str
    """As in image references; ``*`` is every host that has no entry of its own."""
    url: str = ""
    """Where it is; "" is ``https://`` and the host. With ``{host}`` in it for ``*``."""
    prefix: str = ""
    """First part of its repositories' names here; "" is the host, ``:`` as ``.``."""
    allow: tuple[str, ...] = ("*",)
    """Patterns of paths that are mirrored."""
    deny: tuple[str, ...] = ()
    """Patterns of paths that are not, whatever is allowed."""
    ttl_s: float | None = None
    """Instead of the mirror's."""
    insecure: bool = False
    """Any certificate will do; a host without a URL may speak plain HTTP."""
    credentials: tuple[CredentialsConfig, ...] = ()

    @property
    def stored_prefix(self) -> str:
        """``prefix`` with its default."""
        return self.prefix or prefix_of(self.host)

    def allows(self, path: str) -> bool:
        """Whether ``path`` is mirrored."""
        return _fits(path, self.allow) and not _fits(path, self.deny)


class MirrorConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[mirror]``."""

    upstream: tuple[UpstreamConfig, ...] = ()
    default: str = ""
    """Host whose repositories are also found without a prefix: what dockerd expects of a mirror."""
    ttl_s: float = 300.0
    """A tag is asked for again upstream after so long."""
    budget: str = ""
    """Size of what is kept, ``50GB``; the least recently used goes first; "" is no limit."""
    keep_days: float = 0.0
    """What nobody asked for in so many days goes; 0 keeps it."""
    retry_s: float = 15.0
    """An upstream that failed is left alone for so long while there is something to answer with."""
    timeout_s: float = 15.0
    """For a connection; four times as long for an answer."""
    max_fetches: int = 16
    """Blobs that are fetched at once."""

    @property
    def budget_bytes(self) -> int:
        """``budget``; 0 is no limit."""
        return size_bytes(self.budget) if self.budget else 0

    def check(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            InvalidParameterError: it does.
        """
        seen: dict[str, str] = {}
        for upstream in self.upstream:
            if upstream.host != ANY_HOST:
                host_of(upstream.host)
            if upstream.url and urlsplit(upstream.url.replace("{host}", "h")).scheme not in {"http", "https"}:
                message = f"mirror: {upstream.host}: not an http or https URL: {upstream.url!r}"
                raise InvalidParameterError(message)
            prefix = upstream.stored_prefix
            if upstream.host != ANY_HOST and (not references.is_repository(prefix) or "/" in prefix):
                message = f"mirror: {upstream.host}: {prefix!r} cannot begin a repository's name"
                raise InvalidParameterError(message)
            if prefix in seen:
                message = f"mirror: {seen[prefix]} and {upstream.host} are the same upstream"
                raise InvalidParameterError(message)
            seen[prefix] = upstream.host
        if self.default and not any(_is_of(upstream, self.default) for upstream in self.upstream):
            message = f"mirror: the default {self.default!r} is none of the upstreams"
            raise InvalidParameterError(message)
        if self.budget:
            size_bytes(self.budget)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A mirrored repository."""

    upstream: UpstreamConfig
    host: str
    path: str
    """On the upstream."""
    name: str
    """In the store."""
    subject: str
    """The name that rules of access are about: as in the URL, or ``name`` for one with ``ns``."""
    by_namespace: bool
    allowed: bool


class MirroredNames:
    """Tells mirrored repositories from others."""

    def __init__(self, config: MirrorConfig) -> None:
        self._by_host = {host_of(one.host): one for one in config.upstream if one.host != ANY_HOST}
        self._by_prefix = {one.stored_prefix: one for one in self._by_host.values()}
        self._any = next((one for one in config.upstream if one.host == ANY_HOST), None)
        self._default = host_of(config.default) if config.default else ""

    def __contains__(self, name: object) -> bool:
        """Whether a repository of the store is a mirrored one."""
        prefix, slash, _ = str(name).partition("/")
        return bool(slash) and (prefix in self._by_prefix or (self._any is not None and "." in prefix))

    def target(self, name: str, namespace: str | None) -> Target | None:
        """The mirrored repository that a request means; None for one of this registry's own.

        Args:
            name: in the URL.
            namespace: the parameter ``ns``: the host in the reference that the client resolves.

        Raises:
            InvalidParameterError: ``namespace`` is no host, or none that is mirrored.
        """
        if namespace:
            host = host_of(namespace)
            upstream = self._by_host.get(host, self._any)
            if upstream is None:
                message = f"{namespace} is not mirrored"
                raise InvalidParameterError(message)
            return _target(upstream, host, name, subject="", by_namespace=True)
        prefix, slash, rest = name.partition("/")
        if slash:
            upstream = self._by_prefix.get(prefix)
            if upstream is not None:
                return _target(upstream, host_of(upstream.host), rest, subject=name)
            if self._any is not None and "." in prefix:
                return _target(self._any, _host_from(prefix), rest, subject=name)
        if self._default:
            upstream = self._by_host.get(self._default, self._any)
            assert upstream is not None
            target = _target(upstream, self._default, name, subject=name)
            return target if target.allowed else None
        return None


def _target(upstream: UpstreamConfig, host: str, path: str, *, subject: str,
            by_namespace: bool = False) -> Target:
    if host == DEFAULT_DOMAIN and "/" not in path:
        path = f"library/{path}"
    prefix = prefix_of(host) if upstream.host == ANY_HOST else upstream.stored_prefix
    name = f"{prefix}/{path}"
    return Target(upstream=upstream, host=host, path=path, name=name, subject=subject or name,
                  by_namespace=by_namespace, allowed=upstream.allows(path))


def host_of(text: str) -> str:
    """A registry's host, with its one name.

    Raises:
        InvalidParameterError: it is none.
    """
    host = text.lower()
    if not _HOST.fullmatch(host):
        message = f"mirror: {text!r} is no host"
        raise InvalidParameterError(message)
    return DEFAULT_DOMAIN if host in _HUB_NAMES else host


def prefix_of(host: str) -> str:
    """First part of the stored names of a host's repositories."""
    return host.lower().replace(":", ".")


def _host_from(prefix: str) -> str:
    """What ``prefix_of`` was made of: a number behind a name or a whole address is a port."""
    labels = prefix.split(".")
    address = len(labels) == 4 and all(label.isdigit() for label in labels)
    if labels[-1].isdigit() and not address:
        return f"{'.'.join(labels[:-1])}:{labels[-1]}"
    return prefix


def with_hosts(config: MirrorConfig | None, values: list[str]) -> MirrorConfig:
    """A configuration with upstreams added as ``--mirror`` names them: ``HOST``, ``HOST=URL``, ``*``.

    Without a configuration the first host is also found without a prefix.

    Raises:
        InvalidParameterError: a value is none of these.
    """
    added = []
    for value in values:
        host, _, url = value.partition("=")
        added.append(UpstreamConfig(host=host if host == ANY_HOST else host_of(host), url=url))
    if config is None:
        named = [one.host for one in added if one.host != ANY_HOST]
        config = MirrorConfig(default=named[0] if named else DEFAULT_DOMAIN)
    made = msgspec.structs.replace(config, upstream=(*config.upstream, *added))
    made.check()
    return made


def size_bytes(text: str) -> int:
    """Bytes of a size like ``50GB``; units are powers of 1024.

    Raises:
        InvalidParameterError: it is none.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        message = f"invalid size: {text!r}"
        raise InvalidParameterError(message)
    return int(float(match[1]) * _UNITS[match[2].lower()])


def _is_of(upstream: UpstreamConfig, host: str) -> bool:
    return upstream.host == ANY_HOST or host_of(upstream.host) == host_of(host)


def _fits(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)
