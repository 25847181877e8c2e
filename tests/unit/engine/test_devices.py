"""Requests for devices: drivers that are there, and what CDI can fulfil."""

from __future__ import annotations

import pytest

from pallet.cdi.registry import DeviceRegistry
from pallet.engine.devices import requested
from pallet.errors import SystemFailureError
from pallet.spec.engine.host_config import DeviceRequest

ON, OFF = DeviceRegistry(["/nowhere"]), DeviceRegistry([])


def test_names() -> None:
    requests = [DeviceRequest(driver="cdi", device_ids=["v.com/x=a", "v.com/x=b"], capabilities=[["gpu"]]),
                DeviceRequest(driver="cdi"), DeviceRequest(driver="cdi", device_ids=["v.com/x=c"])]
    assert requested(requests, ON) == ["v.com/x=a", "v.com/x=b", "v.com/x=c"]
    assert requested(None, ON) == []


@pytest.mark.parametrize(("request_", "registry", "problem"), [
    (DeviceRequest(count=-1, capabilities=[["gpu", "nvidia"]]), ON,
     'could not select device driver "" with capabilities: [[gpu nvidia]]'),
    (DeviceRequest(device_ids=["v.com/x=a"]), ON, 'could not select device driver "" with capabilities: []'),
    (DeviceRequest(driver="cdi", device_ids=["v.com/x=a"]), OFF,
     'could not select device driver "cdi" with capabilities: []'),
    (DeviceRequest(driver="cdi", count=1), ON, "unexpected count in CDI device request"),
    (DeviceRequest(driver="cdi", options={"a": "b"}), ON, "unexpected options in CDI device request")])
def test_refusals(request_: DeviceRequest, registry: DeviceRegistry, problem: str) -> None:
    """The words are those of dockerd 28.5.2."""
    with pytest.raises(SystemFailureError) as caught:
        requested([request_], registry)
    assert str(caught.value) == problem
