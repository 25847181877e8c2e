"""A mount that shows layers, or a file or directory of them, inside a container.

Owns   the mount type ``pallet.layers`` of Pallet's own: the stages of a build that a step has mounted.
Runs   in a container's init, between its unshare(2) and its exec.
Needs  CAP_SYS_ADMIN.
Spec   Linux Documentation/filesystems/overlayfs.rst. Options: ``lower=a:b`` (topmost first, relative
       to the mount's source), ``upper=``, ``work=``, ``subpath=/x``, ``option=`` for overlay's own.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pallet.linux import mount as m
from pallet.linux import safepath

if TYPE_CHECKING:
    from collections.abc import Sequence

TYPE = "pallet.layers"


def attach(root_fd: int, base_dir: str, destination: str, options: Sequence[str]) -> None:
    """Mount it at ``destination`` below the root. Precondition: nothing reaches the host any more.

    The working directory is changed.

    Raises:
        SyscallError: the subpath does not exist, or the kernel refuses.
    """
    given = dict(item.partition("=")[::2] for item in options if not item.startswith("option="))
    further = [item.removeprefix("option=") for item in options if item.startswith("option=")]
    lower = given["lower"].split(":")
    tree_fd = _open(base_dir, lower, given, further)
    try:
        if "ro" in given:
            m.set_attributes("", dir_fd=tree_fd, attr_set=m.Attr.RDONLY)
        make = safepath.make_directories if safepath.is_directory(tree_fd) else safepath.make_file
        target_fd = make(root_fd, destination)
        m.attach_tree(tree_fd, target_fd)
        os.close(target_fd)
    finally:
        os.close(tree_fd)


def _open(base_dir: str, lower: list[str], given: dict[str, str], further: list[str]) -> int:
    """Return a detached copy of the mount, or of a part of it."""
    subpath = given.get("subpath") or "/"
    if len(lower) == 1 and "upper" not in given:
        return _part(os.path.join(base_dir, lower[0]), subpath)
    os.chdir(base_dir)
    data = ["lowerdir=" + ":".join(lower), *further]
    if "upper" in given:
        data += [f"upperdir={given['upper']}", f"workdir={given['work']}"]
    # The directory of all layers serves as mount point, seen by nobody else, until the copy is made.
    m.mount("overlay", base_dir, "overlay", data=",".join(data))
    try:
        return _part(base_dir, subpath)
    finally:
        m.unmount(base_dir, m.MNT_DETACH)


def _part(directory: str, subpath: str) -> int:
    root_fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        part_fd = safepath.open_in_root(root_fd, subpath)
    finally:
        os.close(root_fd)
    try:
        return m.clone_tree("", dir_fd=part_fd, recursive=False)
    finally:
        os.close(part_fd)
