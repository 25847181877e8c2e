"""A container's /dev: default devices, further nodes, links, and the terminal.

Owns   what goes into /dev after it was mounted.
Runs   in a container's init, after ``pivot``: every path here is the container's.
Needs  CAP_MKNOD, or the nodes cloned beforehand in a user namespace.
Spec   runtime-spec config-linux.md#default-devices, #devices, runtime-linux.md#dev-symbolic-links.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from pallet.errors import SyscallError
from pallet.linux import mount as m
from pallet.linux import pty
from pallet.runtime.failure import StartFailureError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pallet.spec.runtime import Device, Spec

DEFAULTS = (
    ("/dev/null", 1, 3), ("/dev/zero", 1, 5), ("/dev/full", 1, 7), ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9), ("/dev/tty", 5, 0),
)

_LINKS = (
    ("/proc/self/fd", "/dev/fd"), ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"), ("/proc/self/fd/2", "/dev/stderr"),
)

_KINDS = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}


def owns_dev(spec: Spec) -> bool:
    """True when /dev is a fresh file system of this container, which has to be filled."""
    for mount in spec.mounts:
        if mount.destination.rstrip("/") == "/dev":
            return mount.type != "bind"
    return False


def clone_nodes(spec: Spec) -> dict[str, int]:
    """Clone the host's nodes, for a user namespace, where mknod(2) is refused.

    Precondition: before ``pivot``. Returns path in the container -> tree descriptor.
    """
    paths = [path for path, _, _ in DEFAULTS] + [device.path for device in spec.linux.devices]
    trees: dict[str, int] = {}
    for path in paths:
        if path not in trees:
            try:
                trees[path] = m.clone_tree(path, recursive=False)
            except SyscallError as error:
                if error.errno != errno.ENOENT:
                    raise
    return trees


def populate(spec: Spec, nodes: Mapping[str, int]) -> None:
    """Make every node and link of /dev. Precondition: umask 0, ``owns_dev``.

    Args:
        nodes: trees to bind instead of making nodes, empty outside of a user namespace.

    Raises:
        StartFailureError: a node cannot be made.
    """
    try:
        own = {device.path for device in spec.linux.devices}
        for path, major, minor in DEFAULTS:
            if path not in own:
                _make_node(path, stat.S_IFCHR | 0o666, os.makedev(major, minor), nodes)
        _make_devices(spec.linux.devices, nodes)
        for target, link in _LINKS:
            _link(target, link)
        if os.path.exists("/proc/kcore"):
            _link("/proc/kcore", "/dev/core")
        if any(mount.type == "devpts" for mount in spec.mounts):
            _link("pts/ptmx", "/dev/ptmx")
    except OSError as error:
        raise StartFailureError.of(error, "error creating device nodes") from error


def _make_devices(devices: Sequence[Device], nodes: Mapping[str, int]) -> None:
    for device in devices:
        mode = 0o666 if device.file_mode is None else stat.S_IMODE(device.file_mode)
        parent = os.path.dirname(device.path)
        if not os.path.isdir(parent):
            os.makedirs(parent, 0o755)
        _make_node(device.path, _KINDS[device.type] | mode,
                   os.makedev(device.major, device.minor), nodes)
        if device.path not in nodes:
            if device.uid or device.gid:
                os.chown(device.path, device.uid or 0, device.gid or 0, follow_symlinks=False)
            # umask is 0, but chown(2) may have cleared set-id bits of an odd mode.
            os.chmod(device.path, mode)


def _make_node(path: str, mode: int, number: int, nodes: Mapping[str, int]) -> None:
    if (tree_fd := nodes.get(path)) is not None:
        target_fd = os.open(path, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        m.attach_tree(tree_fd, target_fd)
        os.close(target_fd)
        return
    try:
        os.mknod(path, mode, number)
    except FileExistsError:
        os.unlink(path)
        os.mknod(path, mode, number)


def _link(target: str, link: str) -> None:
    try:
        os.symlink(target, link)
    except FileExistsError:
        # A mount of the configuration may have put something there; then it stays.
        return


def open_terminal(height: int, width: int, *, console: bool) -> tuple[int, int]:
    """Open a terminal of the container's own devpts; return (master, terminal).

    Args:
        console: also mount the terminal on /dev/console (the main process only).

    Raises:
        StartFailureError: no devpts, or it is used up.
    """
    try:
        master_fd, terminal_fd = pty.open_pair("/dev/pts/ptmx")
        if height and width:
            pty.set_size(master_fd, height, width)
        if console:
            _bind_console(terminal_fd)
    except OSError as error:
        raise StartFailureError.of(error, "error opening a terminal") from error
    return master_fd, terminal_fd


def _bind_console(terminal_fd: int) -> None:
    flags = os.O_CREAT | os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC
    target_fd = os.open("/dev/console", flags, 0o644)
    tree_fd = m.clone_tree("", dir_fd=terminal_fd, recursive=False)
    m.attach_tree(tree_fd, target_fd)
    os.close(tree_fd)
    os.close(target_fd)
