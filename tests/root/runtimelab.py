"""A busybox container for tests of the supervisor, without an engine above it.

Owns   one scratch tree: a lower layer made from the host's static busybox, writable layers, shim
       directories; and the configuration Docker would give a container.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pallet.runtime.cgroup import remove_parent
from pallet.spec import runtime as oci
from pallet.spec.mounts import RootMount
from pallet.supervisor.client import Supervisor
from pallet.zygote import messages

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from pallet.supervisor.shims import Shim

APPLETS = ("sh", "ls", "cat", "id", "true", "false", "sleep", "echo", "env", "stat", "mkdir", "pwd",
           "kill", "ps", "mount", "tty", "stty", "head", "dd", "touch", "rm", "hostname", "grep",
           "wc", "readlink", "seq", "yes", "test", "printf", "nc", "ulimit", "mknod", "sync", "chmod")

DEFAULT_CAPS = ["CAP_" + name for name in (
    "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP",
    "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE")]

PASSWD = "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1001:Bob:/home/bob:/bin/sh\n"
GROUP = "root:x:0:\nbob:x:1001:\nwheel:x:10:root,bob\nextra:x:55:\n"

_FLAGS = ["nosuid", "noexec", "nodev"]


def default_mounts() -> list[oci.Mount]:
    """Docker's kernel file systems for a container."""
    return [
        oci.Mount(destination="/proc", type="proc", source="proc", options=_FLAGS),
        oci.Mount(destination="/dev", type="tmpfs", source="tmpfs",
                  options=["nosuid", "strictatime", "mode=755", "size=65536k"]),
        oci.Mount(destination="/dev/pts", type="devpts", source="devpts", options=[
            "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        oci.Mount(destination="/sys", type="sysfs", source="sysfs", options=[*_FLAGS, "ro"]),
        oci.Mount(destination="/sys/fs/cgroup", type="cgroup", source="cgroup",
                  options=["ro", *_FLAGS]),
        oci.Mount(destination="/dev/mqueue", type="mqueue", source="mqueue", options=_FLAGS),
        oci.Mount(destination="/dev/shm", type="tmpfs", source="shm",
                  options=[*_FLAGS, "mode=1777", "size=65536k"]),
    ]


MASKED = ["/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
          "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list",
          "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware"]
READONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
CGROUP_PARENT = f"/t-lab{os.getpid()}"
DEVICES = oci.LinuxResources(devices=[
    oci.DeviceRule(allow=False, access="rwm"),
    oci.DeviceRule(allow=True, type="c", access="m"),
    oci.DeviceRule(allow=True, type="b", access="m"),
    *(oci.DeviceRule(allow=True, type="c", major=major, minor=minor, access="rwm")
      for major, minor in ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2),
                           (136, None)))])


def make_rootfs(path: Path) -> None:
    """Make a busybox tree with an account ``bob`` and some files that cannot be executed."""
    for name in ("bin", "etc", "tmp", "proc", "sys", "dev", "root", "home/bob", "sbin"):
        (path / name).mkdir(parents=True, exist_ok=True)
    (path / "tmp").chmod(0o1777)
    shutil.copy(shutil.which("busybox") or "/bin/busybox", path / "bin/busybox")
    for applet in APPLETS:
        (path / "bin" / applet).symlink_to("busybox")
    (path / "etc/passwd").write_text(PASSWD)
    (path / "etc/group").write_text(GROUP)
    (path / "etc/file").write_text("plain\n")
    for name, text in (("garbage", "not a program"), ("badint", "#!/nowhere\n")):
        (path / "bin" / name).write_text(text)
        (path / "bin" / name).chmod(0o755)


class Lab:
    """Containers by hand. ``async with Lab() as lab``."""

    def __init__(self) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="t-lab-"))
        # On tmpfs, as an exec root is: the files of a start are then no disk's business.
        memory = "/dev/shm" if os.path.ismount("/dev/shm") else None
        self.exec_root = Path(tempfile.mkdtemp(prefix="t-lab-", dir=memory))
        self.supervisor = Supervisor()
        self._numbers = itertools.count(1)
        make_rootfs(self.base / "lower")

    async def __aenter__(self) -> Lab:
        await self.supervisor.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:
        await self.supervisor.close()
        await self._remove_cgroup_parent()
        shutil.rmtree(self.base)
        shutil.rmtree(self.exec_root)

    async def _remove_cgroup_parent(self) -> None:
        """Shims may still be removing their own."""
        for _ in range(200):
            remove_parent(CGROUP_PARENT)
            # A shim takes its cgroups down one hierarchy after another.
            if not [path for depth in ("", "*/") for path in Path("/sys/fs/cgroup").glob(depth + CGROUP_PARENT[1:])]:
                return
            await asyncio.sleep(0.01)

    def new_id(self) -> str:
        """A name that the leak check counts as a test's."""
        return f"t-lab{os.getpid()}-{next(self._numbers)}"

    def shim_dir(self, name: str) -> str:
        """Make the directory of one shim."""
        path = self.exec_root / name
        path.mkdir(exist_ok=True)
        return str(path)

    def root(self, name: str, *options: str) -> RootMount:
        """An overlay with a writable layer of its own."""
        for part in ("upper", "work"):
            (self.base / name / part).mkdir(parents=True, exist_ok=True)
        return RootMount(base_dir=str(self.base), lower=["lower"], upper=f"{name}/upper",
                         work=f"{name}/work", options=list(options))

    def log_path(self, name: str) -> Path:
        """Where ``request`` has a container's log kept."""
        return self.base / f"{name}.log"

    def spec(self, name: str, *args: str, **changes: Any) -> oci.Spec:
        """Docker's configuration for ``args``; ``process_…`` and ``linux_…`` change parts."""
        process: dict[str, Any] = {
            "args": list(args), "cwd": "/", "env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                f"HOSTNAME={name}"],
            "capabilities": oci.Capabilities(
                bounding=DEFAULT_CAPS, effective=DEFAULT_CAPS, permitted=DEFAULT_CAPS)}
        linux: dict[str, Any] = {
            "namespaces": [oci.Namespace(type=kind)
                           for kind in ("mount", "uts", "pid", "ipc", "network")],
            "cgroups_path": f"{CGROUP_PARENT}/{name}", "resources": DEVICES, "masked_paths": MASKED,
            "readonly_paths": READONLY}
        top: dict[str, Any] = {"hostname": "box", "mounts": default_mounts(),
                               "root": oci.Root(path="rootfs")}
        for key, value in changes.items():
            part, _, field = key.partition("_")
            if part == "process":
                process[field] = value
            elif part == "linux":
                linux[field] = value
            else:
                top[key] = value
        return oci.Spec(process=oci.Process(**process), linux=oci.Linux(**linux), **top)

    def request(self, name: str, *args: str, tty: bool = False, stdin: bool = False,
                stdin_once: bool = True, attach: Sequence[messages.Attach] = (),
                log: bool = True, extra: dict[str, Any] | None = None, **changes: Any,
                ) -> messages.StartContainer:
        """A start request; ``extra`` goes to the request, ``changes`` to the configuration."""
        sink = messages.LogSink(path=str(self.log_path(name))) if log else None
        values: dict[str, Any] = {
            "root": self.root(name), "shim_dir": self.shim_dir(name), "cgroup_ahead": True,
            "stdio": messages.Stdio(open_stdin=stdin, stdin_once=stdin_once, log=sink,
                                    attach=list(attach))}
        values |= extra or {}
        if tty:
            changes.setdefault("process_terminal", True)
        return messages.StartContainer(
            id=name, spec=self.spec(name, *args, **changes), **values)

    async def start(self, *args: str, clients: Sequence[socket.socket] = (), **changes: Any,
                    ) -> Shim:
        """Start a container of a fresh name."""
        name = self.new_id()
        attach = changes.pop("attach", [])
        return await self.supervisor.start_container(
            self.request(name, *args, attach=attach, **changes), attach_sockets=clients)

    async def run(self, *args: str, **changes: Any) -> tuple[int, str]:
        """Run a container to its end; return its exit code and all its output."""
        ours, theirs = socket.socketpair()
        attach = messages.Attach(stream_id=1, stdout=True, stderr=True, mux=False)
        with ours:
            shim = await self.start(*args, clients=[theirs], attach=[attach], **changes)
            output = await read_all(ours)
        ended = await asyncio.wait_for(shim.exited, 10)
        return ended.exit_code, output.decode(errors="replace")


async def read_all(sock: socket.socket) -> bytes:
    """Read to the end of file."""
    loop = asyncio.get_running_loop()
    sock.setblocking(False)
    parts = []
    while part := await asyncio.wait_for(loop.sock_recv(sock, 65536), 10):
        parts.append(part)
    return b"".join(parts)


async def read_until(sock: socket.socket, wanted: bytes) -> bytes:
    """Read until ``wanted`` has come."""
    loop = asyncio.get_running_loop()
    sock.setblocking(False)
    data = b""
    while wanted not in data:
        part = await asyncio.wait_for(loop.sock_recv(sock, 65536), 10)
        assert part, f"end of file before {wanted!r}: {data!r}"
        data += part
    return data
