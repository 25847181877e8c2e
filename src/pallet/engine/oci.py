"""From a container to its OCI runtime configuration.

Pure: everything it needs from the outside is in ``Surroundings``. Spec: runtime-spec config.md;
semantics rows "security", "volumes order", "environment".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from pallet.engine import merge, resources, security
from pallet.spec import runtime as oci
from pallet.spec.engine.wire import given

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pallet.config import Config
    from pallet.engine.container import Container, MountRecord

_NETWORK_SYSCTLS = {
    "net.ipv4.ip_unprivileged_port_start": "0",
    "net.ipv4.ping_group_range": "0 2147483647",
}
_TMPFS_DEFAULTS = ("noexec", "nosuid", "nodev")
_OPPOSITES = {
    "exec": "noexec", "noexec": "exec", "suid": "nosuid", "nosuid": "suid", "dev": "nodev", "nodev": "dev",
    "ro": "rw", "rw": "ro", "sync": "async", "async": "sync", "atime": "noatime", "noatime": "atime",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the configuration depends on besides the container itself."""

    config: Config
    files: Mapping[str, str]
    """Container path → host path of hosts, hostname and resolv.conf."""
    joined: Mapping[str, str]
    """Namespace type → path, for ``container:ID`` modes; ``shm`` is the donor's /dev/shm."""
    private_network: bool
    """The container gets a network namespace of its own."""
    recursive_read_only: bool
    """The kernel has mount_setattr(2), Linux 5.12."""
    has_mqueue: bool = True
    """The host has /dev/mqueue."""


def namespaces(container: Container, around: Surroundings) -> list[oci.Namespace]:
    """The namespaces the container owns or joins; what is absent is the host's."""
    host = container.host_config
    wanted = [oci.Namespace(type="mount")]
    if host.network_mode != "host":
        wanted.append(oci.Namespace(type="network", path=around.joined.get("network", "")))
    if host.uts_mode != "host":
        wanted.append(oci.Namespace(type="uts"))
    if host.pid_mode != "host":
        wanted.append(oci.Namespace(type="pid", path=around.joined.get("pid", "")))
    if host.ipc_mode != "host":
        wanted.append(oci.Namespace(type="ipc", path=around.joined.get("ipc", "")))
    if host.cgroupns_mode == "private":
        wanted.append(oci.Namespace(type="cgroup"))
    return wanted


def default_mounts(
    container: Container, around: Surroundings, options: security.SecurityOptions
) -> list[oci.Mount]:
    """The kernel file systems every container has."""
    privileged = container.host_config.privileged
    access = "rw" if privileged else "ro"
    mounts = [
        oci.Mount(destination="/proc", type="proc", source="proc", options=["nosuid", "noexec", "nodev"]),
        oci.Mount(destination="/dev", type="tmpfs", source="tmpfs",
                  options=["nosuid", "strictatime", "mode=755", "size=65536k"]),
        oci.Mount(destination="/dev/pts", type="devpts", source="devpts",
                  options=["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        oci.Mount(destination="/sys", type="sysfs", source="sysfs", options=["nosuid", "noexec", "nodev", access]),
        oci.Mount(destination="/sys/fs/cgroup", type="cgroup", source="cgroup",
                  options=["rw" if options.writable_cgroups else access, "nosuid", "noexec", "nodev"]),
    ]
    if container.host_config.ipc_mode == "host":
        shared = ["/dev/mqueue", "/dev/shm"] if around.has_mqueue else ["/dev/shm"]
        mounts += [oci.Mount(destination=path, type="bind", source=path,
                             options=["rbind", "nosuid", "noexec", "nodev"]) for path in shared]
        return mounts
    mounts.append(oci.Mount(destination="/dev/mqueue", type="mqueue", source="mqueue",
                            options=["nosuid", "noexec", "nodev"]))
    if shm := around.joined.get("shm"):
        mounts.append(oci.Mount(destination="/dev/shm", type="bind", source=shm,
                                options=["rbind", "nosuid", "noexec", "nodev"]))
    elif container.host_config.ipc_mode != "none":
        size = container.host_config.shm_size or around.config.default_shm_size_bytes
        mounts.append(oci.Mount(destination="/dev/shm", type="tmpfs", source="shm",
                                options=["nosuid", "noexec", "nodev", "mode=1777", f"size={size}"]))
    return mounts


def merge_tmpfs_options(text: str) -> list[str]:
    """``noexec,nosuid,nodev`` with the user's options over them: a later one wins."""
    options = list(_TMPFS_DEFAULTS)
    for option in filter(None, text.split(",")):
        key = option.partition("=")[0]
        options = [o for o in options if o.partition("=")[0] not in {key, _OPPOSITES.get(key)}]
        options.append(option)
    return options


def user_mount(mount: MountRecord, around: Surroundings) -> oci.Mount:
    """One volume, bind or tmpfs as the runtime mounts it."""
    if mount.type == "tmpfs":
        return oci.Mount(destination=mount.destination, type="tmpfs", source="tmpfs",
                         options=merge_tmpfs_options(mount.tmpfs_options) + (["ro"] if mount.read_only else []))
    options = ["bind" if mount.non_recursive else "rbind", mount.propagation or "rprivate"]
    if mount.read_only:
        options.append("ro")
        if mount.recursive_read_only and around.recursive_read_only:
            options.append("rro")
    return oci.Mount(destination=mount.destination, type="bind", source=mount.source, options=options)


def mounts(container: Container, around: Surroundings, options: security.SecurityOptions) -> list[oci.Mount]:
    """Every mount in order: kernel file systems, then the rest from shallow to deep."""
    taken = {mount.destination for mount in container.mounts}
    defaults = [mount for mount in default_mounts(container, around, options) if mount.destination not in taken]
    own = [user_mount(mount, around) for mount in container.mounts]
    access = "ro" if container.host_config.readonly_rootfs else "rw"
    own += [oci.Mount(destination=path, type="bind", source=source, options=["rbind", "rprivate", access])
            for path, source in around.files.items() if path not in taken]
    return defaults + sorted(own, key=lambda mount: mount.destination.count("/"))


def process(container: Container, around: Surroundings, options: security.SecurityOptions) -> oci.Process:
    """The container's main process; its user is resolved by the runtime inside the root."""
    config, host = container.config, container.host_config
    height, width = host.console_size
    names = security.merge_capabilities(host.cap_add or [], host.cap_drop or [], privileged=host.privileged)
    return oci.Process(
        terminal=config.tty,
        console_size=oci.Box(height=height, width=width) if config.tty and height and width else None,
        args=[*(config.entrypoint or ()), *(config.cmd or ())],
        env=merge.environment(config),
        cwd=config.working_dir or "/",
        capabilities=oci.Capabilities(bounding=names, effective=names, permitted=names),
        rlimits=security.rlimits(host.ulimits, around.config.default_ulimits),
        no_new_privileges=options.no_new_privileges,
        oom_score_adj=host.oom_score_adj,
    )


def cgroups_path(container: Container, config: Config) -> str:
    """Where the container's cgroup is: ``/pallet/<id>`` below the wanted parent, or a systemd scope."""
    parent = container.host_config.cgroup_parent or config.cgroup_parent or ""
    if config.cgroup_driver == "systemd":
        return f"{parent or 'system.slice'}:pallet:{container.id}"
    return f"{parent.rstrip('/') or '/pallet'}/{container.id}"


def build(container: Container, around: Surroundings, options: security.SecurityOptions) -> oci.Spec:
    """Return the whole configuration.

    Raises:
        InvalidParameterError: a device, capability, ulimit or limit that makes no sense here.
    """
    host = container.host_config
    devices, rules = security.devices(host)
    sysctl = dict(_NETWORK_SYSCTLS) if around.private_network else {}
    sysctl.update(given(host.sysctls) or {})
    masked, readonly = security.hidden_paths(host)
    return oci.Spec(
        process=process(container, around, options),
        root=oci.Root(path="rootfs", readonly=host.readonly_rootfs),
        hostname="" if host.uts_mode == "host" else container.hostname,
        domainname="" if host.uts_mode == "host" else container.config.domainname,
        mounts=mounts(container, around, options),
        annotations=given(host.annotations) or {},
        linux=oci.Linux(
            namespaces=namespaces(container, around),
            devices=devices,
            cgroups_path=cgroups_path(container, around.config),
            resources=resources.build(host, rules),
            rootfs_propagation=_root_propagation(container),
            sysctl=sysctl,
            masked_paths=masked,
            readonly_paths=readonly,
        ),
    )


def with_environment(spec: oci.Spec, variables: list[str]) -> oci.Spec:
    """``spec`` with further variables; those of the container itself win."""
    have = {entry.partition("=")[0] for entry in spec.process.env}
    more = [entry for entry in variables if entry.partition("=")[0] not in have]
    return msgspec.structs.replace(
        spec, process=msgspec.structs.replace(spec.process, env=[*spec.process.env, *more]))


def with_seccomp(spec: oci.Spec, document: msgspec.Raw) -> oci.Spec:
    """``spec`` with the OCI seccomp document, which foreign runtimes compile themselves."""
    return msgspec.structs.replace(spec, linux=msgspec.structs.replace(spec.linux, seccomp=document))


def _root_propagation(container: Container) -> str:
    """A shared or slave bind needs a root that lets the propagation through."""
    kinds = {mount.propagation for mount in container.mounts}
    if kinds & {"shared", "rshared"}:
        return "rshared"
    if kinds & {"slave", "rslave"}:
        return "rslave"
    return "rprivate"
