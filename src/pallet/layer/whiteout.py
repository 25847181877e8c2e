"""Whiteouts: how a layer's tar says "removed", and how overlay does.

Spec   image-spec layer.md#whiteouts; Linux Documentation/filesystems/overlayfs.rst
       "whiteouts and opaque directories".
"""

from __future__ import annotations

import os
import stat

PREFIX = b".wh."
META_PREFIX = b".wh..wh."
OPAQUE = b".wh..wh..opq"

TRUSTED = "trusted.overlay."
USER = "user.overlay."
"""Prefix of overlay's xattrs in a user namespace (mount option ``userxattr``)."""

_DEVICE = os.makedev(0, 0)


def make(name: bytes, dir_fd: int) -> None:
    """Make an overlay whiteout: a character device 0:0."""
    os.mknod(name, stat.S_IFCHR, _DEVICE, dir_fd=dir_fd)


def is_whiteout(status: os.stat_result) -> bool:
    """Whether a directory entry hides what is below it."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == _DEVICE


def is_opaque(path_or_fd: str | int) -> bool:
    """Whether a directory hides the directories of its name in the layers below."""
    for prefix in (TRUSTED, USER):
        try:
            if os.getxattr(path_or_fd, f"{prefix}opaque") == b"y":
                return True
        except OSError:
            continue
    return False


def is_overlay_xattr(name: bytes) -> bool:
    """An image must not speak to overlay: redirects would reach into other layers."""
    return name.startswith((b"trusted.overlay.", b"user.overlay."))
