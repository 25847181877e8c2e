"""A container's file systems: the root, every further mount, and the turn of ``/``.

Owns   the order of mounts in the container's own mount namespace; nothing is visible to the host.
Runs   in a container's init, between its unshare(2) and its exec.
Needs  CAP_SYS_ADMIN; Linux 5.12.
Spec   runtime-spec config.md#mounts, config-linux.md#default-filesystems, #masked-paths,
       #readonly-paths; mount_namespaces(7).

The bind mounts' sources are cloned first, while the namespace still shares its peer groups with
the host: only so can a ``shared`` or ``slave`` bind see later mounts of the host.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pallet.errors import SyscallError
from pallet.linux import mount as m
from pallet.linux import namespaces, safepath
from pallet.runtime import layerview
from pallet.runtime import options as mount_options
from pallet.runtime.copyup import copy_up
from pallet.runtime.failure import StartFailureError, reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pallet.runtime.cgroupmount import CgroupSource
    from pallet.runtime.options import MountOptions
    from pallet.spec.mounts import RootMount
    from pallet.spec.runtime import Mount, Spec

_CGROUP_TYPES = frozenset({"cgroup", "cgroup2"})
_KERNEL_TYPES = frozenset({"proc", "sysfs"})
_FOREIGN = re.compile(r"/proc/(\d+)/root(/.*)")


@dataclass(slots=True)
class Prepared:
    """One mount of the configuration, parsed; a bind with its detached clone."""

    mount: Mount
    options: MountOptions
    tree_fd: int = -1
    is_directory: bool = True

    @property
    def is_bind(self) -> bool:
        """A bind by type or by option, as runc sees it."""
        return self.mount.type == "bind" or bool(self.options.flags & m.MS_BIND)


def prepare(mounts: Sequence[Mount]) -> list[Prepared]:
    """Parse ``mounts`` and clone the sources of binds. Precondition: propagation is untouched.

    Raises:
        StartFailureError: a source does not exist.
    """
    return [_prepare_one(mount) for mount in mounts]


def _prepare_one(mount: Mount) -> Prepared:
    prepared = Prepared(mount, mount_options.parse(mount.options))
    if not prepared.is_bind:
        return prepared
    parsed = prepared.options
    if mount.type == "bind" and not parsed.flags & m.MS_BIND:
        parsed.flags |= m.MS_BIND
    try:
        tree_fd = _clone(mount.source, recursive=bool(parsed.flags & m.MS_REC))
        prepared.tree_fd = tree_fd
        prepared.is_directory = safepath.is_directory(tree_fd)
        _set_attributes(prepared)
    except SyscallError as error:
        raise _mount_failure(prepared, error) from error
    return prepared


def _clone(source: str, *, recursive: bool) -> int:
    """Clone the mount at ``source``; ``/proc/<pid>/root/…`` names one in that process's namespace.

    open_tree(2) takes only mounts of the caller's own namespace, so that one is entered meanwhile.
    """
    foreign = _FOREIGN.match(source)
    if foreign is None:
        return m.clone_tree(source, recursive=recursive)
    own_fd = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        namespaces.join_path(f"/proc/{foreign[1]}/ns/mnt", "mount")
        try:
            return m.clone_tree(foreign[2], recursive=recursive)
        finally:
            namespaces.setns(own_fd, namespaces.FLAGS["mount"])
    finally:
        os.close(own_fd)


def _set_attributes(prepared: Prepared) -> None:
    parsed, fd = prepared.options, prepared.tree_fd
    for flag, recursive in parsed.propagation:
        m.set_attributes("", dir_fd=fd, propagation=flag, recursive=recursive)
    if attr_set := parsed.attributes():
        # ``rw`` or ``exec`` alone leave a mount as its source is, as with mount(2).
        m.set_attributes("", dir_fd=fd, attr_set=attr_set,
                         attr_clear=parsed.cleared_attributes())
    if parsed.recursive_set or parsed.recursive_clear:
        m.set_attributes("", dir_fd=fd, attr_set=parsed.recursive_set,
                         attr_clear=parsed.recursive_clear, recursive=True)


def mount_root(root: RootMount | None, path: str, mount_point: str) -> int:
    """Mount the container's root on the directory ``mount_point``; return an O_PATH fd of it.

    Args:
        root: layers of an overlay; None binds ``path`` instead.

    The working directory is changed.
    """
    try:
        if root is None:
            _bind_root(path, mount_point)
        elif root.upper is None and len(root.lower) == 1:
            _bind_root(os.path.join(root.base_dir, root.lower[0]), mount_point)
            m.set_attributes(mount_point, attr_set=m.Attr.RDONLY)
        elif root.upper is not None and not root.lower:
            _bind_root(os.path.join(root.base_dir, root.upper), mount_point)
        else:
            _mount_overlay(root, mount_point)
        return os.open(mount_point, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StartFailureError.of(error, "error mounting the root file system") from error


def _bind_root(path: str, mount_point: str) -> None:
    tree_fd = m.clone_tree(path, recursive=True)
    target_fd = os.open(mount_point, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    m.attach_tree(tree_fd, target_fd)
    os.close(target_fd)
    os.close(tree_fd)


def _mount_overlay(root: RootMount, mount_point: str) -> None:
    os.chdir(root.base_dir)
    data = ["lowerdir=" + ":".join(root.lower)]
    if root.upper is not None:
        data += [f"upperdir={root.upper}", f"workdir={root.work}"]
        if "volatile" in root.options and root.work is not None:
            _forget_volatile(root.work)
    m.mount("overlay", mount_point, "overlay", data=",".join([*data, *root.options]))


def _forget_volatile(work: str) -> None:
    """Remove the mark that an unclean volatile mount left: its container asks for no durability.

    The kernel makes a directory and then a file in it; whichever was cut off, the directory alone is refused.
    """
    with suppress(FileNotFoundError):
        os.unlink(f"{work}/work/incompat/volatile/dirty")
    with suppress(FileNotFoundError):
        os.rmdir(f"{work}/work/incompat/volatile")


def attach(root_fd: int, prepared: Prepared) -> None:
    """Carry out one mount below the root. Cgroup mounts are ``attach_cgroup``'s.

    Raises:
        StartFailureError: in runc's words.
    """
    try:
        if prepared.is_bind:
            _attach_bind(root_fd, prepared)
        elif prepared.mount.type == layerview.TYPE:
            mount = prepared.mount
            layerview.attach(root_fd, mount.source, mount.destination, mount.options)
        else:
            _attach_filesystem(root_fd, prepared)
    except SyscallError as error:
        raise _mount_failure(prepared, error) from error


def _attach_bind(root_fd: int, prepared: Prepared) -> None:
    make = safepath.make_directories if prepared.is_directory else safepath.make_file
    destination = prepared.mount.destination
    target_fd = make(root_fd, destination)
    try:
        _refuse_proc(root_fd, destination)
        if safepath.is_directory(target_fd) != prepared.is_directory:
            # The kernel calls it EINVAL when descriptors are joined, and ENOTDIR in mount(2).
            raise SyscallError("mount", errno.ENOTDIR, destination)
        m.attach_tree(prepared.tree_fd, target_fd)
    finally:
        os.close(target_fd)
        os.close(prepared.tree_fd)


def _refuse_proc(root_fd: int, destination: str) -> None:
    """A bind over /proc would take away what the masks and later checks rely on."""
    if os.path.normpath(destination) == "/proc":
        rooted = os.readlink(f"/proc/self/fd/{root_fd}")
        text = f'"{rooted}/proc" cannot be mounted because it is not of type proc'
        raise StartFailureError(
            f'error during container init: error mounting to rootfs at "{destination}": {text}')


def _attach_filesystem(root_fd: int, prepared: Prepared) -> None:
    mount, parsed = prepared.mount, prepared.options
    target_fd = (_plain_directory(root_fd, mount) if mount.type in _KERNEL_TYPES
                 else safepath.make_directories(root_fd, mount.destination))
    try:
        lower_fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC,
                           dir_fd=target_fd) if parsed.copy_up else -1
        flags = parsed.flags if lower_fd < 0 else parsed.flags & ~m.MS_RDONLY
        data = list(parsed.data)
        if mount.type == "tmpfs" and not any(option.startswith("mode=") for option in data):
            # As runc: an unnamed mode is that of the directory below.
            data.append(f"mode={os.fstat(target_fd).st_mode & 0o7777:o}")
        m.mount(mount.source or mount.type, f"/proc/self/fd/{target_fd}", mount.type, flags=flags,
                data=",".join(data) or None)
        if lower_fd >= 0:
            _fill(root_fd, prepared, lower_fd)
    finally:
        os.close(target_fd)
    if parsed.propagation or parsed.recursive_set or parsed.recursive_clear:
        top_fd = safepath.open_in_root(root_fd, mount.destination)
        for flag, recursive in parsed.propagation:
            m.set_attributes("", dir_fd=top_fd, propagation=flag, recursive=recursive)
        if parsed.recursive_set or parsed.recursive_clear:
            m.set_attributes("", dir_fd=top_fd, attr_set=parsed.recursive_set,
                             attr_clear=parsed.recursive_clear, recursive=True)
        os.close(top_fd)


def _plain_directory(root_fd: int, mount: Mount) -> int:
    """Open the target of proc or sysfs, which only go on a real directory: an image's link must not move them."""
    try:
        return safepath.open_in_root(
            root_fd, mount.destination, os.O_PATH | os.O_DIRECTORY, symlinks=False)
    except SyscallError as error:
        if error.errno == errno.ENOENT:
            return safepath.make_directories(root_fd, mount.destination)
        message = (f'error during container init: error mounting "{mount.source}" to rootfs at '
                   f'"{mount.destination}": filesystem "{mount.type}" must be mounted on ordinary '
                   "directory")
        raise StartFailureError(message, path=mount.destination) from error


def _fill(root_fd: int, prepared: Prepared, lower_fd: int) -> None:
    upper_fd = safepath.open_in_root(
        root_fd, prepared.mount.destination, os.O_RDONLY | os.O_DIRECTORY)
    try:
        copy_up(lower_fd, upper_fd)
        if prepared.options.flags & m.MS_RDONLY:
            m.set_attributes("", dir_fd=upper_fd, attr_set=m.Attr.RDONLY)
    except OSError as error:
        raise StartFailureError.of(error, f"tmpcopyup {prepared.mount.destination}") from error
    finally:
        os.close(upper_fd)
        os.close(lower_fd)


def attach_cgroup(root_fd: int, prepared: Prepared, source: CgroupSource) -> None:
    """Carry out the cgroup mount. Precondition: the caller has joined its cgroup."""
    try:
        source.mount(root_fd, prepared)
    except SyscallError as error:
        raise _mount_failure(prepared, error) from error


def _mount_failure(prepared: Prepared, error: SyscallError) -> StartFailureError:
    mount = prepared.mount
    text = (f'error during container init: error mounting "{mount.source}" to rootfs at '
            f'"{mount.destination}": {error.call} {mount.source}:{mount.destination}')
    if prepared.is_bind:
        text += f", flags: {prepared.options.flags:#x}"
    return StartFailureError(f"{text}: {reason(error)}", call=error.call,
                             code=error.errno or 0, path=mount.destination)


def is_cgroup(prepared: Prepared) -> bool:
    """The mount shows the container's cgroup and waits until that was joined."""
    return prepared.mount.type in _CGROUP_TYPES


def pivot(root_fd: int) -> None:
    """Make ``root_fd`` the root and take the host's tree away."""
    try:
        os.fchdir(root_fd)
        # The old root ends up mounted over the new one, at the same place: no directory for it
        # is needed, and "." still names it (pivot_root(2), NOTES).
        m.pivot_root(".", ".")
        m.unmount(".", m.MNT_DETACH)
        os.chdir("/")
    except OSError as error:
        raise StartFailureError.of(error, "pivot_root") from error


def set_root_propagation(name: str) -> None:
    """Set the propagation of ``/`` (config-linux.md#rootfs-mount-propagation); "" leaves it."""
    if not name:
        return
    change = mount_options.PROPAGATION.get(name)
    if change is None:
        message = f"error during container init: rootfsPropagation={name} is not supported"
        raise StartFailureError(message)
    flag, recursive = change
    m.set_attributes("/", propagation=flag, recursive=recursive)


def protect(spec: Spec) -> None:
    """Mask paths, make paths read-only, and the root last. Precondition: after ``pivot``."""
    try:
        for path in spec.linux.readonly_paths:
            _make_readonly(path)
        for path in spec.linux.masked_paths:
            _mask(path)
        if spec.root is not None and spec.root.readonly:
            m.set_attributes("/", attr_set=m.Attr.RDONLY)
    except OSError as error:
        raise StartFailureError.of(error, "protecting paths") from error


def _make_readonly(path: str) -> None:
    try:
        m.mount(path, path, flags=m.MS_BIND | m.MS_REC)
    except SyscallError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return
        raise
    m.set_attributes(path, attr_set=m.Attr.RDONLY, recursive=True)


def _mask(path: str) -> None:
    # Looked at first: a file that cannot be bound on a directory costs an RCU grace period.
    try:
        if os.path.isdir(path):
            m.mount("tmpfs", path, "tmpfs", flags=m.MS_RDONLY, data="nr_blocks=1,nr_inodes=1")
        else:
            m.mount("/dev/null", path, flags=m.MS_BIND)
    except SyscallError as error:
        if error.errno != errno.ENOENT:
            raise
