"""What a container sees at /sys/fs/cgroup.

Owns   the mounts of one ``cgroup`` entry, for version 1, version 2 and hybrid hosts.
Runs   in a container's init, after it joined its cgroup and, if it has one, its cgroup namespace.
Spec   runtime-spec config-linux.md#cgroups-path, config.md#mounts (type ``cgroup``).

With a cgroup namespace the hierarchies are mounted afresh and show the container's cgroup as their
root. Without one the container's own directory of each hierarchy is bind-mounted.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pallet.linux import mount as m
from pallet.linux import namespaces, safepath

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pallet.runtime.options import MountOptions
    from pallet.runtime.rootfs import Prepared

_ANYWHERE = "/dev"
"""A directory that is there on every host, and below which nothing is looked for."""
_PER_MOUNT = m.MS_RDONLY | m.MS_NOSUID | m.MS_NODEV | m.MS_NOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The mounts of one cgroup as a detached tree."""

    tree_fd: int
    options: MountOptions
    """That they were made with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupSource:
    """The hierarchies as the host has them mounted."""

    v1: Mapping[str, str]
    """Controller, or ``name=…``, to mount point; several controllers may share one."""
    v2: str | None
    """Mount point of cgroup2."""
    directories: Mapping[str, str]
    """Controller to the container's directory on this host; "" is cgroup2's."""
    namespaced: bool
    ready: Ready | None = None
    """The mounts of version 1, made ahead."""

    def mount(self, root_fd: int, prepared: Prepared) -> None:
        """Carry out the mount ``prepared`` below ``root_fd``; may change the cwd."""
        destination = prepared.mount.destination
        top_fd = safepath.make_directories(root_fd, destination)
        try:
            if self.v1:
                self._mount_v1(root_fd, top_fd, prepared)
            else:
                self._mount_v2(top_fd, prepared)
        finally:
            os.close(top_fd)

    def _mount_v2(self, top_fd: int, prepared: Prepared) -> None:
        flags = prepared.options.flags & _PER_MOUNT
        if self.namespaced:
            m.mount("cgroup", f"/proc/self/fd/{top_fd}", "cgroup2", flags=flags,
                    data=",".join(prepared.options.data) or None)
            return
        _bind(self.directories[""], top_fd, prepared.options.attributes())

    def _mount_v1(self, root_fd: int, top_fd: int, prepared: Prepared) -> None:
        options = prepared.options
        if self.ready is not None and self.ready.options == options and not self.namespaced:
            m.attach_tree(self.ready.tree_fd, top_fd)
            return
        _mount_top(f"/proc/self/fd/{top_fd}", options)
        self.fill_v1(safepath.open_in_root(root_fd, prepared.mount.destination, os.O_RDONLY | os.O_DIRECTORY), options)

    def fill_v1(self, tmpfs_fd: int, options: MountOptions) -> None:
        """Mount what belongs into the tmpfs; ``tmpfs_fd`` is closed here."""
        try:
            os.fchdir(tmpfs_fd)
            done: set[str] = set()
            for controller, mount_point in self.v1.items():
                name = mount_point.rpartition("/")[2]
                if mount_point not in done:
                    done.add(mount_point)
                    os.mkdir(name, 0o755)
                    self._mount_controller(name, controller, mount_point, options)
                alias = controller.removeprefix("name=")
                if alias != name:
                    os.symlink(name, alias)
            if self.v2 is not None and self.namespaced:
                # As runc on a hybrid host: only a namespace keeps the rest of the tree out.
                os.mkdir("unified", 0o755)
                m.mount("cgroup2", "unified", "cgroup2", flags=options.flags & _PER_MOUNT)
            if not self.namespaced:
                _set_all(tmpfs_fd, options.attributes())
        finally:
            os.close(tmpfs_fd)

    def _mount_controller(self, name: str, controller: str, mount_point: str,
                          options: MountOptions) -> None:
        if self.namespaced:
            shared = [other for other, where in self.v1.items() if where == mount_point]
            m.mount("cgroup", name, "cgroup",
                    flags=options.flags & _PER_MOUNT, data=",".join(shared))
            return
        # The cwd is the tmpfs: by far the shortest way for nine hierarchies.
        m.mount(self.directories.get(controller, mount_point), name, flags=m.MS_BIND)


def make_ready(source: CgroupSource, options: MountOptions) -> Ready | None:
    """Make the mounts of version 1 for a container to come; None where they cannot be made ahead.

    Runs in a process with one thread, whose working directory becomes ``/``.

    Raises:
        OSError: they cannot be made, or this process cannot go back to its mount namespace.
    """
    if not source.v1 or source.namespaced:
        return None
    own_fd = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        namespaces.unshare(namespaces.CLONE_NEWNS)
        try:
            m.mount(None, "/", flags=m.MS_PRIVATE | m.MS_REC)
            _mount_top(_ANYWHERE, options)
            source.fill_v1(os.open(_ANYWHERE, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), options)
            return Ready(tree_fd=m.clone_tree(_ANYWHERE, recursive=True), options=options)
        finally:
            namespaces.setns(own_fd, namespaces.CLONE_NEWNS)
    finally:
        os.close(own_fd)


def _mount_top(path: str, options: MountOptions) -> None:
    m.mount("tmpfs", path, "tmpfs", flags=options.flags & _PER_MOUNT & ~m.MS_RDONLY, data="mode=755")


def _set_all(top_fd: int, attributes: int) -> None:
    """Give every mount of the tree ``attributes`` in one call; the tmpfs itself stays writable."""
    if attributes:
        m.set_attributes("", dir_fd=top_fd, attr_set=attributes, recursive=True)
    if attributes & m.Attr.RDONLY:
        m.set_attributes("", dir_fd=top_fd, attr_clear=m.Attr.RDONLY)


def _bind(directory: str, target_fd: int, attributes: int) -> None:
    tree_fd = m.clone_tree(directory, recursive=False)
    if attributes:
        m.set_attributes("", dir_fd=tree_fd, attr_set=attributes)
    m.attach_tree(tree_fd, target_fd)
    os.close(tree_fd)
