"""A root file system as a worker sees it: the merged tree, read-only or writable.

Owns   the mounts that workers make, all in a mount namespace of the worker's own.
Runs   in zygote children. ``private_mounts`` comes first: the zygote's namespace is the host's.
Needs  CAP_SYS_ADMIN.
Spec   mount_namespaces(7); Linux Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from pallet.errors import SyscallError
from pallet.linux import mount as m
from pallet.linux import namespaces, safepath

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pallet.spec.mounts import RootMount

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Bind(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file or directory of the host at a place in the tree."""

    source: str
    destination: str
    read_only: bool = False


def private_mounts() -> None:
    """Move this process into a mount namespace that goes with it; nothing reaches the host."""
    namespaces.unshare(namespaces.CLONE_NEWNS)
    m.mount(None, "/", flags=m.MS_REC | m.MS_PRIVATE)


def open_readonly(root: RootMount) -> int:
    """Mount ``root`` without a way to write and return a descriptor of it.

    The upper directory becomes one more lower one: the container may be started meanwhile, and even
    an upper directory in use does no harm. Precondition: ``private_mounts``. Changes the working
    directory.

    Raises:
        SyscallError: the kernel refuses the mount.
    """
    lower = [*([] if root.upper is None else [root.upper]), *root.lower]
    if len(lower) == 1:
        return os.open(os.path.join(root.base_dir, lower[0]), _DIRECTORY)
    return _overlay(root.base_dir, _readonly_options(root), m.MS_RDONLY)


def _overlay(base_dir: str, options: list[str], flags: int) -> int:
    _mount_overlay(base_dir, options, flags)
    fd = os.open(base_dir, _DIRECTORY)
    m.unmount(base_dir, m.MNT_DETACH)
    return fd


def _mount_overlay(base_dir: str, options: list[str], flags: int) -> None:
    # The directory of all layers serves as mount point: in this namespace nobody else needs it,
    # and descriptors below the mount stay good.
    os.chdir(base_dir)
    m.mount("overlay", base_dir, "overlay", flags=flags, data=",".join(options))


def assemble(root: RootMount, binds: Sequence[Bind], *, pidfd: int = -1,
             writable: bool = False) -> int:
    """Mount a container's root and what it has bound into it; return a descriptor of it.

    Binds without a place in the tree get one if it is writable and are left out otherwise.
    Precondition: ``private_mounts``.

    Args:
        binds: from shallow to deep.
        pidfd: of the running container; -1 mounts the root anew.
        writable: the new mount is to be written to.

    Raises:
        SyscallError: ESRCH when the process behind ``pidfd`` has ended.
    """
    tree_fds = [m.clone_tree(bind.source, recursive=True) for bind in binds]
    _mount_root(root, pidfd, writable=writable)
    fd = os.open(root.base_dir, _DIRECTORY)
    for bind, tree_fd in zip(binds, tree_fds, strict=True):
        try:
            place_fd = _place(fd, bind.destination, tree_fd, make=writable)
        except SyscallError:
            continue  # a container that never ran has no mount points yet
        if bind.read_only:
            m.set_attributes("", dir_fd=tree_fd, attr_set=m.Attr.RDONLY, recursive=True)
        m.attach_tree(tree_fd, place_fd)
    return fd


def _place(root_fd: int, path: str, tree_fd: int, *, make: bool) -> int:
    if not make:
        return safepath.open_in_root(root_fd, path)
    if safepath.is_directory(tree_fd):
        return safepath.make_directories(root_fd, path)
    return safepath.make_file(root_fd, path)


def _mount_root(root: RootMount, pidfd: int, *, writable: bool) -> None:
    target_fd = os.open(root.base_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if pidfd >= 0:
        m.attach_tree(_clone_running(pidfd), target_fd)
    elif root.upper is None or not root.lower:
        plain = root.upper or root.lower[0]
        m.attach_tree(m.clone_tree(os.path.join(root.base_dir, plain), recursive=False), target_fd)
    elif writable:
        _mount_overlay(root.base_dir, _writable_options(root), 0)
    else:
        _mount_overlay(root.base_dir, _readonly_options(root), m.MS_RDONLY)
    os.close(target_fd)


def open_running(pidfd: int) -> int:
    """Return the root of a running container without what is mounted in it.

    It is the container's own mount, so that nothing of what it has written is missing.

    Raises:
        SyscallError: ESRCH when the process has ended.
    """
    tree_fd = _clone_running(pidfd)
    try:
        return os.open(".", _DIRECTORY, dir_fd=tree_fd)
    finally:
        os.close(tree_fd)


def _clone_running(pidfd: int) -> int:
    own_fd = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        namespaces.setns(pidfd, namespaces.CLONE_NEWNS)
        try:
            return m.clone_tree("/", recursive=False)
        finally:
            namespaces.setns(own_fd, namespaces.CLONE_NEWNS)
    finally:
        os.close(own_fd)


def _readonly_options(root: RootMount) -> list[str]:
    lower = [*([] if root.upper is None else [root.upper]), *root.lower]
    return ["lowerdir=" + ":".join(lower), *_durable(root)]


def _writable_options(root: RootMount) -> list[str]:
    return ["lowerdir=" + ":".join(root.lower), f"upperdir={root.upper}", f"workdir={root.work}",
            *_durable(root)]


def _durable(root: RootMount) -> list[str]:
    return [option for option in root.options if option != "volatile"]
