"""How a container's root file system is put together: storage tells, the runtime mounts.

Owns   the one document that crosses from ``storage`` to ``runtime``; no I/O.
Runs   anywhere.
Spec   docs/dev/seams.md "spec/mounts.py"; Linux Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import msgspec


class RootMount(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An overlay, or a plain bind where there is one lower directory and no upper.

    The mounting process first changes to ``base_dir``, so that the option string of a deep image
    stays below the page that mount(2) takes.
    """

    base_dir: str
    """Absolute directory the other paths are relative to."""
    lower: list[str]
    """Read-only directories, topmost first. One may be absolute: ``/proc/<pid>/fd/<n>`` is an image
    mounted nowhere, held by the daemon. It is good for the next moment, not to be kept."""
    upper: str | None = None
    """Writable directory; None makes the root read-only."""
    work: str | None = None
    """Overlay's scratch directory beside ``upper``."""
    options: list[str] = []
    """Further overlay options, for example ``volatile`` or ``metacopy=on``."""
