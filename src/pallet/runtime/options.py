"""Mount options: names in a configuration to flags of the kernel.

Owns   the table. Pure.
Runs   in a container's init.
Spec   runtime-spec config.md#linux-mount-options.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pallet.linux import mount as m

if TYPE_CHECKING:
    from collections.abc import Sequence

_SET = {
    "async": (False, m.MS_SYNCHRONOUS), "atime": (False, m.MS_NOATIME), "bind": (True, m.MS_BIND),
    "defaults": (True, 0), "dev": (False, m.MS_NODEV), "diratime": (False, m.MS_NODIRATIME),
    "dirsync": (True, m.MS_DIRSYNC), "exec": (False, m.MS_NOEXEC),
    "iversion": (True, m.MS_I_VERSION), "lazytime": (True, m.MS_LAZYTIME),
    "loud": (False, m.MS_SILENT), "mand": (True, m.MS_MANDLOCK), "noatime": (True, m.MS_NOATIME),
    "nodev": (True, m.MS_NODEV), "nodiratime": (True, m.MS_NODIRATIME),
    "noexec": (True, m.MS_NOEXEC), "noiversion": (False, m.MS_I_VERSION),
    "nolazytime": (False, m.MS_LAZYTIME), "nomand": (False, m.MS_MANDLOCK),
    "norelatime": (False, m.MS_RELATIME), "nostrictatime": (False, m.MS_STRICTATIME),
    "nosuid": (True, m.MS_NOSUID), "nosymfollow": (True, m.MS_NOSYMFOLLOW),
    "rbind": (True, m.MS_BIND | m.MS_REC), "relatime": (True, m.MS_RELATIME),
    "remount": (True, m.MS_REMOUNT), "ro": (True, m.MS_RDONLY), "rw": (False, m.MS_RDONLY),
    "silent": (True, m.MS_SILENT), "strictatime": (True, m.MS_STRICTATIME),
    "suid": (False, m.MS_NOSUID), "symfollow": (False, m.MS_NOSYMFOLLOW),
    "sync": (True, m.MS_SYNCHRONOUS),
}

PROPAGATION = {
    "private": (m.MS_PRIVATE, False), "rprivate": (m.MS_PRIVATE, True),
    "shared": (m.MS_SHARED, False), "rshared": (m.MS_SHARED, True),
    "slave": (m.MS_SLAVE, False), "rslave": (m.MS_SLAVE, True),
    "unbindable": (m.MS_UNBINDABLE, False), "runbindable": (m.MS_UNBINDABLE, True),
}
"""Name to flag and "with everything below"."""

_RECURSIVE = {
    "rro": (True, m.Attr.RDONLY), "rrw": (False, m.Attr.RDONLY),
    "rnosuid": (True, m.Attr.NOSUID), "rsuid": (False, m.Attr.NOSUID),
    "rnodev": (True, m.Attr.NODEV), "rdev": (False, m.Attr.NODEV),
    "rnoexec": (True, m.Attr.NOEXEC), "rexec": (False, m.Attr.NOEXEC),
    "rnosymfollow": (True, m.Attr.NOSYMFOLLOW), "rsymfollow": (False, m.Attr.NOSYMFOLLOW),
}

_ATTRIBUTES = (
    (m.MS_RDONLY, m.Attr.RDONLY), (m.MS_NOSUID, m.Attr.NOSUID), (m.MS_NODEV, m.Attr.NODEV),
    (m.MS_NOEXEC, m.Attr.NOEXEC), (m.MS_NODIRATIME, m.Attr.NODIRATIME),
    (m.MS_NOSYMFOLLOW, m.Attr.NOSYMFOLLOW),
)


@dataclass(slots=True)
class MountOptions:
    """What one mount's list of options asks for."""

    flags: int = 0
    cleared: int = 0
    """Flags an option such as ``rw`` or ``exec`` asks to be off."""
    propagation: list[tuple[int, bool]] = field(default_factory=list)
    recursive_set: int = 0
    recursive_clear: int = 0
    copy_up: bool = False
    data: list[str] = field(default_factory=list)
    """Options for the file system itself."""

    def attributes(self) -> int:
        """The MOUNT_ATTR_* bits of ``flags``."""
        attr = sum(bit for flag, bit in _ATTRIBUTES if self.flags & flag)
        if self.flags & m.MS_NOATIME:
            return attr | m.Attr.NOATIME
        return attr | m.Attr.STRICTATIME if self.flags & m.MS_STRICTATIME else attr

    def cleared_attributes(self) -> int:
        """The MOUNT_ATTR_* bits to take away; with a time mode set, its old value too."""
        attr = sum(bit for flag, bit in _ATTRIBUTES if self.cleared & flag)
        times = m.MS_NOATIME | m.MS_STRICTATIME | m.MS_RELATIME
        return attr | m.Attr.ATIME_MASK if (self.flags | self.cleared) & times else attr


def parse(options: Sequence[str]) -> MountOptions:
    """Sort ``options`` into flags, propagation, recursive attributes and data; a later one wins."""
    parsed = MountOptions()
    for option in options:
        if (known := _SET.get(option)) is not None:
            on, flag = known
            parsed.flags = parsed.flags | flag if on else parsed.flags & ~flag
            parsed.cleared = parsed.cleared & ~flag if on else parsed.cleared | flag
        elif (change := PROPAGATION.get(option)) is not None:
            parsed.propagation.append(change)
        elif (attribute := _RECURSIVE.get(option)) is not None:
            on, bit = attribute
            parsed.recursive_set = (
                parsed.recursive_set | bit if on else parsed.recursive_set & ~bit)
            parsed.recursive_clear = (
                parsed.recursive_clear & ~bit if on else parsed.recursive_clear | bit)
        elif option == "tmpcopyup":
            parsed.copy_up = True
        else:
            parsed.data.append(option)
    return parsed
