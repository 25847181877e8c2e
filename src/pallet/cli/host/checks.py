"""What ``pallet doctor`` looks at: each check says what it found, what a lack costs, how to end it.

Levels: ``ok``; ``note`` (good to know); ``warn`` (something will not work); ``fail`` (no container
can run). Checks take a ``Host`` and return findings; they never change anything.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pallet.cli.host.probe import Host

DATA_ROOT = "/var/lib/pallet"
_GIB = 1 << 30
_NEEDED = ("SYS_ADMIN", "NET_ADMIN", "MKNOD", "SETUID", "SETGID", "CHOWN", "DAC_OVERRIDE", "SYS_CHROOT",
           "SETPCAP", "KILL")
_CONTROLLERS = (
    ("memory", ("memory",), "-m, --memory-swap and OOM detection"),
    ("cpu", ("cpu",), "--cpus and --cpu-shares"),
    ("cpuset", ("cpuset",), "--cpuset-cpus and --cpuset-mems"),
    ("pids", ("pids",), "--pids-limit"),
    ("block io", ("io", "blkio"), "--blkio-weight and --device-read-bps"),
)


class Finding:
    """One line of the diagnosis."""

    __slots__ = ("cost", "fix", "found", "level", "name")

    def __init__(self, name: str, level: str, found: str, cost: str = "", fix: str = "") -> None:
        """``cost`` is what does not work because of it, ``fix`` how to change that."""
        self.name, self.level, self.found, self.cost, self.fix = name, level, found, cost, fix

    def document(self) -> dict[str, str]:
        """Return the finding as a JSON object."""
        return {"Name": self.name, "Level": self.level, "Found": self.found, "Cost": self.cost,
                "Fix": self.fix}


def kernel(host: Host) -> list[Finding]:
    """Version of the kernel: 5.9 has every call Pallet makes on its main path."""
    version = host.kernel()
    release = host.read("/proc/sys/kernel/osrelease")
    if version >= (5, 12):
        return [Finding("kernel", "ok", release)]
    if version >= (5, 9):
        return [Finding("kernel", "note", release,
                        "read-only binds are not recursive (mount_setattr came with 5.12)",
                        "a newer kernel")]
    return [Finding("kernel", "fail", release or "unknown",
                    "pidfd, openat2 and close_range are missing", "Linux 5.9 or later")]


def python(_host: Host) -> list[Finding]:
    """The interpreter: its start is most of a command's time."""
    version = ".".join(str(part) for part in sys.version_info[:3])
    return [Finding("python", "ok", f"{version} ({sys.executable})")]


def privileges(host: Host) -> list[Finding]:
    """User and capabilities of this process, which palletd would inherit."""
    if os.geteuid() != 0:
        return [Finding("privileges", "warn", f"uid {os.geteuid()}",
                        "palletd cannot be started from here; this diagnosis sees less",
                        "sudo pallet doctor")]
    have = host.capabilities()
    missing = [name for name in _NEEDED if name not in have]
    findings = [Finding("privileges", "ok", "root")] if not missing else [Finding(
        "privileges", "fail", "root without " + ", ".join(f"CAP_{name}" for name in missing),
        "containers cannot be set up", "run where root has these capabilities")]
    for name, cost in (
        ("SYS_RESOURCE", "--ulimit cannot raise a hard limit above palletd's own; "
                         "--oom-score-adj cannot be lowered"),
        ("SYS_PTRACE", "pallet top and exec into other users' processes see less"),
        ("SETFCAP", "images whose files carry capabilities lose them"),
        ("SYS_MODULE", ""),
    ):
        if name not in have and cost:
            findings.append(Finding(f"CAP_{name}", "warn", "missing", cost,
                                    "run palletd where it has the capability"))
    return findings


def namespaces(host: Host) -> list[Finding]:
    """Kinds of namespaces the kernel knows."""
    have = set(host.names("/proc/self/ns"))
    missing = [name for name in ("mnt", "pid", "net", "ipc", "uts") if name not in have]
    if missing:
        return [Finding("namespaces", "fail", f"no {', '.join(missing)}",
                        "containers cannot be isolated", "a kernel with CONFIG_NAMESPACES")]
    findings = [Finding("namespaces", "ok", "mnt pid net ipc uts"
                        + " cgroup" * ("cgroup" in have) + " user" * ("user" in have))]
    limit = host.read("/proc/sys/user/max_user_namespaces")
    if "user" not in have or limit == "0":
        findings.append(Finding(
            "user namespaces", "warn", "off", "--userns and rootless operation do not work",
            "sysctl -w user.max_user_namespaces=15000"))
    return findings


def cgroups(host: Host) -> list[Finding]:
    """Mounted hierarchies and their controllers."""
    first: set[str] = set()
    second: set[str] = set()
    unified = ""
    for point, kind, options in host.mounts():
        if kind == "cgroup":
            first.update(options.split(","))
        elif kind == "cgroup2":
            unified = unified or point
            second.update(host.read(f"{point}/cgroup.controllers").split())
    if not first and not unified:
        return [Finding("cgroups", "fail", "no hierarchy is mounted",
                        "no limits, no reliable end of a container",
                        "mount -t cgroup2 none /sys/fs/cgroup")]
    have = first | second
    layout = "v2" if unified and not first & {"memory", "cpu", "pids"} else (
        "v1 with v2 beside it (hybrid)" if unified else "v1")
    findings = [Finding("cgroups", "ok", layout)]
    for name, words, cost in _CONTROLLERS:
        if not have & set(words):
            findings.append(Finding(
                f"cgroup {name}", "warn", "controller missing", f"{cost} are ignored or refused",
                f"boot with cgroup_enable={words[0]}" if name == "memory"
                else "a kernel with the controller, mounted"))
    if layout != "v2" and "devices" not in first:
        findings.append(Finding("cgroup devices", "warn", "controller missing",
                                "containers can open every device node they can make",
                                "mount -t cgroup -o devices none /sys/fs/cgroup/devices"))
    swap = host.exists("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes") or layout == "v2"
    if "memory" in have and not swap:
        findings.append(Finding("swap limit", "note", "no swap accounting",
                                "--memory-swap is ignored", "boot with swapaccount=1"))
    return findings


def overlay(host: Host) -> list[Finding]:
    """Overlay file system, and what the data root lies on."""
    known = "overlay" in host.read("/proc/filesystems").split() or host.has_module("overlay")
    if not known:
        return [Finding("overlay", "warn", "not in this kernel",
                        "every container copies its whole image: slow, and much disk",
                        "modprobe overlay, or a kernel with CONFIG_OVERLAY_FS")]
    kind = host.file_system_of(DATA_ROOT)
    if kind in ("overlay", "nfs", "nfs4", "fuse", "9p", "vfat", "ecryptfs"):
        return [Finding("overlay", "warn", f"{DATA_ROOT} is on {kind}",
                        f"overlay cannot write on {kind}; every container copies its whole image",
                        "put --data-root on ext4, xfs or btrfs")]
    return [Finding("overlay", "ok", f"{DATA_ROOT} on {kind or 'unknown'}")]


def erofs(host: Host) -> list[Finding]:
    """EROFS from files, and overlay on mounts that are attached nowhere: for --storage-driver erofs."""
    known = "erofs" in host.read("/proc/filesystems").split() or host.has_module("erofs")
    if known and host.kernel() >= (6, 15):
        return [Finding("erofs", "ok", "fit for --storage-driver erofs")]
    return [Finding("erofs", "note", "kernel before 6.15" if known else "not in this kernel",
                    "--storage-driver erofs does not work; overlay2 does",
                    "Linux 6.15 or later with CONFIG_EROFS_FS_BACKED_BY_FILE")]


def seccomp(host: Host) -> list[Finding]:
    """System call filter, and the mandatory access control that comes on top."""
    findings = []
    if "errno" in host.read("/proc/sys/kernel/seccomp/actions_avail").split():
        findings.append(Finding("seccomp", "ok", "filter mode"))
    else:
        findings.append(Finding("seccomp", "warn", "not in this kernel",
                                "containers may make every system call",
                                "a kernel with CONFIG_SECCOMP_FILTER"))
    if host.read("/sys/module/apparmor/parameters/enabled") == "Y":
        findings.append(Finding("apparmor", "ok", "enabled"))
    else:
        findings.append(Finding("apparmor", "note", "not enabled",
                                "one line of defence less: no docker-default profile"))
    return findings


def network(host: Host) -> list[Finding]:
    """Bridge, veth, nftables, forwarding, and a firewall of someone else's in the way."""
    findings = []
    missing = [name for name in ("bridge", "veth") if host.has_module(name) is False]
    if missing:
        findings.append(Finding("bridge network", "warn", f"no {' and '.join(missing)} module",
                                "only --network host and none work",
                                f"modprobe {' '.join(missing)}"))
    else:
        findings.append(Finding("bridge network", "ok", "bridge and veth"))
    tool = host.which("nft")
    works = host.ask(tool, "list", "tables")[0] == 0 if tool else host.has_module("nf_tables")
    if works or works is None:
        findings.append(Finding("nftables", "ok", "usable"))
    else:
        findings.append(Finding("nftables", "warn", "not usable",
                                "no published ports and no way out of the bridge network",
                                "a kernel with CONFIG_NF_TABLES and CONFIG_NFT_NAT"))
    if host.read("/proc/sys/net/ipv4/ip_forward") == "1":
        findings.append(Finding("ip forwarding", "ok", "on"))
    else:
        findings.append(Finding("ip forwarding", "note", "off",
                                "palletd turns it on when it starts, unless --ip-forward=false"))
    findings += _forward_policy(host)
    return findings


def _forward_policy(host: Host) -> list[Finding]:
    for tool in ("iptables", "iptables-legacy"):
        program = host.which(tool)
        if not program:
            continue
        code, text = host.ask(program, "-S", "FORWARD")
        if code == 0 and "-P FORWARD DROP" in text and "pallet" not in text:
            return [Finding(
                "forward policy", "warn", f"{tool} drops forwarded packets (as Docker sets it)",
                "containers on the bridge network reach nothing outside, published ports time out",
                f"{tool} -I FORWARD -i pallet0 -j ACCEPT; {tool} -I FORWARD -o pallet0 -j ACCEPT")]
    return []


def tools(host: Host) -> list[Finding]:
    """Programs that some commands want."""
    findings = []
    init = next((found for name in ("tini-static", "tini", "docker-init")
                 if (found := host.which(name))), "")
    findings.append(Finding("init", "ok" if init else "note", init or "no tini",
                            "" if init else "--init uses Pallet's own small reaper"))
    maker = host.which("mmdebstrap") or host.which("debootstrap")
    findings.append(Finding(
        "bootstrap", "ok" if maker else "note", maker or "neither mmdebstrap nor debootstrap",
        "" if maker else "pallet image bootstrap debian cannot make base images",
        "" if maker else "apt-get install mmdebstrap"))
    runtimes = [name for name in ("runc", "crun") if host.which(name)]
    findings.append(Finding("other runtimes", "ok" if runtimes else "note",
                            " ".join(runtimes) or "none",
                            "" if runtimes else "--runtime has nothing but Pallet's own"))
    return findings


def disk(host: Host) -> list[Finding]:
    """Free space below the data root."""
    path = host.root + DATA_ROOT
    while not os.path.exists(path):
        path = os.path.dirname(path)
    try:
        info = os.statvfs(path)
    except OSError:
        return []
    free = info.f_bavail * info.f_frsize
    text = f"{free / _GIB:.1f} GiB free for {DATA_ROOT}"
    if free < _GIB // 4:
        return [Finding("disk", "fail", text, "no room for an image", "free some space")]
    if free < 5 * _GIB or (info.f_files and info.f_favail < 100_000):
        return [Finding("disk", "warn", text, "pulls may run out of space or inodes",
                        "free some space, or move --data-root")]
    return [Finding("disk", "ok", text)]


def limits(_host: Host) -> list[Finding]:
    """Open files: each container needs a handful in palletd."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < 16384:
        return [Finding("open files", "warn", f"at most {hard}",
                        "a few hundred containers exhaust it", "ulimit -n 1048576")]
    return [Finding("open files", "ok", "unlimited" if hard == resource.RLIM_INFINITY
                    else f"at most {hard}")]


def group(host: Host) -> list[Finding]:
    """The group that may use the socket."""
    names = [line.split(":")[0] for line in host.read("/etc/group").splitlines()]
    if "docker" in names:
        return [Finding("socket group", "ok", "docker")]
    return [Finding("socket group", "note", "no group docker",
                    "only root can use the socket", "groupadd docker; usermod -aG docker USER")]


CHECKS: tuple[Callable[[Host], list[Finding]], ...] = (
    kernel, python, privileges, namespaces, cgroups, overlay, erofs, seccomp, network, tools, disk,
    limits, group)
