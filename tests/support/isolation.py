"""Namespaces for tests: one for the whole root session, and throwaway ones for single bodies.

A session with root tests moves into its own mount and network namespace before its first fixture:
whatever a test or a daemon under test makes (bridges, rules, mounts) is then countable exactly, cannot
touch the host and is gone with the session, however that ends. ``host_network`` leads back out for
the few commands that need the host's network, such as a package mirror.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import pickle
import signal
import socket
import struct
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

_MS_BIND, _MS_MOVE, _MS_REC, _MS_PRIVATE = 0x1000, 0x2000, 0x4000, 0x40000
_SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK = 0x8914, 0x8916, 0x891C
_IFF_UP = 1
_PR_SET_PDEATHSIG = 1

HOST_ADDRESS = "10.213.0.1"
"""An address of "the host" in the session's network, on an empty bridge, beside 127.0.0.1."""

_libc = ctypes.CDLL(None, use_errno=True)
_host_net_fd: int | None = None


def _check(result: int, call: str) -> None:
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{call}: {os.strerror(code)}")


def unshare(flags: int) -> None:
    """unshare(2)."""
    _check(_libc.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    _check(
        _libc.mount(source.encode(), target.encode(), kind.encode() or None, flags,
                    data.encode() or None),
        f"mount {target}",
    )  # fmt: skip


def unmount(target: str) -> None:
    """umount2(2)."""
    _check(_libc.umount2(target.encode(), 0), f"unmount {target}")


def set_link(name: str, address: str | None = None) -> None:
    """Bring ``name`` up, with ``address``/24 if one is given, in this network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        if address:
            for call, value in ((_SIOCSIFADDR, address), (_SIOCSIFNETMASK, "255.255.255.0")):
                packed = struct.pack("16sHH4s8x", name.encode(), socket.AF_INET, 0,
                                     socket.inet_aton(value))  # fmt: skip
                fcntl.ioctl(sock, call, packed)
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh", name.encode(), _IFF_UP))


def enter_session() -> None:
    """Move this process into its own mount, network and UTS namespace. Idempotent; root only."""
    global _host_net_fd  # noqa: PLW0603 - the one fact about this process
    if _host_net_fd is not None:
        return
    _host_net_fd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWUTS)
    mount("none", "/", flags=_MS_REC | _MS_PRIVATE)
    _fresh_sysfs()
    mount("tmpfs", "/dev/shm", "tmpfs", data="mode=1777")
    set_link("lo")
    _add_bridge("host0")
    set_link("host0", HOST_ADDRESS)


def _fresh_sysfs() -> None:
    """Show this namespace's links under /sys/class/net, and keep the cgroup mounts."""
    scratch = tempfile.mkdtemp(prefix="t-sysfs-")
    mount("sysfs", scratch, "sysfs")
    mount("/sys/fs/cgroup", f"{scratch}/fs/cgroup", flags=_MS_BIND | _MS_REC)
    mount(scratch, "/sys", flags=_MS_MOVE)
    Path(scratch).rmdir()


def _add_bridge(name: str) -> None:
    """RTM_NEWLINK of an empty bridge: rtnetlink(7); iproute2 need not be installed."""
    label = name.encode() + b"\0"
    info = struct.pack("HH7sx", 11, 1, b"bridge\0")
    attributes = struct.pack(f"HH{len(label)}s{-len(label) % 4}x", 4 + len(label), 3, label)
    attributes += struct.pack("HH", 4 + len(info), 18) + info
    body = struct.pack("BxHiII", socket.AF_UNSPEC, 0, 0, 0, 0) + attributes
    create_exclusive_ack = 0x1 | 0x4 | 0x400 | 0x200
    header = struct.pack("IHHII", 16 + len(body), 16, create_exclusive_ack, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        sock.send(header + body)
        (code,) = struct.unpack_from("i", sock.recv(4096), 16)
    if code:
        raise OSError(-code, f"add link {name}: {os.strerror(-code)}")


def host_network(argv: Sequence[str]) -> list[str]:
    """``argv`` wrapped so that it runs in the host's network instead of the session's."""
    if _host_net_fd is None:
        return list(argv)
    return ["nsenter", f"--net=/proc/{os.getpid()}/fd/{_host_net_fd}", *argv]


def die_with_parent() -> None:
    """Ask the kernel to SIGKILL this process when its parent's thread ends: prctl(2)."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")


def run_isolated(body: Callable[[], T], flags: int) -> T:
    """Run ``body`` in a forked child with new namespaces and return its (picklable) result.

    With ``CLONE_NEWNS`` every mount is private; with ``CLONE_NEWNET`` the loopback link is up; with
    ``CLONE_NEWPID`` the body is process 1. An exception in the body is raised here, with the child's
    traceback as a note.
    """
    read_fd, write_fd = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_fd)
        _child(body, flags, write_fd)
    os.close(write_fd)
    with open(read_fd, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if not answer:
        code = os.waitstatus_to_exitcode(status)
        message = f"the isolated body ended with {code} and no answer"
        raise RuntimeError(message)
    ok, value, trace = pickle.loads(answer)
    if ok:
        result: T = value
        return result
    value.add_note(trace)
    raise value


def _child(body: Callable[[], Any], flags: int, write_fd: int) -> NoReturn:
    try:
        die_with_parent()
        unshare(flags)
        if flags & CLONE_NEWPID:
            inner = os.fork()
            if inner:
                os.close(write_fd)
                os.waitpid(inner, 0)
                os._exit(0)
        if flags & CLONE_NEWNS and not flags & CLONE_NEWUSER:
            mount("none", "/", flags=_MS_REC | _MS_PRIVATE)
        if flags & CLONE_NEWNET and not flags & CLONE_NEWUSER:
            set_link("lo")
        answer = pickle.dumps((True, body(), ""))
    except BaseException as error:  # noqa: BLE001 - a forked child; the next statement is _exit
        trace = traceback.format_exc()
        try:
            answer = pickle.dumps((False, error, trace))
            pickle.loads(answer)
        except Exception:  # noqa: BLE001 - the error itself cannot be sent
            answer = pickle.dumps((False, RuntimeError(repr(error)), trace))
    with open(write_fd, "wb") as pipe:
        pipe.write(answer)
    os._exit(0)
