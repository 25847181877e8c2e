"""Where a registry is: the endpoints to try for a domain, in order.

Owns   mirrors and their credentials, insecure registries and the order of schemes.
Runs   in transfer threads (it may look a name up).
Needs  name resolution where insecure registries are given as CIDRs.
Spec   Docker daemon options registry-mirrors and insecure-registries.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pallet.spec.reference import DEFAULT_DOMAIN
from pallet.transfer.auth import LoginCredentials

if TYPE_CHECKING:
    from pallet.config import RegistryConfig

HUB_HOST = "registry-1.docker.io"
HUB_AUTH_KEY = "https://index.docker.io/v1/"
"""Under which clients file the credentials of docker.io."""
_SCHEME_MEMORY_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A server that may have a repository. ``url`` has no trailing slash and no ``/v2``."""

    url: str
    insecure: bool = False
    """Certificates are not verified."""
    mirror: bool = False
    """A mirror: its failures fall through and it never sees the credentials of the origin."""
    namespace: str = ""
    """The origin's host, told to a mirror of other registries than Docker Hub (``?ns=``)."""

    @property
    def authority(self) -> str:
        """``host[:port]``."""
        return urlsplit(self.url).netloc


class Resolver:
    """Endpoints by domain. Thread-safe."""

    def __init__(self, config: RegistryConfig) -> None:
        self._mirrors = tuple(_mirror(mirror) for mirror in config.mirrors)
        self._mirror_auth = {authority: (user, password)
                             for authority, user, password in config.mirror_auth}
        self._insecure_hosts = {entry for entry in config.insecure if "/" not in entry}
        self._insecure_networks = [ipaddress.ip_network(entry, strict=False)
                                   for entry in config.insecure if "/" in entry]
        self._insecure_networks += [ipaddress.ip_network("127.0.0.0/8"),
                                    ipaddress.ip_network("::1/128")]
        self._lock = threading.Lock()
        self._plain: dict[str, float] = {}

    def endpoints(self, domain: str, *, push: bool = False) -> list[Endpoint]:
        """Endpoints for ``domain``, in the order in which they are tried; never empty.

        Pushes never go to mirrors. An insecure registry is tried over TLS first, then plain; the
        scheme that answered is tried first for the next minute.
        """
        mirrors = [] if push else self._mirrors_of(domain)
        return [*mirrors, *self._origins(domain)]

    def _mirrors_of(self, domain: str) -> list[Endpoint]:
        return [Endpoint(url=url, insecure=self.is_insecure(urlsplit(url).netloc), mirror=True,
                         namespace=domain if host else "")
                for host, url in self._mirrors
                if host in {domain, "*"} or (not host and domain == DEFAULT_DOMAIN)]

    def _origins(self, domain: str) -> list[Endpoint]:
        if domain == DEFAULT_DOMAIN:
            return [Endpoint(url=f"https://{HUB_HOST}")]
        if not self.is_insecure(domain):
            return [Endpoint(url=f"https://{domain}")]
        secure = Endpoint(url=f"https://{domain}", insecure=True)
        plain = Endpoint(url=f"http://{domain}", insecure=True)
        with self._lock:
            fresh = self._plain.get(domain, 0.0) > time.monotonic()
        return [plain, secure] if fresh else [secure, plain]

    def credentials(self, endpoint: Endpoint, origin: LoginCredentials) -> LoginCredentials:
        """What ``endpoint`` gets to see; ``origin`` is for the registry itself."""
        if not endpoint.mirror:
            return origin
        if endpoint.authority not in self._mirror_auth:
            return LoginCredentials()
        user, password = self._mirror_auth[endpoint.authority]
        return LoginCredentials(username=user, password=password) if user else origin

    def answered(self, endpoint: Endpoint) -> None:
        """Remember that an insecure registry answered, and over which scheme."""
        with self._lock:
            if endpoint.url.startswith("http://"):
                self._plain[endpoint.authority] = time.monotonic() + _SCHEME_MEMORY_S
            else:
                self._plain.pop(endpoint.authority, None)

    def is_insecure(self, authority: str) -> bool:
        """Whether ``host[:port]`` may speak plain HTTP or show any certificate."""
        host = authority
        if authority.startswith("["):
            host = authority[1:authority.find("]")]
        elif authority.count(":") == 1:
            host = authority.partition(":")[0]
        if authority in self._insecure_hosts or host in self._insecure_hosts:
            return True
        return any(address in network
                   for address in _addresses(host) for network in self._insecure_networks)


def auth_key(domain: str) -> str:
    """The name under which clients file credentials for ``domain``."""
    return HUB_AUTH_KEY if domain == DEFAULT_DOMAIN else domain


def login_domain(server_address: str) -> str:
    """Domain meant by the ``serveraddress`` of a login; empty means docker.io."""
    text = server_address.strip()
    if not text:
        return DEFAULT_DOMAIN
    host = urlsplit(text).netloc if "://" in text else text.partition("/")[0]
    if host in {"index.docker.io", "docker.io", HUB_HOST}:
        return DEFAULT_DOMAIN
    return host


def _mirror(text: str) -> tuple[str, str]:
    """Host that is mirrored, "" where only a URL is given, and the URL."""
    host, equals, url = text.partition("=")
    if not equals or "/" in host:
        host, url = "", text
    return host, (url if "://" in url else f"https://{url}").rstrip("/")


def _addresses(host: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    try:
        return [ipaddress.ip_address(host)]
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
