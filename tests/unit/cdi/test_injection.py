"""What CDI devices do to a configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from pallet.cdi.injection import inject
from pallet.cdi.registry import KnownDevice
from pallet.errors import NotImplementedApiError, SystemFailureError
from pallet.spec import cdi
from pallet.spec import runtime as oci

if TYPE_CHECKING:
    from pathlib import Path

NULL = oci.Device(path="/dev/here", type="c", major=1, minor=3)
SPEC = oci.Spec(
    process=oci.Process(env=["PATH=/bin", "A=old"]),
    mounts=[oci.Mount(destination="/proc", type="proc"), oci.Mount(destination="/a/b", source="/old", type="bind"),
            oci.Mount(destination="/etc/hosts", source="/h", type="bind")],
    linux=oci.Linux(resources=oci.LinuxResources(devices=[oci.DeviceRule(allow=False, access="rwm")])))


def known(edits: cdi.Edits, common: cdi.Edits | None = None, *, path: str = "x.json") -> KnownDevice:
    device = cdi.Device(name="one", container_edits=edits)
    return KnownDevice(name="v.com/cc=one", device=device, path=path, document=cdi.Specification(
        cdi_version="1.0.0", kind="v.com/cc", devices=[device], container_edits=common or cdi.Edits()))


def test_the_document_comes_once_before_its_devices() -> None:
    common = cdi.Edits(env=["A=common", "C=1"])
    found = inject(SPEC, [known(cdi.Edits(env=["A=first"]), common), known(cdi.Edits(env=["B=2"]), common)])
    assert found.spec.process.env == ["PATH=/bin", "A=first", "C=1", "B=2"]
    assert found.groups == ()
    assert found.spec.hooks is None


def test_nodes_are_the_hosts() -> None:
    nodes = [cdi.DeviceNode(path="/dev/here", host_path="/dev/null", permissions="r", uid=5, file_mode=0o600),
             cdi.DeviceNode(path="/dev/zero"), cdi.DeviceNode(path="/dev/made", type="c", major=200, minor=1),
             cdi.DeviceNode(path="/dev/fifo", type="p")]
    linux = inject(SPEC, [known(cdi.Edits(device_nodes=nodes))]).spec.linux
    assert linux.devices == [msgspec.structs.replace(NULL, uid=5, file_mode=0o600),
                             oci.Device(path="/dev/zero", type="c", major=1, minor=5),
                             oci.Device(path="/dev/made", type="c", major=200, minor=1),
                             oci.Device(path="/dev/fifo", type="p")]
    assert linux.resources is not None
    assert linux.resources.devices == [
        oci.DeviceRule(allow=False, access="rwm"),
        oci.DeviceRule(allow=True, type="c", major=1, minor=3, access="r"),
        oci.DeviceRule(allow=True, type="c", major=1, minor=5, access="rwm"),
        oci.DeviceRule(allow=True, type="c", major=200, minor=1, access="rwm")]


def test_a_node_takes_the_place_of_another() -> None:
    spec = msgspec.structs.replace(SPEC, linux=oci.Linux(devices=[NULL]))
    node = cdi.DeviceNode(path="/dev/here", host_path="/dev/zero")
    assert inject(spec, [known(cdi.Edits(device_nodes=[node]))]).spec.linux.devices == [
        msgspec.structs.replace(NULL, minor=5)]


@pytest.mark.parametrize(("node", "problem"), [
    (cdi.DeviceNode(path="/dev/x", host_path="/nowhere/x"),
     'failed to stat CDI host device "/nowhere/x": no such file or directory'),
    (cdi.DeviceNode(path="/etc/passwd"), 'failed to stat CDI host device "/etc/passwd": not a device node'),
    (cdi.DeviceNode(path="/dev/x", host_path="/dev/null", type="b"),
     'CDI device ("/dev/x", "/dev/null"), host type mismatch (b, c)')])
def test_nodes_that_are_not_there(node: cdi.DeviceNode, problem: str) -> None:
    """The words are those of dockerd 28.5.2."""
    with pytest.raises(SystemFailureError) as caught:
        inject(SPEC, [known(cdi.Edits(device_nodes=[node]))])
    assert str(caught.value) == f"CDI device injection failed: failed to inject devices: {problem}"


def test_mounts_go_from_shallow_to_deep(tmp_path: Path) -> None:
    more = [cdi.Mount(host_path=str(tmp_path), container_path="/a/b", options=["ro", "bind"]),
            cdi.Mount(host_path=str(tmp_path), container_path="/a"),
            cdi.Mount(host_path="tmpfs", container_path="/t", type="tmpfs")]
    found = inject(SPEC, [known(cdi.Edits(mounts=more))]).spec.mounts
    assert [(mount.destination, mount.options) for mount in found] == [
        ("/proc", []), ("/a", ["rbind"]), ("/t", []), ("/etc/hosts", []), ("/a/b", ["ro", "bind"])]


def test_hooks_and_groups() -> None:
    hook = cdi.Hook(hook_name="createContainer", path="/bin/x", args=["x", "y"], env=["A=b"], timeout=3)
    other = cdi.Hook(hook_name="poststop", path="/bin/z")
    spec = msgspec.structs.replace(SPEC, hooks=oci.Hooks(create_container=[oci.Hook(path="/first")]))
    found = inject(spec, [known(cdi.Edits(hooks=[hook, other], additional_gids=[0, 7, 8])),
                          known(cdi.Edits(additional_gids=[7]), path="y.json")])
    assert found.groups == ("7", "8")
    assert found.spec.hooks == oci.Hooks(
        create_container=[oci.Hook(path="/first"), oci.Hook(path="/bin/x", args=["x", "y"], env=["A=b"], timeout=3)],
        poststop=[oci.Hook(path="/bin/z")])


def test_cache_allocation_is_refused() -> None:
    with pytest.raises(NotImplementedApiError, match="intelRdt is not supported"):
        inject(SPEC, [known(cdi.Edits(intel_rdt=cdi.IntelRdt(clos_id="a")))])
