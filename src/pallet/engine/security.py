"""Docker's security rules: capabilities, security options, hidden paths, ulimits, devices.

Pure, but for looking at device nodes. What a container may do follows from its ``HostConfig``;
the runtime carries it out. Spec: Engine API HostConfig; semantics rows "security"; runtime-spec
config-linux.md#devices, #allowed-device-list.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pallet.errors import InvalidParameterError, SystemFailureError
from pallet.linux import caps
from pallet.linux import rlimits as kernel_rlimits
from pallet.spec import runtime as oci

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pallet.spec.engine.host_config import DeviceMapping, HostConfig, Ulimit

# ---------------------------------------------------------------------------- capabilities

_DEFAULT_CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW",
    "CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
)
_ALL = "ALL"


def default_capabilities() -> list[str]:
    """Return the 14 capabilities a container has when nothing else is said."""
    return list(_DEFAULT_CAPABILITIES)


def all_capabilities() -> list[str]:
    """Return what ``ALL`` and privileged mean: everything this daemon could hand on."""
    return caps.names_of(caps.available())


def normalize_capabilities(names: Sequence[str]) -> list[str]:
    """Return ``names`` in upper case with ``CAP_``; ``ALL`` stays as it is.

    Raises:
        InvalidParameterError: an unknown name, or one that is not available here.
    """
    available = caps.available()
    normalized = []
    for given_name in names:
        name = given_name.upper()
        if name != _ALL:
            name = name if name.startswith("CAP_") else f"CAP_{name}"
            number = caps.NUMBERS.get(name)
            if number is None:
                message = f'unknown capability: "{name}"'
                raise InvalidParameterError(message)
            if not available >> number & 1:
                message = ("capability not supported by your kernel or not available in the "
                           f'current environment: "{name}"')
                raise InvalidParameterError(message)
        normalized.append(name)
    return normalized


def merge_capabilities(
    cap_add: Sequence[str], cap_drop: Sequence[str], *, privileged: bool
) -> list[str]:
    """Return the capabilities of a container, each once.

    ``add ALL`` wins over ``drop ALL``; a name in both lists is added, unless all are: then the
    named drops count.

    Raises:
        InvalidParameterError: as ``normalize_capabilities``.
    """
    if privileged:
        return all_capabilities()
    if not cap_add and not cap_drop:
        return default_capabilities()
    drops, adds = normalize_capabilities(cap_drop), normalize_capabilities(cap_add)
    if _ALL in adds:
        return [name for name in all_capabilities() if name not in drops]
    kept = [] if _ALL in drops else [n for n in _DEFAULT_CAPABILITIES if n not in drops]
    return list(dict.fromkeys([*kept, *adds]))


# ------------------------------------------------------------------------- security options


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityOptions:
    """``SecurityOpt`` taken apart."""

    no_new_privileges: bool = False
    seccomp: str | None = None
    """None for the daemon's default, ``unconfined``, ``builtin``, or a profile as JSON text."""
    apparmor: str | None = None
    """Name of a profile; None for the default of the host."""
    labels: tuple[str, ...] = ()
    """SELinux label options (``type:svirt_apache_t``, ``disable``)."""
    writable_cgroups: bool = False
    """Mount /sys/fs/cgroup read-write."""


# What Go's strconv.ParseBool takes.
_BOOLEANS = {**dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True),
             **dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), False)}


def parse_security_opts(
    options: Iterable[str], *, no_new_privileges: bool = False
) -> SecurityOptions:
    """Take ``HostConfig.SecurityOpt`` apart; of a repeated option the last one counts.

    ``systempaths=unconfined`` is none of them: the CLI turns it into empty ``MaskedPaths`` and
    ``ReadonlyPaths``, and Docker refuses it here.

    Args:
        options: ``key=value``, the old ``key:value``, or ``no-new-privileges`` alone.
        no_new_privileges: the daemon's default, which an option overrides.

    Raises:
        InvalidParameterError: ``invalid --security-opt 1: "…"`` without a value, ``2`` for an
            unknown key or a value that is none.
    """
    seccomp: str | None = None
    apparmor: str | None = None
    labels: list[str] = []
    writable_cgroups = False
    for option in options:
        if option == "no-new-privileges":
            no_new_privileges = True
            continue
        if option == "disable":
            labels.append("disable")
            continue
        separator = "=" if "=" in option else ":"
        key, found, value = option.partition(separator)
        if not found:
            message = f"invalid --security-opt 1: {_quoted(option)}"
            raise InvalidParameterError(message)
        if key == "label":
            labels.append(value)
        elif key == "apparmor":
            apparmor = value
        elif key == "seccomp":
            seccomp = value
        elif key == "no-new-privileges":
            no_new_privileges = _boolean(value, option)
        elif key == "writable-cgroups":
            writable_cgroups = _boolean(value, option)
        else:
            message = f"invalid --security-opt 2: {_quoted(option)}"
            raise InvalidParameterError(message)
    return SecurityOptions(no_new_privileges=no_new_privileges, seccomp=seccomp or None,
                           apparmor=apparmor or None, labels=tuple(labels),
                           writable_cgroups=writable_cgroups)


def _boolean(value: str, option: str) -> bool:
    if value not in _BOOLEANS:
        message = f"invalid --security-opt 2: {_quoted(option)}"
        raise InvalidParameterError(message)
    return _BOOLEANS[value]


def _quoted(text: str) -> str:
    """Quote as Go's ``%q`` does for the characters that occur in options."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


# ------------------------------------------------------------------------------- hidden paths


def _thermal_throttle() -> tuple[str, ...]:
    """The counters that tell a container about its neighbours' load, where the CPU has them."""
    paths = (f"/sys/devices/system/cpu/cpu{number}/thermal_throttle"
             for number in range(os.cpu_count() or 1))
    return tuple(path for path in paths if os.path.exists(path))


MASKED_PATHS = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
    "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list",
    "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
    *_thermal_throttle(),
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def hidden_paths(host: HostConfig) -> tuple[list[str], list[str]]:
    """Return (masked paths, read-only paths).

    The lists given, else none for a privileged container, else the defaults.
    """
    masked = host.masked_paths
    if masked is None:
        masked = [] if host.privileged else list(MASKED_PATHS)
    readonly = host.readonly_paths
    if readonly is None:
        readonly = [] if host.privileged else list(READONLY_PATHS)
    return masked, readonly


# ------------------------------------------------------------------------------------ ulimits


def rlimits(
    ulimits: Sequence[Ulimit] | None, defaults: Sequence[tuple[str, int, int]]
) -> list[oci.Rlimit]:
    """Return the limits of a container: its own, then the daemon's that it does not name.

    Args:
        ulimits: ``HostConfig.Ulimits``.
        defaults: (name, soft, hard) of the daemon.

    Raises:
        InvalidParameterError: an unknown name, a soft limit above its hard one.
    """
    wanted = {limit.name: (limit.soft, limit.hard) for limit in ulimits or ()}
    for name, soft, hard in defaults:
        wanted.setdefault(name, (soft, hard))
    return [_rlimit(name, soft, hard) for name, (soft, hard) in wanted.items()]


def _rlimit(name: str, soft: int, hard: int) -> oci.Rlimit:
    kind = f"RLIMIT_{name.upper()}"
    if kind not in kernel_rlimits.NUMBERS:
        message = f"invalid ulimit type: {name}"
        raise InvalidParameterError(message)
    if hard != -1 and soft == -1:
        message = ("ulimit soft limit must be less than or equal to hard limit: "
                   f"soft: -1 (unlimited), hard: {hard}")
        raise InvalidParameterError(message)
    if hard != -1 and soft > hard:
        message = ("ulimit soft limit must be less than or equal to hard limit: "
                   f"{soft} > {hard}")
        raise InvalidParameterError(message)
    return oci.Rlimit(type=kind, soft=soft & kernel_rlimits.INFINITY,
                      hard=hard & kernel_rlimits.INFINITY)


# ------------------------------------------------------------------------------------ devices


def _character(major: int, minor: int, *, allow: bool = True) -> oci.DeviceRule:
    return oci.DeviceRule(allow=allow, type="c", major=major, minor=minor, access="rwm")


DEFAULT_DEVICE_RULES = (
    oci.DeviceRule(allow=False, access="rwm"),
    _character(1, 5), _character(1, 3), _character(1, 9), _character(1, 8),
    _character(5, 0), _character(5, 1),
    # /dev/fuse: named although denied anyway, as it has been allowed once.
    _character(10, 229, allow=False),
)
_EVERY_DEVICE = (oci.DeviceRule(allow=True, access="rwm"),)

# What a privileged container does not get of the host's /dev: it has its own of these.
_OWN_DIRECTORIES = frozenset({"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"})
_OWN_NAMES = frozenset({"console"})


def devices(host: HostConfig) -> tuple[list[oci.Device], list[oci.DeviceRule]]:
    """Return the nodes to make besides the standard ones, and the device cgroup's rules.

    Raises:
        SystemFailureError: a device that is not there.
        InvalidParameterError: a malformed cgroup rule.
    """
    nodes: list[oci.Device] = []
    mappings = host.devices or []
    if host.privileged:
        nodes += host_devices()
        for mapping in mappings:
            if mapping.path_on_host != mapping.path_in_container:
                nodes += mapped_devices(mapping)
        return nodes, list(_EVERY_DEVICE)
    rules = list(DEFAULT_DEVICE_RULES)
    for mapping in mappings:
        found = mapped_devices(mapping)
        nodes += found
        rules += [oci.DeviceRule(allow=True, type=node.type, major=node.major, minor=node.minor,
                                 access=mapping.cgroup_permissions or "rwm") for node in found]
    rules += cgroup_rules(host.device_cgroup_rules or ())
    return nodes, rules


def mapped_devices(mapping: DeviceMapping) -> list[oci.Device]:
    """Return the nodes of one ``--device``: one, or all below a directory.

    A host path that is a symbolic link is followed; links below a directory are not.

    Raises:
        SystemFailureError: nothing there, or no device node.
    """
    path = mapping.path_on_host
    target = mapping.path_in_container or path
    resolved = os.path.realpath(path) if os.path.islink(path) else path
    try:
        node = _node(resolved, target)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
    else:
        if node is not None:
            return [node]
        reason = "not a device node"
        if found := list(_below(resolved, target)):
            return found
    message = (f"error gathering device information while adding custom device {_quoted(path)}: "
               f"{reason}")
    raise SystemFailureError(message)


def _below(directory: str, target: str) -> Iterator[oci.Device]:
    """Yield the device nodes below ``directory`` in the order of their names."""
    for at, directories, names in os.walk(directory):
        directories.sort()
        for name in sorted(names):
            path = os.path.join(at, name)
            try:
                node = _node(path, target + path[len(directory):])
            except OSError:
                continue
            if node is not None:
                yield node


_NODE_TYPES = {stat.S_IFCHR: "c", stat.S_IFBLK: "b", stat.S_IFIFO: "p"}


def _node(path: str, target: str) -> oci.Device | None:
    """Return ``path`` as a device to make at ``target``; None when it is no node.

    Raises:
        OSError: as lstat(2).
    """
    found = os.lstat(path)
    kind = _NODE_TYPES.get(stat.S_IFMT(found.st_mode))
    if kind is None:
        return None
    return oci.Device(path=target, type=kind, major=os.major(found.st_rdev),
                      minor=os.minor(found.st_rdev), file_mode=stat.S_IMODE(found.st_mode),
                      uid=found.st_uid, gid=found.st_gid)


def host_devices(root: str = "/dev") -> list[oci.Device]:
    """Return every device node of the host, for a privileged container."""
    nodes: list[oci.Device] = []
    for at, directories, names in os.walk(root):
        directories[:] = sorted(set(directories) - _OWN_DIRECTORIES)
        for name in sorted(set(names) - _OWN_NAMES):
            path = f"{at}/{name}"
            try:
                node = _node(path, path)
            except OSError:
                # Devices come and go while the directory is read.
                continue
            if node is not None and node.type != "p":
                nodes.append(node)
    return nodes


_CGROUP_RULE = re.compile(r"([acb]) ([0-9]+|\*):([0-9]+|\*) ([rwm]{1,3})|a")
_MAX_MAJOR, _MAX_MINOR = 2**11 - 1, 2**19 - 1
"""Docker parses these numbers as signed with the kernel's 12 and 20 bits."""


def cgroup_rules(rules: Iterable[str]) -> list[oci.DeviceRule]:
    """Parse ``--device-cgroup-rule`` values; one for all devices ends the list.

    Raises:
        InvalidParameterError: "invalid device cgroup rule format: '…'".
    """
    parsed: list[oci.DeviceRule] = []
    for rule in rules:
        match = _CGROUP_RULE.fullmatch(rule)
        if match is None or match[1] is None:
            message = f"invalid device cgroup rule format: '{rule}'"
            raise InvalidParameterError(message)
        kind, major, minor, access = match.groups()
        if kind == "a":
            if (major, minor) != ("*", "*") or len(access) != 3:
                message = ("although this cgroup rule is technically correct, because 'a' maps to "
                           "'a *:* rwm' regardless of what comes next, this format is partially "
                           f"ineffective: '{rule}'")
                raise InvalidParameterError(message)
            parsed.append(oci.DeviceRule(allow=True, type="a", access="rwm"))
            return parsed
        parsed.append(oci.DeviceRule(
            allow=True, type=kind, access=access,
            major=_part(major, "major", _MAX_MAJOR, rule),
            minor=_part(minor, "minor", _MAX_MINOR, rule)))
    return parsed


def _part(text: str, name: str, maximum: int, rule: str) -> int | None:
    if text == "*":
        return None
    if int(text) > maximum:
        message = f"invalid {name} value in device cgroup rule format: '{rule}'"
        raise InvalidParameterError(message)
    return int(text)


# --------------------------------------------------------------------------------- at create


def check(host: HostConfig) -> None:
    """Refuse at create what Docker refuses at create: capabilities and security options.

    Devices and their rules may come into being later and are looked at when the container starts.

    Raises:
        InvalidParameterError: in Docker's words.
    """
    for names, where in ((host.cap_add, "CapAdd"), (host.cap_drop, "CapDrop")):
        try:
            normalize_capabilities(names or [])
        except InvalidParameterError as error:
            message = f"invalid {where}: {error}"
            raise InvalidParameterError(message) from error
    parse_security_opts(host.security_opt or ())
    rlimits(host.ulimits, ())
