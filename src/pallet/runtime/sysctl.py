"""Kernel parameters of a container's namespaces.

Owns   the writing; which names are allowed is the engine's decision.
Runs   in a container's init, before /proc/sys becomes read-only.
Spec   runtime-spec config-linux.md#sysctl.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pallet.runtime.failure import StartFailureError, reason

if TYPE_CHECKING:
    from collections.abc import Mapping


def apply(settings: Mapping[str, str]) -> None:
    """Write each ``a.b.c`` (or ``a/b/c``, where names hold dots) below /proc/sys.

    Raises:
        StartFailureError: no such parameter, or the kernel refuses the value.
    """
    for name, value in settings.items():
        path = "/proc/sys/" + (name if "/" in name else name.replace(".", "/"))
        try:
            with open(path, "wb", buffering=0) as file:
                file.write(value.encode())
        except OSError as error:
            message = f"error during container init: open {path}: {reason(error)}"
            raise StartFailureError(message, call="write", code=error.errno or 0,
                                    path=path) from error
