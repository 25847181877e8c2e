"""User namespace mappings.

Owns   /proc/<pid>/{uid_map,gid_map,setgroups}.
Runs   in the shim, for the init it forked.
Needs  CAP_SETUID and CAP_SETGID in the parent user namespace.
Spec   user_namespaces(7); runtime-spec config-linux.md#user-namespace-mappings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

Range = tuple[int, int, int]
"""First id inside, first id outside, number of ids."""


def write(pid: int, uids: Sequence[Range], gids: Sequence[Range]) -> None:
    """Write both maps of the user namespace that ``pid`` has just made."""
    for name, ranges in (("gid_map", gids), ("uid_map", uids)):
        text = "".join(f"{inside} {outside} {size}\n" for inside, outside, size in ranges)
        # The kernel takes a map in one write only.
        with open(f"/proc/{pid}/{name}", "wb", buffering=0) as file:
            file.write(text.encode())
