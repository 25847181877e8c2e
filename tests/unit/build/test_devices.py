"""``RUN --device``: which devices a wish means, and which the client allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pallet.build.devices import CLASS_ANNOTATION, grant
from pallet.cdi.registry import Catalog, KnownDevice
from pallet.errors import InvalidParameterError, NotFoundError
from pallet.spec import cdi
from pallet.spec.dockerfile.devices import DeviceWish, parse
from pallet.spec.dockerfile.errors import DockerfileError

if TYPE_CHECKING:
    from collections.abc import Sequence

ALLOW = "org.mobyproject.buildkit.device.autoallow"


def catalog() -> Catalog:
    found = {}
    for kind, name, notes in (("v.com/gpu", "a", {CLASS_ANNOTATION: "fast"}), ("v.com/gpu", "b", {}),
                                    ("w.com/x", "free", {ALLOW: "true", CLASS_ANNOTATION: "fast"})):
        device = cdi.Device(name=name, annotations=notes)
        document = cdi.Specification(cdi_version="0.6.0", kind=kind, devices=[device])
        found[f"{kind}={name}"] = KnownDevice(name=f"{kind}={name}", device=device, document=document, path=name)
    return Catalog(devices=found)


@pytest.mark.parametrize(("text", "wish"), [
    ("v.com/gpu=a", DeviceWish("v.com/gpu=a")), ("name=v.com/gpu=a,required", DeviceWish("v.com/gpu=a", required=True)),
    ("required=TRUE,fast", DeviceWish("fast", required=True)), ("v.com/gpu,required=0", DeviceWish("v.com/gpu")),
])
def test_values(text: str, wish: DeviceWish) -> None:
    assert parse(text) == wish


@pytest.mark.parametrize(("text", "problem"), [
    ("name=a,name=b", "device name already set to a"), ("a,b", "invalid field 'b' must be a key=value pair"),
    ("a,require=1", "unexpected key 'require' in 'require=1' (did you mean required?)"),
    ("a,required=maybe", "invalid value for required: maybe")])
def test_bad_values(text: str, problem: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        parse(text)
    assert str(caught.value) == problem


@pytest.mark.parametrize(("wishes", "names"), [
    (["v.com/gpu=b"], ["v.com/gpu=b"]), (["v.com/gpu"], ["v.com/gpu=a"]),
    (["v.com/gpu=*"], ["v.com/gpu=a", "v.com/gpu=b"]), (["fast"], ["v.com/gpu=a", "w.com/x=free"]),
    (["v.com/gpu=b", "v.com/gpu=*"], ["v.com/gpu=b", "v.com/gpu=a"]), (["v.com/gpu=z", "none"], [])])
def test_names(wishes: Sequence[str], names: Sequence[str]) -> None:
    assert grant(wishes, ["device"], catalog()) == names


@pytest.mark.parametrize("name", ["v.com/gpu=z", "z.com/gpu", "z.com/gpu=*", "slow"])
def test_required_and_absent(name: str) -> None:
    for entitlements in ([], ["device"]):
        with pytest.raises(NotFoundError) as caught:
            grant([f"{name},required"], entitlements, catalog())
        assert str(caught.value) == f'required device "{name}" is not registered'


@pytest.mark.parametrize(("wishes", "entitlements", "names"), [
    (["w.com/x=free"], [], ["w.com/x=free"]), (["v.com/gpu=a"], ["device=v.com/gpu=a"], ["v.com/gpu=a"]),
    (["v.com/gpu=a"], ["network.host", "device=v.com/gpu=*"], ["v.com/gpu=a"]),
    (["mine"], ["device=v.com/gpu=b,alias=mine"], ["v.com/gpu=b"]),
    (["v.com/gpu=a"], ["device=v.com/gpu=b,alias=v.com/gpu=a"], ["v.com/gpu=b"]), ([], [], [])])
def test_allowed(wishes: Sequence[str], entitlements: Sequence[str], names: Sequence[str]) -> None:
    assert grant(wishes, entitlements, catalog()) == names


@pytest.mark.parametrize(("wish", "entitlements", "problem"), [
    ("v.com/gpu=a", [], "device v.com/gpu=a is requested by the build but not allowed"),
    ("v.com/gpu=*", ["network.host"], "devices v.com/gpu=a, v.com/gpu=b are requested by the build but not allowed"),
    ("v.com/gpu=*", ["device=v.com/gpu=b"], "device v.com/gpu=a is requested by the build but not allowed"),
    ("fast", ["device=v.com/gpu=b"], "device v.com/gpu=a is requested by the build but not allowed")])
def test_not_allowed(wish: str, entitlements: Sequence[str], problem: str) -> None:
    with pytest.raises(InvalidParameterError) as caught:
        grant([wish], entitlements, catalog())
    assert str(caught.value) == problem


@pytest.mark.parametrize(("text", "problem"), [
    ("device=a,b", 'invalid device config "b"'), ("device=a,b=c", 'unknown device config key "b"')])
def test_bad_entitlements(text: str, problem: str) -> None:
    with pytest.raises(InvalidParameterError) as caught:
        grant([], [text], catalog())
    assert str(caught.value) == problem
