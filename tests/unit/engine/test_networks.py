"""Network list and inspect, against what dockerd answers."""

from __future__ import annotations

import msgspec
import pytest

from pallet.config import BridgeConfig
from pallet.engine.events import EventBus
from pallet.engine.networks import Networks
from pallet.errors import (
    ForbiddenError,
    InvalidParameterError,
    NotFoundError,
    NotImplementedApiError,
)
from pallet.network.controller import NetworkController
from pallet.network.model import ConnectRequest, Endpoint, LiveEndpoint, NetworkRecord
from pallet.spec.engine.filters import Filters
from pallet.spec.engine.network import NetworkCreateRequest


class _Store:
    def __init__(self) -> None:
        self.rows: dict[str, tuple[str, bytes]] = {}
        record = NetworkRecord(
            id="b" * 64, name="bridge", driver="bridge", created="2026-01-02T03:04:05Z",
            subnet="172.17.0.0/16", gateway="172.17.0.1", options={"com.docker.network.bridge.name": "pallet0"})
        self.put_network(record.id, record.name, msgspec.json.encode(record))

    def put_network(self, network_id: str, name: str, record: bytes) -> None:
        self.rows[network_id] = (name, record)

    def networks(self) -> list[tuple[str, str, bytes]]:
        return [(key, *value) for key, value in self.rows.items()]


class _NoNetns:
    async def run_raw_worker(
        self, kind: str, request: bytes, fds: object = (),
    ) -> tuple[bytes, list[int]]:
        raise AssertionError


@pytest.fixture
def controller() -> NetworkController:
    """A controller that has loaded its records and set up no bridge."""
    found = NetworkController(BridgeConfig(), store=_Store(), netns=_NoNetns())
    found._load()
    return found


@pytest.fixture
def networks(controller: NetworkController) -> Networks:
    return Networks(controller, EventBus())


def _filter(**values: tuple[str, ...]) -> Filters:
    return Filters(values)


async def test_inspect_of_the_bridge(networks: Networks) -> None:
    found = msgspec.to_builtins(await networks.inspect("bridge", verbose=False, scope=""))
    assert found == {
        "Name": "bridge", "Id": "b" * 64, "Created": "2026-01-02T03:04:05Z", "Scope": "local",
        "Driver": "bridge", "EnableIPv4": True, "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": None,
                 "Config": [{"Subnet": "172.17.0.0/16", "Gateway": "172.17.0.1"}]},
        "Internal": False, "Attachable": False, "Ingress": False, "ConfigFrom": {"Network": ""},
        "ConfigOnly": False, "Containers": {},
        "Options": {"com.docker.network.bridge.name": "pallet0"}, "Labels": {}}


@pytest.mark.parametrize(("name", "driver"), [("host", "host"), ("none", "null")])
async def test_inspect_of_the_others(networks: Networks, name: str, driver: str) -> None:
    found = await networks.inspect(name, verbose=False, scope="local")
    assert (found.driver, found.ipam.config, found.options) == (driver, None, {})


async def test_members_are_shown(controller: NetworkController, networks: Networks) -> None:
    await controller.connect("c" * 64, ConnectRequest(container_name="web", network_mode="host"))
    found = await networks.inspect("host", verbose=False, scope="")
    assert [resource.name for resource in found.containers.values()] == ["web"]
    assert found.containers["c" * 64].ipv4_address == ""
    controller.rename("c" * 64, "www")
    found = await networks.inspect("host", verbose=False, scope="")
    assert found.containers["c" * 64].name == "www"
    assert (await networks.list(Filters()))[1].containers == {}
    await controller.release("c" * 64)
    assert controller.members(controller.get("host").id) == []


async def test_lookup(networks: Networks) -> None:
    assert (await networks.inspect("b" * 64, verbose=False, scope="")).name == "bridge"
    assert (await networks.inspect("bbbbbbb", verbose=False, scope="")).name == "bridge"
    for wrong, scope in (("nope", ""), ("", ""), ("bridge", "swarm")):
        with pytest.raises(NotFoundError, match=f"^network {wrong} not found$"):
            await networks.inspect(wrong, verbose=False, scope=scope)


@pytest.mark.parametrize(("wanted", "expected"), [
    (_filter(), ["bridge", "host", "none"]),
    (_filter(driver=("null", "host")), ["host", "none"]),
    (_filter(name=("^h",)), ["host"]),
    (_filter(name=("o",)), ["host", "none"]),
    (_filter(id=("bbbbbbbb",)), ["bridge"]),
    (_filter(scope=("swarm",)), []),
    (_filter(type=("custom",)), []),
    (_filter(type=("builtin",)), ["bridge", "host", "none"]),
    (_filter(label=("x",)), []),
    (_filter(dangling=("true",)), []),
    (_filter(dangling=("false",)), ["bridge", "host", "none"]),
])
async def test_filters(networks: Networks, wanted: Filters, expected: list[str]) -> None:
    found = await networks.list(wanted)
    assert [item.name for item in found] == expected


@pytest.mark.parametrize("wanted", [_filter(type=("x",)), _filter(foo=("x",)), _filter(dangling=("x",))])
async def test_bad_filters(networks: Networks, wanted: Filters) -> None:
    with pytest.raises(InvalidParameterError, match="invalid filter"):
        await networks.list(wanted)


async def test_built_in_networks_are_fixed(networks: Networks) -> None:
    with pytest.raises(ForbiddenError, match=r"^bridge is a pre-defined network and cannot be removed$"):
        await networks.remove("bridge")
    with pytest.raises(ForbiddenError, match=r"^operation is not permitted on predefined host network $"):
        await networks.create(NetworkCreateRequest(name="host"))
    with pytest.raises(NotImplementedApiError):
        await networks.create(NetworkCreateRequest(name="mine"))


def test_records_of_before_are_kept(controller: NetworkController) -> None:
    again = NetworkController(BridgeConfig(), store=controller._store, netns=_NoNetns())
    again._load()
    assert again.networks() == controller.networks()


async def test_without_a_default_bridge() -> None:
    """``--bridge none``: the network is not there, and containers get none."""
    controller = NetworkController(BridgeConfig(name="none"), store=_Store(), netns=_NoNetns())
    await controller.start({"x": LiveEndpoint(container_name="x", endpoint=(
        await _endpoint_of_none(controller)))})
    assert [record.name for record in controller.networks()] == ["host", "none"]
    sandbox = await controller.connect("y", ConnectRequest(container_name="y"))
    assert sandbox.endpoint is not None
    assert sandbox.endpoint.network_name == "none"
    with pytest.raises(NotFoundError):
        await controller.connect("z", ConnectRequest(container_name="z", network_mode="bridge"))
    assert [member.name for member in controller.members(controller.get("none").id)] == ["x", "y"]
    await controller.close(keep=False)


async def _endpoint_of_none(controller: NetworkController) -> Endpoint:
    controller._load()
    sandbox = await controller.connect("x", ConnectRequest(container_name="x", network_mode="none"))
    assert sandbox.endpoint is not None
    return sandbox.endpoint
