"""From a container to its OCI configuration."""

from __future__ import annotations

from typing import Any

import pytest

from pallet.config import Config
from pallet.engine import oci, security
from pallet.engine.container import Container, MountRecord
from pallet.spec import runtime
from pallet.spec.engine.config import ContainerConfig
from pallet.spec.engine.host_config import HostConfig
from pallet.types import ContainerId, ImageId

ID = "ab" * 32


def container(config: dict[str, Any] | None = None, mounts: list[MountRecord] | None = None,
              **host: Any) -> Container:
    return Container(
        id=ContainerId(ID), name="web", created_at_ns=1, image_id=ImageId("sha256:1"), image_ref="app",
        layers=(), config=ContainerConfig(**{"cmd": ["sh"], "hostname": "box", **(config or {})}),
        host_config=HostConfig(**{"network_mode": "bridge", "ipc_mode": "private", "cgroupns_mode": "host", **host}),
        driver="overlay2", mounts=mounts or [])


def around(**more: Any) -> oci.Surroundings:
    return oci.Surroundings(**{
        "config": Config(), "files": {"/etc/hosts": "/h"}, "joined": {},
        "private_network": True, "recursive_read_only": True, **more})


def build(made: Container, **more: Any) -> runtime.Spec:
    return oci.build(made, around(**more), security.SecurityOptions())


def test_a_plain_container_owns_its_namespaces_and_has_the_fourteen_capabilities() -> None:
    spec = build(container())
    assert [n.type for n in spec.linux.namespaces] == ["mount", "network", "uts", "pid", "ipc"]
    assert spec.process.capabilities is not None
    assert len(spec.process.capabilities.bounding) == 14
    assert spec.process.capabilities.inheritable == []
    assert spec.linux.cgroups_path == f"/pallet/{ID}"
    assert spec.linux.sysctl["net.ipv4.ip_unprivileged_port_start"] == "0"
    assert spec.hostname == "box"


@pytest.mark.parametrize(("host", "missing"), [
    ({"network_mode": "host"}, "network"), ({"pid_mode": "host"}, "pid"), ({"uts_mode": "host"}, "uts"),
    ({"ipc_mode": "host"}, "ipc")])
def test_host_modes_leave_the_namespace_out(host: dict[str, str], missing: str) -> None:
    assert missing not in {n.type for n in build(container(**host)).linux.namespaces}


def test_joined_namespaces_have_paths_and_share_shm() -> None:
    spec = build(container(ipc_mode="container:x"), joined={"ipc": "/proc/7/ns/ipc", "shm": "/proc/7/root/dev/shm"})
    assert {n.type: n.path for n in spec.linux.namespaces}["ipc"] == "/proc/7/ns/ipc"
    assert next(m for m in spec.mounts if m.destination == "/dev/shm").source == "/proc/7/root/dev/shm"


def test_privileged_hides_nothing_and_writes_everywhere() -> None:
    spec = build(container(privileged=True))
    assert (spec.linux.masked_paths, spec.linux.readonly_paths) == ([], [])
    assert "rw" in next(m for m in spec.mounts if m.destination == "/sys").options
    assert spec.linux.resources is not None
    assert [rule.allow for rule in spec.linux.resources.devices] == [True]


def test_mounts_go_from_shallow_to_deep_and_replace_defaults() -> None:
    spec = build(container(mounts=[
        MountRecord(type="bind", source="/deep", destination="/a/b/c", propagation="rprivate"),
        MountRecord(type="bind", source="/top", destination="/a", read_only=True, recursive_read_only=True),
        MountRecord(type="tmpfs", source="", destination="/dev/shm", tmpfs_options="exec,size=1m")]))
    own = [m.destination for m in spec.mounts]
    assert own.index("/a") < own.index("/a/b/c")
    assert own.count("/dev/shm") == 1
    shm = next(m for m in spec.mounts if m.destination == "/dev/shm")
    assert shm.options == ["nosuid", "nodev", "exec", "size=1m"]
    top = next(m for m in spec.mounts if m.destination == "/a")
    assert top.options == ["rbind", "rprivate", "ro", "rro"]


def test_old_kernels_get_a_plain_read_only_bind() -> None:
    mounts = [MountRecord(type="bind", source="/t", destination="/a", read_only=True, recursive_read_only=True)]
    spec = build(container(mounts=mounts), recursive_read_only=False)
    assert next(m for m in spec.mounts if m.destination == "/a").options == ["rbind", "rprivate", "ro"]


@pytest.mark.parametrize(("kind", "expected"), [("rshared", "rshared"), ("slave", "rslave"), ("rprivate", "rprivate")])
def test_root_propagation_follows_the_binds(kind: str, expected: str) -> None:
    mounts = [MountRecord(type="bind", source="/t", destination="/a", propagation=kind)]
    assert build(container(mounts=mounts)).linux.rootfs_propagation == expected


def test_memory_gets_as_much_swap_and_cpus_become_a_quota() -> None:
    spec = build(container(memory=64 << 20, nano_cpus=1_500_000_000, pids_limit=50))
    limits = spec.linux.resources
    assert limits is not None
    assert limits.memory == runtime.MemoryResources(limit=64 << 20, swap=128 << 20)
    assert limits.cpu == runtime.CpuResources(quota=150_000, period=100_000)
    assert limits.pids == runtime.PidsResources(limit=50)


def test_systemd_layout_names_a_scope() -> None:
    spec = build(container(), config=Config(cgroup_driver="systemd"))
    assert spec.linux.cgroups_path == f"system.slice:pallet:{ID}"
