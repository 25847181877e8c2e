"""Challenges, credentials, proxies and endpoints: what is decided before a byte is sent."""

from __future__ import annotations

import base64
import socket

import pytest

from pallet.config import RegistryConfig
from pallet.spec.engine.auth import AuthConfig
from pallet.transfer import resolver
from pallet.transfer.auth import Challenge, LoginCredentials, parse_challenges
from pallet.transfer.proxies import ProxySettings
from pallet.transfer.resolver import Resolver


@pytest.mark.parametrize(("headers", "expected"), [
    (['Bearer realm="https://a/token",service="s",scope="repository:x:pull,push"'],
     [Challenge(scheme="bearer", parameters={
         "realm": "https://a/token", "service": "s", "scope": "repository:x:pull,push"})]),
    (['Basic realm="a \\"quoted\\" name"'],
     [Challenge(scheme="basic", parameters={"realm": 'a "quoted" name'})]),
    (["bearer Realm=https://a/t , error=invalid_token"],
     [Challenge(scheme="bearer", parameters={"realm": "https://a/t", "error": "invalid_token"})]),
    (['Negotiate, Basic realm="x"', 'Bearer realm="y"'],
     [Challenge(scheme="negotiate", parameters={}),
      Challenge(scheme="basic", parameters={"realm": "x"}),
      Challenge(scheme="bearer", parameters={"realm": "y"})]),
    ([""], []),
    (["Bearer"], [Challenge(scheme="bearer", parameters={})]),
])
def test_challenges(headers: list[str], expected: list[Challenge]) -> None:
    """Several headers, several schemes in one, quoted strings, bare tokens, any case."""
    assert parse_challenges(headers) == expected


def test_credentials_from_the_auth_field() -> None:
    """``auth`` is ``user:password`` in base64, NULs at its end dropped; colons stay."""
    packed = base64.b64encode(b"joe:a:b\0").decode()
    found = LoginCredentials.from_config(AuthConfig(auth=packed))
    assert (found.username, found.password) == ("joe", "a:b")
    assert LoginCredentials.from_config(AuthConfig(auth="***")).username == ""
    assert LoginCredentials.from_config(None) == LoginCredentials()


def test_credentials_hide_in_logs() -> None:
    """A password never shows in a repr."""
    assert "secret" not in repr(LoginCredentials(username="joe", password="secret",
                                                 identity_token="secret", registry_token="secret"))


@pytest.mark.parametrize(("url", "expected"), [
    ("https://registry.example/v2/", "http://proxy:3128"),
    ("http://registry.example/v2/", "http://plain:80"),
    ("https://localhost:5000/v2/", None),
    ("http://127.0.0.1:5000/v2/", None),
    ("http://[::1]:5000/v2/", None),
    ("https://inside.corp/", None),
    ("https://a.inside.corp/", None),
    ("https://notinside.corp/", "http://proxy:3128"),
    ("https://suffix.only/", "http://proxy:3128"),
    ("https://x.suffix.only/", None),
    ("https://10.1.2.3/", None),
    ("https://11.1.2.3/", "http://proxy:3128"),
    ("https://192.0.2.7/", None),
    ("https://ported.example:8443/", None),
    ("https://ported.example/", "http://proxy:3128"),
])
def test_proxies(url: str, expected: str | None) -> None:
    """Go's rules for HTTP(S)_PROXY and NO_PROXY."""
    settings = ProxySettings.from_environment({
        "HTTPS_PROXY": "proxy:3128", "http_proxy": "http://plain:80",
        "NO_PROXY": "inside.corp, .suffix.only,10.0.0.0/8,192.0.2.7,ported.example:8443"})
    assert settings.for_url(url) == expected


def test_no_proxy_star() -> None:
    """``*`` turns proxies off."""
    settings = ProxySettings.from_environment({"HTTPS_PROXY": "http://p", "NO_PROXY": "*"})
    assert settings.for_url("https://registry.example/") is None


@pytest.mark.parametrize(("domain", "urls"), [
    ("docker.io", ["https://mirror.example", "http://192.0.2.1:5000",
                   "https://registry-1.docker.io"]),
    ("registry.example", ["https://registry.example"]),
    ("registry.example:5000", ["https://registry.example:5000"]),
    ("127.0.0.1:5000", ["https://127.0.0.1:5000", "http://127.0.0.1:5000"]),
    ("127.9.9.9", ["https://127.9.9.9", "http://127.9.9.9"]),
    ("[::1]:5000", ["https://[::1]:5000", "http://[::1]:5000"]),
    ("192.0.2.9:5000", ["https://192.0.2.9:5000", "http://192.0.2.9:5000"]),
    ("open.example:80", ["https://open.example:80", "http://open.example:80"]),
    ("open.example:81", ["https://open.example:81"]),
])
def test_endpoints(domain: str, urls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Mirrors only for docker.io; plain HTTP only where it is insecure anyway."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_a, **_k: [])
    found = Resolver(RegistryConfig(
        mirrors=("mirror.example/", "http://192.0.2.1:5000"),
        insecure=("192.0.2.0/24", "open.example:80")))
    assert [endpoint.url for endpoint in found.endpoints(domain)] == urls
    assert [endpoint.mirror for endpoint in found.endpoints(domain, push=True)].count(True) == 0


def test_scheme_that_answered_comes_first() -> None:
    """A plain registry is not asked for TLS on every pull."""
    found = Resolver(RegistryConfig())
    plain = found.endpoints("127.0.0.1:5000")[1]
    found.answered(plain)
    assert found.endpoints("127.0.0.1:5000")[0] == plain
    found.answered(found.endpoints("127.0.0.1:5000")[1])
    assert found.endpoints("127.0.0.1:5000")[1] == plain


@pytest.mark.parametrize(("address", "domain"), [
    ("", "docker.io"), ("https://index.docker.io/v1/", "docker.io"), ("docker.io", "docker.io"),
    ("registry.example:5000", "registry.example:5000"),
    ("https://registry.example/v2/", "registry.example"), ("registry.example/x", "registry.example")])
def test_login_domain(address: str, domain: str) -> None:
    """``serveraddress`` comes as a URL, a host, or the hub's old index."""
    assert resolver.login_domain(address) == domain
