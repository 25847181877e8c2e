"""Mount points that every container has, below the layers of every image.

Owns   one small tree beside the snapshots, shared read-only by all containers as their lowest layer.
Runs   in the daemon.

The runtime makes what it mounts on where the image lacks it. Made in the container's own writable
layer, ``/dev``, ``/etc/hosts`` and their like would show in ``docker diff`` and go into committed
images. Docker keeps them in an "init layer" of each container; the content is always the same.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from pallet.spec.mounts import RootMount

NAME = "stubs"
"""Directory in the one that holds the snapshots."""
DIRECTORIES = ("dev", "dev/pts", "dev/shm", "etc", "proc", "sys")
FILES = (".dockerenv", "dev/console", "etc/hostname", "etc/hosts", "etc/resolv.conf")
LINKS = {"etc/mtab": "/proc/mounts"}
_MODE = 0o755


def make_stubs(root: str) -> None:
    """Make the tree at ``root``; one that is there is completed. Idempotent."""
    for name in ("", *DIRECTORIES):
        os.makedirs(f"{root}/{name}", mode=_MODE, exist_ok=True)
        os.chmod(f"{root}/{name}", _MODE)
    for name in FILES:
        fd = os.open(f"{root}/{name}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, _MODE)
        os.fchmod(fd, _MODE)
        os.close(fd)
    for name, target in LINKS.items():
        if not os.path.lexists(f"{root}/{name}"):
            os.symlink(target, f"{root}/{name}")


def under(root: RootMount) -> RootMount:
    """Put the stubs below the layers of a container's overlay; a plain copy stays as it is."""
    if root.upper is None or not root.lower:
        return root
    return msgspec.structs.replace(root, lower=[*root.lower, NAME])
