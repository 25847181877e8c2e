"""A root file system as a worker sees it: the merged tree, read-only or writable.

Owns   the mounts that workers make, all in a mount namespace of the worker's own.
Runs   in zygote children. ``private_mounts`` comes first: the zygote's namespace is the host's.
Needs  CAP_SYS_ADMIN.
Spec   mount_namespaces(7); Linux Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pallet.linux import mount as m
from pallet.linux import namespaces

if TYPE_CHECKING:
    from pallet.spec.mounts import RootMount

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


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
    options = [option for option in root.options if option != "volatile"]
    return _overlay(root.base_dir, ["lowerdir=" + ":".join(lower), *options], m.MS_RDONLY)


def open_writable(root: RootMount) -> int:
    """Mount ``root`` as a container's init does. Precondition: the container does not run."""
    if root.upper is None or not root.lower:
        return open_readonly(root)
    data = ["lowerdir=" + ":".join(root.lower), f"upperdir={root.upper}", f"workdir={root.work}"]
    options = [option for option in root.options if option != "volatile"]
    return _overlay(root.base_dir, [*data, *options], 0)


def _overlay(base_dir: str, options: list[str], flags: int) -> int:
    # The directory of all layers serves as mount point: in this namespace nobody else needs it,
    # and descriptors below the mount stay good.
    os.chdir(base_dir)
    m.mount("overlay", base_dir, "overlay", flags=flags, data=",".join(options))
    fd = os.open(base_dir, _DIRECTORY)
    m.unmount(base_dir, m.MNT_DETACH)
    return fd


def open_running(pidfd: int) -> int:
    """Return the root of a running container without what is mounted in it.

    It is the container's own mount, so that nothing of what it has written is missing.

    Raises:
        SyscallError: ESRCH when the process has ended.
    """
    own_fd = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        namespaces.setns(pidfd, namespaces.CLONE_NEWNS)
        try:
            tree_fd = m.clone_tree("/", recursive=False)
        finally:
            namespaces.setns(own_fd, namespaces.CLONE_NEWNS)
    finally:
        os.close(own_fd)
    try:
        return os.open(".", _DIRECTORY, dir_fd=tree_fd)
    finally:
        os.close(tree_fd)
