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
from pallet.linux import safepath

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pallet.runtime.rootfs import Prepared

_PER_MOUNT = m.MS_RDONLY | m.MS_NOSUID | m.MS_NODEV | m.MS_NOEXEC


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
        parsed = prepared.options
        m.mount("tmpfs", f"/proc/self/fd/{top_fd}", "tmpfs",
                flags=parsed.flags & _PER_MOUNT & ~m.MS_RDONLY, data="mode=755")
        tmpfs_fd = safepath.open_in_root(root_fd, prepared.mount.destination,
                                         os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fchdir(tmpfs_fd)
            done: set[str] = set()
            for controller, mount_point in self.v1.items():
                name = mount_point.rpartition("/")[2]
                if mount_point not in done:
                    done.add(mount_point)
                    os.mkdir(name, 0o755)
                    self._mount_controller(name, controller, mount_point, prepared)
                alias = controller.removeprefix("name=")
                if alias != name:
                    os.symlink(name, alias)
            if self.v2 is not None and self.namespaced:
                # As runc on a hybrid host: only a namespace keeps the rest of the tree out.
                os.mkdir("unified", 0o755)
                m.mount("cgroup2", "unified", "cgroup2", flags=parsed.flags & _PER_MOUNT)
            if not self.namespaced:
                _set_all(tmpfs_fd, parsed.attributes())
        finally:
            os.close(tmpfs_fd)

    def _mount_controller(self, name: str, controller: str, mount_point: str,
                          prepared: Prepared) -> None:
        if self.namespaced:
            shared = [other for other, where in self.v1.items() if where == mount_point]
            m.mount("cgroup", name, "cgroup",
                    flags=prepared.options.flags & _PER_MOUNT, data=",".join(shared))
            return
        # The cwd is the tmpfs: by far the shortest way for nine hierarchies.
        m.mount(self.directories.get(controller, mount_point), name, flags=m.MS_BIND)


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
