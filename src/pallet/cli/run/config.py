"""Options of ``run`` and ``create`` to the body of ContainerCreate.

Owns   which option becomes which field. Rare options are translated by modules loaded when
       given, so that a plain ``run`` imports this one alone.
Spec   Engine API ContainerConfig, HostConfig, NetworkingConfig; docker CLI for what contradicts
       what. Fields at their default are left out: the daemon fills them in.
"""

from __future__ import annotations

import os

from pallet.cli.errors import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pallet.cli.flags import Flags

    Document = dict[str, Any]

# Option to HostConfig field where the value goes over as it is.
_HOST_FIELDS = (
    ("privileged", "Privileged"), ("publish-all", "PublishAllPorts"), ("read-only",
    "ReadonlyRootfs"), ("rm", "AutoRemove"),
    ("group-add", "GroupAdd"), ("dns", "Dns"), ("dns-search", "DnsSearch"),
    ("dns-option", "DnsOptions"), ("add-host", "ExtraHosts"), ("volumes-from", "VolumesFrom"),
    ("volume-driver", "VolumeDriver"), ("ipc", "IpcMode"), ("pid", "PidMode"), ("uts", "UTSMode"),
    ("userns", "UsernsMode"), ("cgroupns", "CgroupnsMode"), ("runtime", "Runtime"),
    ("isolation", "Isolation"), ("shm-size", "ShmSize"), ("oom-score-adj", "OomScoreAdj"),
    ("memory", "Memory"), ("memory-reservation", "MemoryReservation"),
    ("memory-swap", "MemorySwap"), ("memory-swappiness", "MemorySwappiness"),
    ("kernel-memory", "KernelMemory"), ("oom-kill-disable", "OomKillDisable"),
    ("cpus", "NanoCpus"), ("cpu-shares", "CpuShares"), ("cpu-period", "CpuPeriod"),
    ("cpu-quota", "CpuQuota"), ("cpu-rt-period", "CpuRealtimePeriod"),
    ("cpu-rt-runtime", "CpuRealtimeRuntime"), ("cpuset-cpus", "CpusetCpus"),
    ("cpuset-mems", "CpusetMems"), ("pids-limit", "PidsLimit"), ("blkio-weight", "BlkioWeight"),
    ("blkio-weight-device", "BlkioWeightDevice"), ("device-read-bps", "BlkioDeviceReadBps"),
    ("device-write-bps", "BlkioDeviceWriteBps"), ("device-read-iops", "BlkioDeviceReadIOps"),
    ("device-write-iops", "BlkioDeviceWriteIOps"), ("cgroup-parent", "CgroupParent"),
    ("device-cgroup-rule", "DeviceCgroupRules"), ("gpus", "DeviceRequests"),
    ("annotation", "Annotations"), ("cidfile", "ContainerIDFile"), ("init", "Init"),
    ("mount", "Mounts"), ("link", "Links"), ("cpu-count", "CpuCount"),
    ("cpu-percent", "CpuPercent"), ("io-maxbandwidth", "IOMaximumBandwidth"),
    ("io-maxiops", "IOMaximumIOps"),
)
_CONFIG_FIELDS = (
    ("hostname", "Hostname"), ("domainname", "Domainname"), ("user", "User"),
    ("workdir", "WorkingDir"), ("stop-signal", "StopSignal"), ("stop-timeout", "StopTimeout"),
)
# Docker sends these even when nothing was asked for, and inspect shows what was sent.
_EMPTY: dict[str, Any] = {
    **{key: [] for key in (
        "BlkioDeviceReadBps", "BlkioDeviceReadIOps", "BlkioDeviceWriteBps",
        "BlkioDeviceWriteIOps", "BlkioWeightDevice", "Devices", "Dns", "DnsOptions", "DnsSearch",
        "Ulimits")},
    "PortBindings": {}, "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
}
_HEALTH = ("health-cmd", "health-interval", "health-retries", "health-start-interval",
           "health-start-period", "health-timeout")


def container_config(flags: Flags, env: Mapping[str, str]) -> Document:
    """Return the ContainerCreate body for a parsed command line.

    Args:
        flags: parsed options; ``flags.args`` is the image followed by the command.
        env: environment that ``--env NAME`` takes values from.

    Raises:
        CommandError: options contradict each other or name an unreadable file.
    """
    image, *command = flags.args
    tty, interactive = flags["tty"], flags["interactive"]
    streams = flags["attach"]
    host: Document = {"OomKillDisable": False} | {
        key: value.copy() for key, value in _EMPTY.items()}
    config: Document = {
        "Image": image, "Tty": tty, "OpenStdin": interactive, "Volumes": {},
        "AttachStdin": "stdin" in streams if streams else interactive,
        "AttachStdout": "stdout" in streams if streams else True,
        "AttachStderr": "stderr" in streams if streams else True,
    }
    config["StdinOnce"] = interactive and config["AttachStdin"]
    if command:
        config["Cmd"] = command
    if "entrypoint" in flags:
        config["Entrypoint"] = [flags["entrypoint"]]
    changed = flags.changed
    for option, field in _CONFIG_FIELDS:
        if option in changed:
            config[field] = flags[option]
    for option, field in _HOST_FIELDS:
        if option in changed:
            host[field] = flags[option]
    _set_network(host, config, flags)
    if "env" in changed or "env-file" in changed or "label" in changed or "label-file" in changed:
        _set_environment(config, flags, env)
    if changed & {"volume", "tmpfs", "device"}:
        _set_files(config, host, flags)
    if changed & {"publish", "expose"}:
        _set_ports(config, host, flags)
    if changed & _UNCOMMON:
        _set_uncommon(config, host, flags)
    _set_health(config, flags)
    return {**config, "HostConfig": host}


_UNCOMMON = frozenset((
    "security-opt", "restart", "log-opt", "log-driver", "storage-opt", "sysctl", "ulimit",
    "memory-swappiness", "pid", "uts", "userns", "cgroupns", "cap-add", "cap-drop"))


def _set_network(host: Document, config: Document, flags: Flags) -> None:
    if not flags.changed & {
            "network", "network-alias", "ip", "ip6", "mac-address", "link-local-ip", "link"}:
        host["NetworkMode"] = "default"
        return
    from pallet.cli.run.networks import network_config

    mode, endpoints = network_config(flags)
    host["NetworkMode"] = mode
    if endpoints:
        config["NetworkingConfig"] = {"EndpointsConfig": endpoints}
    if "mac-address" in flags:
        config["MacAddress"] = flags["mac-address"].strip()


def _set_environment(config: Document, flags: Flags, env: Mapping[str, str]) -> None:
    from pallet.cli.run import files

    entries = files.environment(flags["env-file"], flags["env"], env)
    if entries:
        config["Env"] = entries
    labels = files.labels(flags["label-file"], flags["label"])
    if labels:
        config["Labels"] = labels


def _set_files(config: Document, host: Document, flags: Flags) -> None:
    from pallet.cli.run import files

    binds, anonymous = files.volumes(flags["volume"])
    if binds:
        host["Binds"] = binds
    if anonymous:
        config["Volumes"] = {target: {} for target in anonymous}
    if "tmpfs" in flags:
        host["Tmpfs"] = files.tmpfs(flags["tmpfs"])
    if "device" in flags:
        host["Devices"], cdi = files.devices(flags["device"])
        if cdi:
            host.setdefault("DeviceRequests", []).append({"Driver": "cdi", "DeviceIDs": cdi})


def _set_ports(config: Document, host: Document, flags: Flags) -> None:
    from pallet.cli.run import ports

    exposed, bindings = ports.publish(flags["publish"])
    exposed |= ports.expose(flags["expose"])
    if exposed:
        config["ExposedPorts"] = {port: {} for port in sorted(exposed)}
    if bindings:
        host["PortBindings"] = bindings


def _set_uncommon(config: Document, host: Document, flags: Flags) -> None:
    from pallet.cli.run import files

    _check_modes(flags)
    if "security-opt" in flags:
        host.update(security(flags["security-opt"]))
    if "restart" in flags:
        policy = restart_policy(flags["restart"])
        if flags["rm"] and policy["Name"] not in ("", "no"):
            raise CommandError("conflicting options: cannot specify both --restart and --rm")
        host["RestartPolicy"] = policy
    if "log-opt" in flags and flags["log-driver"] == "none":
        raise CommandError("invalid logging opts for driver none")
    if "log-opt" in flags or "log-driver" in flags:
        host["LogConfig"] = {"Type": flags["log-driver"], "Config": files.pairs(flags["log-opt"])}
    if "storage-opt" in flags:
        if not all("=" in option for option in flags["storage-opt"]):
            raise CommandError("invalid storage option")
        host["StorageOpt"] = files.pairs(flags["storage-opt"])
    if "sysctl" in flags:
        host["Sysctls"] = files.pairs(flags["sysctl"])
    if "ulimit" in flags:
        limits = {limit["Name"]: limit for limit in flags["ulimit"]}
        host["Ulimits"] = [limits[name] for name in sorted(limits)]
    if "cap-add" in flags or "cap-drop" in flags:
        host["CapAdd"] = capabilities(flags["cap-add"])
        host["CapDrop"] = capabilities(flags["cap-drop"])
    swappiness = flags["memory-swappiness"]
    if not -1 <= swappiness <= 100:
        raise CommandError(f"invalid value: {swappiness}. Valid memory swappiness range is 0-100")
    if swappiness == -1:
        host.pop("MemorySwappiness", None)


def capabilities(names: list[str]) -> list[str]:
    """Return capabilities in the kernel's names, sorted, each once; ``ALL`` stays as it is."""
    upper = {name.strip().upper() for name in names}
    return sorted(name if name == "ALL" or name.startswith("CAP_") else f"CAP_{name}"
                  for name in upper)


def _check_modes(flags: Flags) -> None:
    for option, kind, words in (
        ("pid", "PID", ("host",)), ("uts", "UTS", ("host",)), ("userns", "USER", ("host",)),
        ("cgroupns", "CGROUP", ("host", "private")),
    ):
        value = flags[option]
        joins = option == "pid" and value.startswith("container:") and len(value) > 10
        if value and value not in words and not joins:
            raise CommandError(f"--{option}: invalid {kind} mode")


def restart_policy(text: str) -> Document:
    """Return the RestartPolicy of ``always`` or ``on-failure:5``.

    Raises:
        CommandError: the count is not a number or there is no name.
    """
    name, colon, count = text.partition(":")
    if colon and not name:
        raise CommandError("invalid restart policy format: no policy provided before colon")
    policy: Document = {"Name": name}
    if colon:
        if not count.lstrip("+-").isdigit():
            raise CommandError(
                "invalid restart policy format: maximum retry count must be an integer")
        policy["MaximumRetryCount"] = int(count)
    return policy


def security(options: list[str]) -> Document:
    """Return SecurityOpt, and emptied path lists for ``systempaths=unconfined``.

    A seccomp profile is read from its file and sent as compact JSON.

    Raises:
        CommandError: an option has no value, or the profile cannot be read.
    """
    from pallet.client import wire

    found: list[str] = []
    host: Document = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals and ":" in option:
            name, equals, value = option.partition(":")
        if not equals and option != "no-new-privileges":
            raise CommandError(f'Invalid --security-opt: "{option}"')
        if option == "systempaths=unconfined":
            host["MaskedPaths"], host["ReadonlyPaths"] = [], []
            continue
        if name == "seccomp" and value not in ("unconfined", "builtin"):
            try:
                with open(value, "rb") as file:
                    profile = wire.encode_text(wire.decode(file.read()))
            except OSError as error:
                reason = os.strerror(error.errno or 0).lower()
                raise CommandError(f"opening seccomp profile ({value}) failed: open {value}: "
                                   f"{reason}") from None
            except wire.WireError as error:
                raise CommandError(f"compacting json for seccomp profile ({value}) failed: "
                                   f"{error}") from None
            option = f"seccomp={profile}"  # noqa: PLW2901
        found.append(option)
    host["SecurityOpt"] = found
    return host


def _set_health(config: Document, flags: Flags) -> None:
    given = [option for option in _HEALTH if option in flags.changed]
    if flags["no-healthcheck"]:
        if given:
            raise CommandError("--no-healthcheck conflicts with --health-* options")
        config["Healthcheck"] = {"Test": ["NONE"]}
        return
    if not given:
        return
    for option in _HEALTH[1:]:
        if flags[option] < 0:
            raise CommandError(f"--{option} cannot be negative")
    health: Document = {}
    if flags["health-cmd"]:
        health["Test"] = ["CMD-SHELL", flags["health-cmd"]]
    for option, field in zip(_HEALTH[1:], (
            "Interval", "Retries", "StartInterval", "StartPeriod", "Timeout"), strict=True):
        if flags[option]:
            health[field] = flags[option]
    config["Healthcheck"] = health
