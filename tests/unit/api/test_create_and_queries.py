"""Create requests by API version; moments; platforms; registry credentials."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from msgspec import UNSET

from pallet.api.create import read_create
from pallet.api.moments import moment_ns, optional_moment_ns
from pallet.api.routes.images import _platform, registry_auth
from pallet.errors import InvalidParameterError
from pallet.http.h1 import RequestHead
from pallet.http.messages import Request
from pallet.spec.engine.options import CreateOptions


class NoSource:
    """A request without connection."""

    async def read_body(self) -> bytes:
        raise AssertionError

    async def hijack(self, head: bytes) -> Any:
        raise AssertionError


def request(target: str = "/x", version: tuple[int, int] = (1, 51), **headers: str) -> Request:
    made = Request(RequestHead("POST", target.encode(), [
        (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
        False, True, False), NoSource())
    made.version = version
    return made


def create(body: dict[str, Any], version: tuple[int, int] = (1, 51),
           query: str = "") -> tuple[CreateOptions, list[str]]:
    return read_create(request(f"/containers/create?{query}", version), json.dumps(body).encode())


@pytest.mark.parametrize("raw", [b"", b"null", b"{}", b'{"HostConfig":{}}', b'{"Image":null}',
                                 b"[]"])
def test_no_config(raw: bytes) -> None:
    with pytest.raises(InvalidParameterError, match=r"^config cannot be empty in order to create"):
        read_create(request(), raw)


def test_name_platform_and_defaults() -> None:
    options, warnings = create({"Image": "a"}, query="name=n&platform=linux/arm64")
    assert (options.name, options.platform, warnings) == ("n", "linux/arm64", [])
    assert options.host_config.network_mode == "default"
    assert options.networking.endpoints_config is None
    assert create({"Image": "a"}, (1, 40), "platform=linux/arm64")[0].platform == ""


def test_gates() -> None:
    body = {"Image": "a", "Healthcheck": {"StartInterval": 5, "Interval": 6},
            "HostConfig": {"ConsoleSize": [3, 4], "Annotations": {"a": "b"}, "KernelMemory": 7}}
    newest, _ = create(body)
    assert newest.host_config.console_size == (3, 4)
    assert newest.host_config.annotations == {"a": "b"}
    assert newest.host_config.kernel_memory is UNSET
    assert newest.config.healthcheck.start_interval == 5
    old, _ = create(body, (1, 39))
    assert old.host_config.console_size == (0, 0)
    assert old.host_config.annotations is UNSET
    assert old.host_config.kernel_memory == 7
    assert old.host_config.ipc_mode == "shareable"
    assert old.config.healthcheck.start_interval is UNSET
    assert old.config.healthcheck.interval == 6


@pytest.mark.parametrize(("given", "kept"), [(0, None), (-1, None), (5, 5), (None, None)])
def test_pids_limit(given: int | None, kept: int | None) -> None:
    options, _ = create({"Image": "a", "HostConfig": {"PidsLimit": given}})
    assert options.host_config.pids_limit == kept


@pytest.mark.parametrize(("version", "warned"), [((1, 43), False), ((1, 44), True)])
def test_container_wide_mac_address_goes_to_the_endpoint(
    version: tuple[int, int], warned: bool
) -> None:
    options, warnings = create(
        {"Image": "a", "MacAddress": "02:00:00:00:00:01",
         "HostConfig": {"NetworkMode": "n1"},
         "NetworkingConfig": {"EndpointsConfig": {"n1": {"Aliases": ["x"]}}}}, version)
    assert options.networking.endpoints_config
    endpoint = options.networking.endpoints_config["n1"]
    assert endpoint
    assert (endpoint.mac_address, endpoint.aliases) == ("02:00:00:00:00:01", ["x"])
    assert bool(warnings) is warned


def test_mac_address_contradictions() -> None:
    mac = {"Image": "a", "MacAddress": "02:00:00:00:00:01"}
    with pytest.raises(InvalidParameterError, match="conflicting options"):
        create({**mac, "HostConfig": {"NetworkMode": "host"}})
    with pytest.raises(InvalidParameterError, match="must match the endpoint-specific"):
        create({**mac, "NetworkingConfig": {"EndpointsConfig": {
            "default": {"MacAddress": "02:00:00:00:00:02"}}}})


def test_several_endpoints_before_1_44() -> None:
    body = {"Image": "a", "NetworkingConfig": {"EndpointsConfig": {"b": {}, "a": {}}}}
    with pytest.raises(InvalidParameterError, match="multiple network endpoints: a, b"):
        create(body, (1, 43))
    assert len(create(body)[0].networking.endpoints_config or {}) == 2


@pytest.mark.parametrize(("text", "expected"), [
    ("", 0), ("5", 5_000_000_000), ("5.5", 5_500_000_000), ("5.", 5_000_000_000),
    ("1700000000.000000001", 1_700_000_000_000_000_001), ("5.1234567899", 5_123_456_789)])
def test_moments(text: str, expected: int) -> None:
    assert moment_ns(text, "since") == expected


@pytest.mark.parametrize("text", ["x", "1.x", "2026-01-01", "1e5", ".5"])
def test_moments_that_are_none(text: str) -> None:
    with pytest.raises(InvalidParameterError, match='invalid value for "since"'):
        moment_ns(text, "since")
    assert optional_moment_ns("") is None


def test_platform_forms() -> None:
    assert _platform("linux/amd64") == "linux/amd64"
    assert _platform('{"os":"linux","architecture":"arm","variant":"v7"}') == "linux/arm/v7"
    for wrong in ('{"os":"linux"}', "{x", '{"os":1}'):
        with pytest.raises(InvalidParameterError):
            _platform(wrong)


@pytest.mark.parametrize("encode", [base64.urlsafe_b64encode, base64.b64encode])
@pytest.mark.parametrize("padded", [True, False])
def test_registry_auth(encode: Any, padded: bool) -> None:
    text = encode(json.dumps({"username": "ü?>", "password": "p", "email": None}).encode())
    text = text.decode() if padded else text.decode().rstrip("=")
    auth = registry_auth(request(x_registry_auth=text))
    assert auth
    assert (auth.username, auth.password) == ("ü?>", "p")


@pytest.mark.parametrize("text", ["", "%%%", "bm90IGpzb24=", "W10="])
def test_registry_auth_that_cannot_be_read_is_anonymous(text: str) -> None:
    assert registry_auth(request(x_registry_auth=text)) is None
    assert registry_auth(request()) is None
