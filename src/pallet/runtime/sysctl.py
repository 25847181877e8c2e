"""Kernel parameters of a container's namespaces.

Owns   which may be set, and the writing.
Runs   in a container's init: the check in the runtime's own namespaces, the writing before /proc/sys becomes read-only.
Spec   runtime-spec config-linux.md#sysctl; runc's validator.

A parameter that no namespace of the container's own has is the host's: it is refused, whoever asks.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pallet.runtime.failure import StartFailureError, reason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pallet.spec.runtime import Namespace

_IPC = frozenset({"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax",
                  "kernel.shmmni", "kernel.shm_rmid_forced"})
_HOSTNAME = "kernel.hostname"
_DOMAIN = "kernel.domainname"


def check(settings: Mapping[str, str], namespaces: Sequence[Namespace], netns_fd: int = -1) -> None:
    """Refuse what is not the container's alone.

    Precondition: called in the namespaces of the host.

    Args:
        netns_fd: network namespace that is joined instead of what ``namespaces`` say; -1 for none.

    Raises:
        StartFailureError: with runc's words.
    """
    own = {namespace.type for namespace in namespaces if not _is_hosts(namespace.type, namespace.path)}
    if netns_fd >= 0 and not _is_hosts("network", f"/proc/self/fd/{netns_fd}"):
        own.add("network")
    for name in settings:
        key = _dotted(name)
        problem = ""
        if key in _IPC or key.startswith("fs.mqueue."):
            problem = "" if "ipc" in own else "is not allowed in the hosts ipc namespace"
        elif key.startswith("net."):
            problem = "" if "network" in own else "not allowed in host network namespace"
        elif key == _HOSTNAME and "uts" in own:
            problem = 'is not allowed as it conflicts with the OCI "hostname" field'
        elif not (key == _DOMAIN and "uts" in own):
            problem = "is not in a separate kernel namespace"
        if problem:
            message = f'sysctl "{key}" {problem}'
            raise StartFailureError(message)


def apply(settings: Mapping[str, str]) -> None:
    """Write each below /proc/sys.

    Raises:
        StartFailureError: no such parameter, or the kernel refuses the value.
    """
    for name, value in settings.items():
        path = "/proc/sys/" + _dotted(name).translate(_SWAPPED)
        try:
            with open(path, "wb", buffering=0) as file:
                file.write(value.encode())
        except OSError as error:
            message = f"error during container init: open {path}: {reason(error)}"
            raise StartFailureError(message, call="write", code=error.errno or 0,
                                    path=path) from error


_SWAPPED = str.maketrans("./", "/.")


def _dotted(name: str) -> str:
    """``a/b.c/d`` as ``a.b/c.d``: whichever of the two comes first separates, the other is part of a name."""
    first = next((char for char in name if char in "./"), ".")
    return name if first == "." else name.translate(_SWAPPED)


def _is_hosts(kind: str, path: str) -> bool:
    """Whether a namespace that is joined is the host's."""
    if not path:
        return False
    try:
        return os.path.samestat(os.stat(path), os.stat(f"/proc/self/ns/{'net' if kind == 'network' else kind}"))
    except OSError:
        return False  # joining it will tell
