"""``container:ID`` modes: which namespaces of another container are joined.

Semantics rows "modes"; Engine API HostConfig.NetworkMode, PidMode, IpcMode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pallet.engine.status import Status
from pallet.errors import ConflictError, InvalidParameterError

if TYPE_CHECKING:
    from pallet.engine.container import Container
    from pallet.engine.index import ContainerIndex

_PROC_NAMES = {"network": "net", "pid": "pid", "ipc": "ipc"}


class Joins:
    """Resolves the containers that another one's modes name."""

    def __init__(self, index: ContainerIndex) -> None:
        self._index = index

    def donor(self, container: Container, kind: str) -> Container | None:
        """The container whose ``kind`` namespace is joined; None where none is.

        Raises:
            NotFoundError: there is no such container.
            ConflictError: it does not run.
            InvalidParameterError: its IPC namespace is private.
        """
        host = container.host_config
        mode = {"network": host.network_mode, "pid": host.pid_mode, "ipc": host.ipc_mode}[kind]
        prefix, _, name = mode.partition(":")
        if prefix != "container":
            return None
        donor = self._index.get(name)
        if donor.status is Status.RESTARTING:
            msg = f"container {donor.id} is restarting, wait until the container is running"
            raise ConflictError(msg)
        if donor.status not in {Status.RUNNING, Status.PAUSED}:
            what = {"network": "network", "pid": "PID", "ipc": "IPC"}[kind]
            msg = f"cannot join {what} of a non running container: {donor.id}"
            raise ConflictError(msg)
        if kind == "ipc" and donor.host_config.ipc_mode not in {"shareable", "host"}:
            msg = f"non-shareable IPC (hint: use IpcMode:shareable for the donor container) {donor.id}"
            raise InvalidParameterError(msg)
        return donor

    def resolve(self, container: Container) -> dict[str, str]:
        """Namespace type → path, for every joined namespace."""
        paths: dict[str, str] = {}
        for kind, name in _PROC_NAMES.items():
            donor = self.donor(container, kind)
            if donor is not None:
                paths[kind] = f"/proc/{donor.pid}/ns/{name}"
                if kind == "ipc":
                    paths["shm"] = f"/proc/{donor.pid}/root/dev/shm"
        return paths
